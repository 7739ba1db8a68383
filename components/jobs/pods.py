"""Launching a job of several pods, waiting for it, and taking over what it has made."""

import contextlib
import shutil
import signal
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from string import ascii_lowercase, digits
from typing import Any

from components import storage
from components.jobs.cluster_api import ClusterApi, ClusterApiError
from components.jobs.description import Description, JobError
from components.jobs.follow import Follower
from components.jobs.heartbeat import LIMIT_SECONDS, beat
from components.jobs.lifecycle import Lifecycle
from components.jobs.manifests import objects
from components.jobs.settings import JobSettings

POLL_SECONDS = 10.0


def run_in_pods(
    job: Description,
    pods: JobSettings,
    scratch: str | None,
    api: ClusterApi | None = None,
    poll: float = POLL_SECONDS,
    *,
    urls: bool = True,
) -> Mapping[str, Mapping[str, Any]]:
    """Run a step in a TrainJob or TFJob, whose pods read and write in a folder that all see.

    The job's name follows from the run and the step's key. A step that is tried again after its pod was lost finds its
    job still running, and waits for it; one that failed is replaced, and resumes from its work folder if it has one.

    Args:
        job: the step: inputs and outputs are where this process sees them. Those of the pods, the facts and the
            heartbeat are decided here.
        pods: the job that runs it.
        scratch: folder on a volume that the pods of the job mount at the same path, or a URL; it outlives a failure.
        api: The API of Kubernetes; by default this pod's.
        poll: seconds between two looks at the job.
        urls: whether `scratch` may be a URL; not where several pods write parts of one file.

    Returns:
        What the step's function has returned in the first pod.

    Raises:
        JobError: if the job fails, with its pods' errors and last lines.
        ClusterApiError: if Kubernetes refuses, for instance for want of rights.
    """
    step = f"{job.step}_job"
    folder = _shared(scratch, pods, urls=urls)
    heartbeat, facts = storage.join(folder, "heartbeat"), storage.join(folder, "facts.json")
    made = {name: storage.join(folder, name) for name in job.outputs}
    inputs = {name: _visible(name, place, folder, pods) if place else "" for name, place in job.inputs.items()}
    description = replace(
        job,
        inputs=inputs,
        outputs=made,
        facts=facts,
        heartbeat=heartbeat,
        work=job.work and storage.join(folder, "work"),
    ).write(storage.join(folder, "job.json"))
    api = api or ClusterApi.in_cluster()
    name = job_name(folder)
    parts = objects(name, pods, ["python", "-m", "components.jobs.worker", description], api.owner(step))
    kind = parts[-1][0]
    lifecycle = Lifecycle(api, name, parts, step, first_pause=min(1.0, poll))
    with _removed_at_the_end(lifecycle, name, step):
        if lifecycle.ensure():
            print(f"{step}: created {kind.kind} {name}, {pods.nodes} pods", flush=True)
        Follower(api, kind, name, pods, step, poll, alive=lambda: beat(heartbeat)).wait()
    for output, place in job.outputs.items():
        near = storage.local(made[output], Path(place).with_name(f".downloaded-{output}"))
        shutil.copytree(near, place, dirs_exist_ok=True)
    return storage.read_json(facts) or {}


def _shared(scratch: str | None, pods: JobSettings, *, urls: bool) -> str:
    """The folder that launching step and pods share.

    Raises:
        JobError: if there is none, or it lies on none of the job's volumes.
    """
    if scratch is not None and ((urls and storage.is_url(scratch)) or _mounted(scratch, pods)):
        return scratch
    raise JobError(
        "scratch: a job of several pods needs a folder on one of its volumes, which all its pods mount"
        f"{', or a URL' if urls else ', for they write parts of one file'}. Received: {scratch!r}, volumes mounted at "
        f"{list(pods.volumes.values())}. Set scratch and volumes in the cluster file."
    )


def _mounted(path: str, pods: JobSettings) -> bool:
    return any(Path(path).is_relative_to(mount) for mount in pods.volumes.values())


def _visible(name: str, place: str, folder: str, pods: JobSettings) -> str:
    """Where the job's pods see an input: where it is, or else a copy in the folder that they share."""
    if storage.is_url(place) or _mounted(place, pods):
        return place
    # The name is kept, for what a file is may follow from its suffix.
    target = storage.join(folder, name, Path(place).name)
    if storage.is_url(target):
        complete = storage.join(folder, f"{name}.complete")
        if storage.read_json(complete) is None:
            storage.upload(place, target)
            storage.write_json(complete, True)
    else:
        _place(Path(place), Path(target))
    return target


def _place(source: Path, target: Path) -> None:
    """Copy a file or a folder, unless an earlier attempt has; it appears when it is complete."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".part-{target.name}")
    storage.remove(str(part))
    if source.is_dir():
        shutil.copytree(source, part)
    else:
        shutil.copy2(source, part)
    part.rename(target)


@contextlib.contextmanager
def _removed_at_the_end(lifecycle: Lifecycle, name: str, step: str) -> Iterator[None]:
    """However the step ends, its job is deleted. Where that is not possible the job ends without its signs of life.

    KFP's launcher does not wait for its child when it is told to end, and the container ends with it
    (kubeflow/pipelines 2.17.0, backend/src/v2/component/launcher_v2.go, `command.Run`): the signal's handler then has
    milliseconds. What it does not reach, the owner of the objects and the signs of life do.
    """

    def end(number: int, frame: Any) -> None:
        raise JobError(f"{name}: the step was ended by {signal.Signals(number).name}; its job is deleted.")

    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            lifecycle.remove()
        except ClusterApiError as error:
            print(
                f"{step}: {error}; the job ends by itself within {LIMIT_SECONDS:.0f} s without the signs of life of "
                "this step, and Kubernetes deletes it with the run",
                flush=True,
            )
        finally:
            signal.signal(signal.SIGTERM, previous)


def job_name(scratch: str) -> str:
    """The name of a job by its scratch folder `<run>/<step>-<key>`: two runs of the same pipeline have two jobs."""
    parent, _, own = scratch.rpartition("/")
    run = "".join(c for c in parent.rpartition("/")[2].lower() if c in ascii_lowercase + digits)[:8]
    return f"keras-spatial-{run or 'run'}-{own.rpartition('-')[2]}"
