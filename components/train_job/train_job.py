"""Launching a training job, waiting for it, and taking over its model."""

import contextlib
import shutil
import signal
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.files import write_json
from components.train.settings import TrainingError, TrainingSettings
from components.train.train import metadata
from components.train_job.cluster_api import ClusterApi, ClusterApiError
from components.train_job.follow import Follower, outcome
from components.train_job.heartbeat import beat
from components.train_job.manifests import objects
from components.train_job.settings import JobSettings

_POLL_SECONDS = 10.0


def train_in_job(
    dataset: str,
    model: str,
    *,
    job: str,
    scratch: str | None,
    api: ClusterApi | None = None,
    poll: float = _POLL_SECONDS,
    **settings: Any,
) -> Mapping[str, Mapping[str, Any]]:
    """Train in a TrainJob or TFJob, whose pods are given the data set through a folder that all see.

    The job's name follows from the step's key. A step that is tried again after its pod was lost finds its job still
    running, and waits for it; one that failed is replaced, and goes on at the last backup.

    Args:
        dataset: folder of the step preprocess.
        model: folder to make, see `components.train.train.train_model`.
        job: JSON of `JobSettings`.
        scratch: folder on a volume that the pods of the job mount at the same path, and that outlives a failure.
        api: of Kubernetes; by default this pod's.
        poll: seconds between two looks at the job.
        settings: those of `TrainingSettings`.

    Raises:
        TrainingError: if the job fails, with its pods' errors and last lines.
        ClusterApiError: if Kubernetes refuses, for instance for want of rights.
    """
    wanted, given = TrainingSettings.of(settings), JobSettings.from_json(job)
    folder = _shared(scratch, given)
    _place(Path(dataset), folder / "dataset")
    heartbeat = folder / "heartbeat"
    description = write_json(
        folder / "job.json",
        {
            "dataset": str(folder / "dataset"),
            "model": str(folder / "model"),
            "work": str(folder / "work"),
            "heartbeat": str(heartbeat),
            "settings": asdict(wanted),
        },
    )
    api = api or ClusterApi.in_cluster()
    name = f"keras-spatial-{folder.name.rsplit('-', 1)[-1]}"
    parts = objects(name, given, ["python", "-m", "components.train.worker", str(description)])
    kind = parts[-1][0]
    with _deleted_at_the_end(api, name, parts):
        if not _running(api, name, parts):
            for resource, body in parts:
                api.create(resource, body)
            print(f"train_job: created {kind.kind} {name}, {given.nodes} pods", flush=True)
        Follower(api, kind, name, given, poll, alive=lambda: beat(heartbeat)).wait()
    shutil.copytree(folder / "model", model, dirs_exist_ok=True)
    return {"model": metadata(model)}


def _shared(scratch: str | None, job: JobSettings) -> Path:
    """The folder that launching step and pods share.

    Raises:
        TrainingError: if there is none, or it lies on none of the job's volumes.
    """
    mounts = list(job.volumes.values())
    if scratch is None or not any(Path(scratch).is_relative_to(mount) for mount in mounts):
        raise TrainingError(
            "scratch: a job of several pods needs a folder on one of its volumes, which all its pods mount. Received: "
            f"{scratch!r}, volumes mounted at {mounts}. Set scratch and volumes in the cluster file."
        )
    return Path(scratch)


def _place(source: Path, target: Path) -> None:
    """Copy a folder, unless an earlier attempt has; it appears when it is complete."""
    if target.exists():
        return
    part = target.with_name(f".part-{target.name}")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source, part)
    part.rename(target)


def _running(api: ClusterApi, name: str, parts: list) -> bool:
    """Whether an earlier attempt's job still runs; one that has ended is deleted first."""
    kind = parts[-1][0]
    try:
        state, _ = outcome(api.get(kind, name))
    except ClusterApiError as error:
        if error.status != 404:
            raise
        return False
    if state not in ("Failed", "Complete"):
        print(f"train_job: {kind.kind} {name} of an earlier attempt is running; waiting for it", flush=True)
        return True
    _delete(api, name, parts)
    return False


@contextlib.contextmanager
def _deleted_at_the_end(api: ClusterApi, name: str, parts: list) -> Iterator[None]:
    """Whatever happens, an ending signal included, the job does not outlive its step."""

    def end(number: int, frame: Any) -> None:
        raise TrainingError(f"{name}: the step was ended by {signal.Signals(number).name}; its job is deleted.")

    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            _delete(api, name, parts)
        finally:
            signal.signal(signal.SIGTERM, previous)


def _delete(api: ClusterApi, name: str, parts: list) -> None:
    for resource, _ in reversed(parts):
        api.delete(resource, name)
