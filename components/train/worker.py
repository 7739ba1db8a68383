"""One process of a training of several: `python -m components.train.worker JOB.json`.

The processes find each other through `TF_CONFIG`, as `keras_spatial.launch` and the TFJob operator set it. In the pods
of a TrainJob nobody sets it, and it is derived from what the Indexed job says of the pod.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from components.train.cluster import with_tf_config
from components.train.settings import TrainingSettings
from components.train_job.heartbeat import end_without


def main(arguments: Sequence[str]) -> int:
    """Train as `JOB.json` says: dataset, model, work, settings, and the heartbeat of a launching step; returns the exit
    status."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    os.environ.update(with_tf_config(os.environ))
    job = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    if "heartbeat" in job:
        end_without(Path(job["heartbeat"]))

    import keras_spatial as ks

    ks.initialize()
    from components.train.fit import fit

    fit(job["dataset"], job["model"], job["work"], TrainingSettings.of(job["settings"]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
