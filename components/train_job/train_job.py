"""Launching a training job, waiting for it, and taking over its model."""

import contextlib
import shutil
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import ascii_lowercase, digits
from typing import Any

from components import storage
from components.train.settings import TrainingError, TrainingSettings
from components.train.train import metadata
from components.train_job.cluster_api import ClusterApi, ClusterApiError
from components.train_job.follow import Follower
from components.train_job.heartbeat import LIMIT_SECONDS, beat
from components.train_job.lifecycle import Lifecycle
from components.train_job.manifests import objects
from components.train_job.settings import JobSettings

_POLL_SECONDS = 10.0


def train_in_job(
    dataset: str,
    model: str,
    *,
    job: str,
    scratch: str | None,
    network_files: str = "",
    loss_files: str = "",
    api: ClusterApi | None = None,
    poll: float = _POLL_SECONDS,
    **settings: Any,
) -> Mapping[str, Mapping[str, Any]]:
    """Train in a TrainJob or TFJob, whose pods are given the data set through a folder that all see.

    The job's name follows from the run and the step's key. A step that is tried again after its pod was lost finds its
    job still running, and waits for it; one that failed is replaced, and resumes at the last backup.

    Args:
        dataset: folder of the step preprocess, or its URL.
        model: folder to make, see `components.train.train.train_model`.
        job: JSON of `JobSettings`.
        scratch: folder on a volume that the pods of the job mount at the same path, or a URL; it outlives a failure.
        network_files, loss_files: take part in the step's key alone: the pods read the file or the code that the
            settings name, from a volume, a URL or the image.
        api: The API of Kubernetes; by default this pod's.
        poll: seconds between two looks at the job.
        settings: those of `TrainingSettings`.

    Raises:
        TrainingError: if the job fails, with its pods' errors and last lines.
        ClusterApiError: if Kubernetes refuses, for instance for want of rights.
    """
    wanted, given = TrainingSettings.model_validate(settings), JobSettings.from_json(job)
    folder = _shared(scratch, given)
    heartbeat = storage.join(folder, "heartbeat")
    description = storage.join(folder, "job.json")
    storage.write_json(
        description,
        {
            "dataset": _visible(dataset, folder, given),
            "model": storage.join(folder, "model"),
            "work": storage.join(folder, "work"),
            "heartbeat": heartbeat,
            "settings": wanted.model_dump(mode="json"),
        },
    )
    api = api or ClusterApi.in_cluster()
    name = job_name(folder)
    parts = objects(name, given, ["python", "-m", "components.train.worker", description], api.owner())
    kind = parts[-1][0]
    lifecycle = Lifecycle(api, name, parts, first_pause=min(1.0, poll))
    with _removed_at_the_end(lifecycle, name):
        if lifecycle.ensure():
            print(f"train_job: created {kind.kind} {name}, {given.nodes} pods", flush=True)
        Follower(api, kind, name, given, poll, alive=lambda: beat(heartbeat)).wait()
    made = storage.local(storage.join(folder, "model"), Path(model).with_name(".downloaded"))
    shutil.copytree(made, model, dirs_exist_ok=True)
    return {"model": metadata(model)}


def _shared(scratch: str | None, job: JobSettings) -> str:
    """The folder that launching step and pods share.

    Raises:
        TrainingError: if there is none, or it lies on none of the job's volumes.
    """
    if scratch is not None and (storage.is_url(scratch) or _mounted(scratch, job)):
        return scratch
    raise TrainingError(
        "scratch: a job of several pods needs a folder on one of its volumes, which all its pods mount, or a URL. "
        f"Received: {scratch!r}, volumes mounted at {list(job.volumes.values())}. Set scratch and volumes in the "
        "cluster file."
    )


def _mounted(path: str, job: JobSettings) -> bool:
    return any(Path(path).is_relative_to(mount) for mount in job.volumes.values())


def _visible(dataset: str, folder: str, job: JobSettings) -> str:
    """Where the job's pods see the data set: where it is, or else a copy in the folder that they share."""
    if storage.is_url(dataset) or _mounted(dataset, job):
        return dataset
    target = storage.join(folder, "dataset")
    if storage.is_url(target):
        complete = storage.join(folder, "dataset.complete")
        if storage.read_json(complete) is None:
            storage.upload(dataset, target)
            storage.write_json(complete, True)
    else:
        _place(Path(dataset), Path(target))
    return target


def _place(source: Path, target: Path) -> None:
    """Copy a folder, unless an earlier attempt has; it appears when it is complete."""
    if target.exists():
        return
    part = target.with_name(f".part-{target.name}")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source, part)
    part.rename(target)


@contextlib.contextmanager
def _removed_at_the_end(lifecycle: Lifecycle, name: str) -> Iterator[None]:
    """However the step ends, its job is deleted. Where that is not possible the job ends without its signs of life.

    KFP's launcher does not wait for its child when it is told to end, and the container ends with it
    (kubeflow/pipelines 2.17.0, backend/src/v2/component/launcher_v2.go, `command.Run`): the signal's handler then has
    milliseconds. What it does not reach, the owner of the objects and the signs of life do.
    """

    def end(number: int, frame: Any) -> None:
        raise TrainingError(f"{name}: the step was ended by {signal.Signals(number).name}; its job is deleted.")

    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            lifecycle.remove()
        except ClusterApiError as error:
            print(
                f"train_job: {error}; the job ends by itself within {LIMIT_SECONDS:.0f} s without the signs of life of "
                "this step, and Kubernetes deletes it with the run",
                flush=True,
            )
        finally:
            signal.signal(signal.SIGTERM, previous)


def job_name(scratch: str) -> str:
    """The name of a job by its scratch folder `<run>/train_job-<key>`: two runs of the same pipeline have two jobs."""
    parent, _, own = scratch.rpartition("/")
    run = "".join(c for c in parent.rpartition("/")[2].lower() if c in ascii_lowercase + digits)[:8]
    return f"keras-spatial-{run or 'run'}-{own.rpartition('-')[2]}"
