"""One process of a job of several: `python -m components.jobs.worker JOB.json`.

The processes find each other through `TF_CONFIG`, which `keras_spatial.launch` and the TFJob operator set. In the pods
of a TrainJob nothing sets it, and it is computed from the variables of the Indexed job.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from components import console, storage
from components.jobs.cluster import peer_timeout, rank_of, with_tf_config
from components.jobs.description import Description
from components.jobs.heartbeat import end_without
from datasets.object_store import StorageError


def main(arguments: Sequence[str]) -> int:
    """Do this process's part of the job that `JOB.json` describes, and return the exit status."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    os.environ.update(with_tf_config(os.environ))
    job = Description.read(arguments[0])
    if job.heartbeat:
        end_without(job.heartbeat)

    import keras_spatial as ks
    from components.devices import demand, share

    # This comes before the wait for the other processes, so that a missing device is an error within seconds.
    demand(job.given())
    if job.local_processes:
        share(rank_of(os.environ), job.local_processes)
    first = ks.initialize(timeout=peer_timeout(os.environ)).is_first
    with _near(job, first) as places:
        facts = job.run(places)
        if first:
            storage.write_json(job.facts, facts)
    return 0


@contextlib.contextmanager
def _near(job: Description, first: bool) -> Iterator[dict[str, Any]]:
    """The inputs, outputs and work folder of a job as paths: inputs at URLs are downloaded, and outputs uploaded."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if job.shared and first:
            # An attempt that failed while its processes uploaded may have left files that this one does not make. No
            # process uploads before all have exchanged a text in `job.run`, and so not before they are removed.
            for place in job.outputs.values():
                _empty(place)
        places: dict[str, Any] = {"shared": job.shared} if job.shared else {}
        if job.work:
            places["work"] = job.work
            if storage.is_url(job.work):
                places["work"] = str(stack.enter_context(storage.mirrored(job.work, folder / "work", uploads=first)))
        for name, place in job.outputs.items():
            places[name] = str(folder / name) if storage.is_url(place) else place
            if storage.is_url(place) and first and name in job.live:
                # Someone who follows the step reads the logs at the URL.
                logs = storage.join(place, job.live[name])
                console.say(f"{job.step}: TensorBoard's logs are kept at {logs}")
                stack.enter_context(storage.mirrored(logs, Path(places[name]) / job.live[name]))
        for name, place in job.inputs.items():
            places[name] = place if name in job.remote or not place else str(storage.local(place, folder / "data"))
        yield places
        for name, place in job.outputs.items():
            made = Path(places[name])
            if storage.is_url(place) and (first or (job.shared and made.exists())):
                storage.upload(made, place)


def _empty(place: str) -> None:
    """Remove what is at a URL.

    Raises:
        StorageError: if something is still there. A store may refuse to delete an object in an answer that its client
            takes for a success.
    """
    storage.remove(place)
    if storage.exists(place):
        raise StorageError(
            f"{place}: expected to be empty. Received: files of an attempt that failed, which the store does not "
            "delete. Allow the pods to delete objects there, or remove the files."
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
