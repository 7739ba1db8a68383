"""Segment in a job of several pods."""

from collections.abc import Mapping
from typing import Any

from components.jobs.cluster_api import ClusterApi
from components.jobs.pods import POLL_SECONDS, run_in_pods
from components.jobs.settings import JobSettings
from components.segment.segment import described
from components.segment.settings import ALL, SegmentationSettings


def segment_in_job(
    volumes: str,
    model: str,
    predictions: str,
    *,
    job: str,
    scratch: str | None,
    task_file: str = "",
    share: str = ALL,
    api: ClusterApi | None = None,
    poll: float = POLL_SECONDS,
    **settings: Any,
) -> Mapping[str, Mapping[str, Any]]:
    """Segment in a TrainJob or TFJob; see `components.jobs.pods.run_in_pods`.

    Args:
        volumes, model, predictions, task_file, share: see `components.segment.segment.segment_folder`.
        job: the JSON of a `JobSettings`.
        scratch, api, poll: see `run_in_pods`.
        settings: the settings of `SegmentationSettings`.

    Raises:
        JobError, ClusterApiError: see `run_in_pods`.
    """
    wanted = SegmentationSettings.model_validate(settings)
    description = described(volumes, model, predictions, task_file, share, wanted)
    return run_in_pods(description, JobSettings.from_json(job), scratch, api, poll, together=True)
