"""Launch a job of several pods, wait for it, and collect its results."""

import contextlib
import shutil
import signal
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from string import ascii_lowercase, digits
from typing import Any

from components import console, storage
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
    together: bool = False,
) -> Mapping[str, Mapping[str, Any]]:
    """Run a step in a TrainJob or TFJob whose pods read and write in one folder, on a volume or at a URL.

    The job's name follows from the run and the step's key. A step that is tried again after its pod was lost finds its
    job still running, and waits for it. A failed job is replaced, and resumes from its work folder if it has one.

    Args:
        job: the step, with its inputs and outputs where this process sees them. This function sets the places that the
            pods use, the facts and the heartbeat.
        pods: the job that runs the step.
        scratch: a folder on a volume that the pods of the job mount at the same path, or a URL. It is kept after a
            failure.
        api: the API of Kubernetes; by default that of this pod's cluster.
        poll: the number of seconds between two looks at the job.
        together: whether every pod makes parts of the outputs, and not only the first one.

    Returns:
        What the step's function has returned in the first pod.

    Raises:
        JobError: if the job fails; the message has the errors and the last lines of its pods.
        ClusterApiError: if Kubernetes refuses, for example because the service account lacks a right.
    """
    step = f"{job.step}_job"
    folder = _shared(scratch, pods)
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
        shared=storage.join(folder, "shared") if together and storage.is_url(folder) else "",
    ).write(storage.join(folder, "job.json"))
    api = api or ClusterApi.in_cluster()
    name = job_name(folder)
    parts = objects(name, pods, ["python", "-m", "components.jobs.worker", description], api.owner(step))
    kind = parts[-1][0]
    lifecycle = Lifecycle(api, name, parts, step, first_pause=min(1.0, poll))
    with _removed_at_the_end(lifecycle, name, step):
        if lifecycle.ensure():
            console.say(f"{step}: created {kind.kind} {name}, {pods.nodes} pods")
        Follower(api, kind, name, pods, step, poll, alive=lambda: beat(heartbeat)).wait()
    for output, place in job.outputs.items():
        near = storage.local(made[output], Path(place).with_name(f".downloaded-{output}"))
        shutil.copytree(near, place, dirs_exist_ok=True)
    return storage.read_json(facts) or {}


def _shared(scratch: str | None, pods: JobSettings) -> str:
    """The folder that the launching step and the pods share.

    Raises:
        JobError: if there is no such folder, or it is not on one of the job's volumes.
    """
    if scratch is not None and (storage.is_url(scratch) or _mounted(scratch, pods)):
        return scratch
    raise JobError(
        "scratch: a job of several pods needs a folder on one of its volumes, which all its pods mount, or a URL. "
        f"Received: {scratch!r}, volumes at {list(pods.volumes.values())}. Set scratch and volumes in the cluster file."
    )


def _mounted(path: str, pods: JobSettings) -> bool:
    return any(Path(path).is_relative_to(mount) for mount in pods.volumes.values())


def _visible(name: str, place: str, folder: str, pods: JobSettings) -> str:
    """The place where the job's pods see an input: its own place, or that of a copy in the folder that they share."""
    if storage.is_url(place) or _mounted(place, pods):
        return place
    # The copy keeps the name, because the ending of a file says what it is.
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
    """Copy a file or a folder, unless an earlier attempt has done so. It appears only when it is complete."""
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
    """Delete the job however the step ends. If that fails, the job ends itself because it gets no heartbeat.

    KFP's launcher does not wait for its child when it is told to end, and the container ends with the launcher
    (kubeflow/pipelines 2.17.0, backend/src/v2/component/launcher_v2.go, `command.Run`). So the handler of the signal
    has only milliseconds. If they do not suffice, Kubernetes deletes the job with the owner of its objects, or the job
    ends itself.
    """

    def end(number: int, frame: Any) -> None:
        lifecycle.interrupt(JobError(f"{name}: {signal.Signals(number).name} has ended the step; its job is deleted."))

    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            lifecycle.remove()
        except ClusterApiError as error:
            print(
                f"{step}: {error}; the job ends itself within {LIMIT_SECONDS:.0f} s, because this step sends no more "
                "heartbeats, and Kubernetes deletes it with the run",
                flush=True,
            )
        finally:
            signal.signal(signal.SIGTERM, previous)


def job_name(scratch: str) -> str:
    """The name of a job, from its scratch folder `<run>/<step>-<key>`, so that two runs of a pipeline have two jobs."""
    parent, _, own = scratch.rpartition("/")
    run = "".join(c for c in parent.rpartition("/")[2].lower() if c in ascii_lowercase + digits)[:8]
    return f"keras-spatial-{run or 'run'}-{own.rpartition('-')[2]}"
