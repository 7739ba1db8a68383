"""One process of a training of several: `python -m components.train.worker JOB.json`.

The processes find each other through `TF_CONFIG`, as `keras_spatial.launch` and the TFJob operator set it. In the pods
of a TrainJob nobody sets it, and it is derived from what the Indexed job says of the pod.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from components import storage
from components.train.cluster import peer_timeout, rank_of, with_tf_config
from components.train.settings import LOGS, TrainingSettings
from components.train_job.heartbeat import end_without


def main(arguments: Sequence[str]) -> int:
    """Train as `JOB.json` says: dataset, model, work, settings, and the heartbeat of a launching step; returns the exit
    status. Each of them is a path that all processes see, or a URL."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    os.environ.update(with_tf_config(os.environ))
    job = storage.read_json(arguments[0])
    if job is None:
        raise FileNotFoundError(f"{arguments[0]}: expected the JSON of a training job, which is missing or damaged.")
    if "heartbeat" in job:
        end_without(job["heartbeat"])

    import keras_spatial as ks
    from components.devices import demand, share

    settings = TrainingSettings.model_validate(job["settings"])
    # Before the wait for the others: what is missing here is said in seconds.
    demand(settings.accelerator)
    if "local_processes" in job:
        share(rank_of(os.environ), job["local_processes"])
    ks.initialize(timeout=peer_timeout(os.environ))
    from components.train.fit import fit
    from keras_spatial import processes

    with _near(job, processes.current().is_first) as (dataset, model, work):
        fit(dataset, model, work, settings)
    return 0


@contextlib.contextmanager
def _near(job: Mapping[str, Any], first: bool) -> Iterator[tuple[str, str, str]]:
    """Data set, model and work folder of a job as paths: what is at a URL is brought here, and taken back."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work, model = job["work"], job["model"]
        if storage.is_url(work):
            work = str(stack.enter_context(storage.mirrored(work, folder / "work", uploads=first)))
        near = str(folder / "model") if storage.is_url(model) else model
        if storage.is_url(model) and first:
            # Whoever follows the training reads there.
            logs = storage.join(model, LOGS)
            print(f"train: TensorBoard's logs are kept at {logs}", flush=True)
            stack.enter_context(storage.mirrored(logs, Path(near) / LOGS))
        yield str(storage.local(job["dataset"], folder / "data")), near, work
        if storage.is_url(model) and first:
            storage.upload(near, model)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
