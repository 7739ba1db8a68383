"""Evaluate in a job of several pods."""

from collections.abc import Mapping
from typing import Any

from components.evaluate.evaluate import described
from components.evaluate.settings import EvaluationSettings
from components.jobs.cluster_api import ClusterApi
from components.jobs.pods import POLL_SECONDS, run_in_pods
from components.jobs.settings import JobSettings


def evaluate_in_job(
    cases: str,
    dataset: str,
    model: str,
    evaluation: str,
    predictions: str,
    *,
    job: str,
    scratch: str | None,
    api: ClusterApi | None = None,
    poll: float = POLL_SECONDS,
    **settings: Any,
) -> Mapping[str, Mapping[str, Any]]:
    """Evaluate in a TrainJob or TFJob; see `components.jobs.pods.run_in_pods`.

    Args:
        cases, dataset, model, evaluation, predictions: see `components.evaluate.evaluate.evaluate_model`. The inputs
            may be URLs.
        job: the JSON of a `JobSettings`.
        scratch, api, poll: see `run_in_pods`.
        settings: the settings of `EvaluationSettings`.

    Raises:
        JobError, ClusterApiError: see `run_in_pods`.
    """
    wanted = EvaluationSettings.model_validate(settings)
    description = described(cases, dataset, model, evaluation, predictions, wanted)
    return run_in_pods(description, JobSettings.from_json(job), scratch, api, poll, together=True)
