"""Train in a job of several pods."""

from collections.abc import Mapping
from typing import Any

from components.jobs.cluster_api import ClusterApi
from components.jobs.description import Description
from components.jobs.pods import POLL_SECONDS, run_in_pods
from components.jobs.settings import JobSettings
from components.train.settings import LOGS, TrainingSettings
from components.train.train import metadata


def train_in_job(
    dataset: str,
    model: str,
    *,
    job: str,
    scratch: str | None,
    network_files: str = "",
    loss_files: str = "",
    api: ClusterApi | None = None,
    poll: float = POLL_SECONDS,
    **settings: Any,
) -> Mapping[str, Mapping[str, Any]]:
    """Train in a TrainJob or TFJob; see `components.jobs.pods.run_in_pods`.

    Args:
        dataset: the folder of the step preprocess, by path or URL.
        model: the folder to make, see `components.train.train.train_model`.
        job: the JSON of a `JobSettings`.
        scratch, api, poll: see `run_in_pods`.
        network_files, loss_files: the files of the user's network and loss, which are only part of the step's key. The
            pods read the file or code that the settings name, from a volume, a URL or the image.
        settings: the settings of `TrainingSettings`.

    Raises:
        JobError, ClusterApiError: see `run_in_pods`.
    """
    wanted = TrainingSettings.model_validate(settings)
    description = Description(
        step="train",
        inputs={"dataset": dataset},
        outputs={"model": model},
        settings=wanted.model_dump(mode="json"),
        facts="",
        work="work",
        live={"model": LOGS},
        remote=("dataset",),
    )
    run_in_pods(description, JobSettings.from_json(job), scratch, api, poll)
    return {"model": metadata(model)}
