"""Check the parameters of a run on the cluster, because they may have been changed since the pipeline was compiled."""

import time
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from components import console, storage
from components.checking import check_run
from components.resume import check_code
from components.validate.hardware import Hardware
from components.validate.settings import Settings, SettingsError, check

IMPORTED = ("gs://", "s3://")
"""The URLs that KFP imports: those of stores that both its launcher and this project can read (kubeflow/pipelines
2.17.0, backend/src/v2/objectstore/config.go, ParseBucketPathToConfig)."""
_PAUSES = (2.0, 5.0)
"""The seconds between attempts to read a store that fails."""


class Graph(BaseModel):
    """The decisions in the graph of a compiled pipeline, which its parameters can no longer change.

    Attributes:
        pipeline: the name of the pipeline.
        read: the names of the settings that the pipeline reads.
        needed: the parameters that must not be empty.
        imported: the parameters that were URLs at compilation, whose artifacts KFP imports.
        fingerprints_network: whether a step computes the digest of the network's file before the training, without
            which KFP's cache would know only its name.
        fingerprints_task: whether a step computes the digest of the file that names channels and labels, for the same
            reason.
        trains: whether the pipeline trains, which it does in all pods.
        predicts: whether the pipeline evaluates or segments.
        spans_pods: whether it evaluates or segments in a job of all pods, rather than in one pod.
        hardware: the hardware of the cluster.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pipeline: str
    read: tuple[str, ...]
    needed: tuple[str, ...] = ()
    imported: tuple[str, ...] = ()
    fingerprints_network: bool = False
    fingerprints_task: bool = False
    trains: bool
    predicts: bool
    spans_pods: bool
    hardware: Hardware

    def check(self, settings: Settings) -> None:
        """Check the settings against this pipeline.

        Raises:
            SettingsError: if a parameter does not fit; the message names it, its value and what was expected.
        """
        for name in self.needed:
            if not getattr(settings, name):
                raise SettingsError(
                    f"{name}: the pipeline was compiled to read it: expected a path or a URL. Received: ''. Compile it "
                    "again for a run without it."
                )
        for name in self.imported:
            place = getattr(settings, name)
            if not place.startswith(IMPORTED):
                raise SettingsError(
                    f"{name}: the pipeline was compiled for a URL, which Kubeflow Pipelines imports: expected "
                    f"{' or '.join(f'{scheme}...' for scheme in IMPORTED)}. Received: {place!r}. Compile it again for "
                    "a path."
                )
        if self.trains and settings.network_source == "file" and not self.fingerprints_network:
            raise SettingsError(
                "network: the pipeline was compiled for a network that is not a file, so KFP's cache would not notice "
                f"when the file changes. Received: {settings.network!r}. Compile it again with this file."
            )
        if self.trains and _names_file(settings.task) != self.fingerprints_task:
            compiled = "with" if self.fingerprints_task else "without"
            raise SettingsError(
                f"task: the pipeline was compiled {compiled} a file that names channels and labels, so KFP's cache "
                f"would not notice when the file changes. Received: {settings.task!r}. Compile it again with this "
                "value."
            )
        settings.check_read(self.read)
        self.hardware.demand(settings, trains=self.trains, predicts=self.predicts)
        if self.predicts and self.hardware.spans_pods(settings, trains=self.trains) != self.spans_pods:
            name = "evaluation_mesh" if self.trains else "mesh"
            raise SettingsError(
                f"{name}: the pipeline was compiled to evaluate or segment in "
                f"{f'a job of {self.hardware.pods} pods' if self.spans_pods else 'one pod'}: expected a mesh that fits "
                f"there. Received: mesh {settings.mesh!r}, evaluation_mesh {settings.evaluation_mesh!r}. Compile it "
                "again."
            )


def validate_run(values: Mapping[str, Any], *, graph: str) -> None:
    """Check the parameters of a run by the same rules as the command line, and check that the files that they name
    exist and that network, loss and optimizer can be made.

    Args:
        values: the settings by name, as KFP passes them.
        graph: the JSON of a `Graph`.

    Raises:
        SettingsError: if parameters are wrong; the message names each of them, its value and what was expected.
        OtherCodeError: if the code of the image is not the code from which the package was compiled.
        VolumeError: if there are no cases in the folder.
    """
    check_code()
    settings, known = check(values), Graph.model_validate_json(graph)
    known.check(settings)
    for name, place in places(settings).items():
        try:
            there = _exists(place)
        except storage.StorageError as error:
            raise SettingsError(f"{name}: {error}") from error
        if not there:
            raise SettingsError(
                f"{name}: expected a file or a folder, on a volume that this step mounts or at a URL. Received: "
                f"{place!r}, where there is nothing."
            )
    check_run(known.pipeline, settings)
    console.result("validate", "the parameters of the run are valid")


def _names_file(task: str) -> bool:
    """Whether a setting `task` is the path or URL of a file."""
    return task not in ("", "lits")


def _exists(place: str) -> bool:
    """Whether a path or URL exists. A store that fails is asked again, because KFP does not retry this step."""
    for seconds in _PAUSES:
        try:
            return storage.exists(place)
        except storage.StorageError as error:
            console.note("validate", f"{error} Trying again in {seconds:g} s")
            time.sleep(seconds)
    return storage.exists(place)


def places(settings: Settings) -> dict[str, str]:
    """The paths and URLs that a run reads, by the names of their settings."""
    given = {name: getattr(settings, name) for name in ("data", "model", "baseline")}
    given["task"] = settings.task if _names_file(settings.task) else ""
    given["network"] = settings.network if settings.network_source == "file" else ""
    return {name: place for name, place in given.items() if place}
