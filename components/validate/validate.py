"""The checks of a run's parameters where it runs: anyone may have changed them since the pipeline was compiled."""

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
"""URLs that KFP imports: those of which its launcher knows the store, and this project does too (kubeflow/pipelines
2.17.0, backend/src/v2/objectstore/config.go, ParseBucketPathToConfig)."""
_PAUSES = (2.0, 5.0)
"""Seconds between two looks at a store that fails."""


class Graph(BaseModel):
    """What the graph of a compiled pipeline takes for granted, whatever its parameters say.

    Attributes:
        pipeline: the name of the pipeline.
        read: the names of the settings that it reads.
        needed: parameters without which it has nothing to do.
        imported: parameters that were URLs when it was compiled, whose artifacts KFP imports.
        fingerprints_network: whether it looks at the file of a network before the training, of which KFP's cache would
            otherwise know the name only.
        fingerprints_task: whether it looks at the file that names channels and labels of a folder, for the same reason.
        trains: whether it trains, on all pods.
        predicts: whether it evaluates or segments.
        spans_pods: whether it does that in a job of all pods, and not in one.
        hardware: what a mesh can be made of.
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
        """Check what binds the settings of this pipeline alone.

        Raises:
            SettingsError: naming the parameter, its value and what was expected.
        """
        for name in self.needed:
            if not getattr(settings, name):
                raise SettingsError(
                    f"{name}: the pipeline was compiled to read it: expected a path or a URL. Received: ''. Compile it "
                    "again for a run without."
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
                "network: the pipeline was compiled for a network that is no file, and KFP's cache would not see when "
                f"one changes. Received: {settings.network!r}. Compile it again with this file."
            )
        if self.trains and _names_file(settings.task) != self.fingerprints_task:
            compiled = "with" if self.fingerprints_task else "without"
            raise SettingsError(
                f"task: the pipeline was compiled {compiled} a file that names channels and labels, and KFP's cache "
                f"would not see when one changes. Received: {settings.task!r}. Compile it again with this value."
            )
        settings.check_read(self.read)
        self.hardware.demand(settings, trains=self.trains, predicts=self.predicts)
        if self.predicts and self.hardware.spans_pods(settings, trains=self.trains) != self.spans_pods:
            name = "evaluation_mesh" if self.trains else "mesh"
            raise SettingsError(
                f"{name}: the pipeline was compiled to evaluate or segment in "
                f"{f'a job of {self.hardware.pods} pods' if self.spans_pods else 'one pod'}: expected a mesh for that. "
                f"Received: mesh {settings.mesh!r}, evaluation_mesh {settings.evaluation_mesh!r}. Compile it again."
            )


def validate_run(values: Mapping[str, Any], *, graph: str) -> None:
    """Check the parameters of a run as the command line does when it compiles, that what they name is there, and that
    the network, the loss and the optimizer can be made.

    Args:
        values: the settings by name, as KFP hands them over.
        graph: JSON of `Graph`.

    Raises:
        SettingsError: naming each parameter at fault, its value and what was expected.
        OtherCodeError: if the image has other code than the package.
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
                f"{place!r}, where nothing is."
            )
    check_run(known.pipeline, settings)
    console.result("validate", "the parameters of the run are valid")


def _names_file(task: str) -> bool:
    """Whether a setting `task` is the path or URL of a file."""
    return task not in ("", "lits")


def _exists(place: str) -> bool:
    """Whether something is there; a store that fails is asked again, for this step has but one attempt."""
    for seconds in _PAUSES:
        try:
            return storage.exists(place)
        except storage.StorageError as error:
            console.note("validate", f"{error} Trying again in {seconds:g} s")
            time.sleep(seconds)
    return storage.exists(place)


def places(settings: Settings) -> dict[str, str]:
    """By name of setting: the paths and URLs that a run reads."""
    given = {name: getattr(settings, name) for name in ("data", "model", "baseline")}
    given["task"] = settings.task if _names_file(settings.task) else ""
    given["network"] = settings.network if settings.network_source == "file" else ""
    return {name: place for name, place in given.items() if place}
