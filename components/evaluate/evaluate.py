"""Evaluate in this process, or in several on this machine. Only the processes that predict import TensorFlow."""

from collections.abc import Mapping
from typing import Any

from components.evaluate.settings import EvaluationSettings, LocalEvaluationSettings
from components.jobs.description import Description
from components.jobs.here import run_here


def evaluate_model(
    cases: str,
    dataset: str,
    model: str,
    evaluation: str,
    predictions: str,
    **settings: Any,
) -> Mapping[str, Mapping[str, Any]]:
    """Segment the cases of the split test with a partitioned model, and score them on the grid of the scans.

    See `components.evaluate.process.evaluate_cases`, which every process runs.

    Args:
        cases: the folder of the step ingest, by path or URL; see `components.evaluate.needed`.
        dataset: the folder of the step preprocess, by path or URL, which says which cases are held out.
        model: the folder of the step train.
        evaluation: the folder to make, with `cases.json` (all metrics of each case), `cases.csv`, `summary.json` and
            `metrics.json`.
        predictions: the folder to make, with `prediction-N.nii.gz`.
        settings: the settings of `LocalEvaluationSettings`.

    Returns:
        The metadata of the evaluation: the mean Dice per case of each class, and that of the thresholds.

    Raises:
        TaskError: if the model was trained for other images or classes than those of the data set.
        JobError: if one of several processes fails.
    """
    given = LocalEvaluationSettings.model_validate(settings)
    job = described(cases, dataset, model, evaluation, predictions, given.part(EvaluationSettings))
    return run_here(job, given.processes_of_evaluation)


def described(
    cases: str, dataset: str, model: str, evaluation: str, predictions: str, settings: EvaluationSettings
) -> Description:
    """The description of an evaluation for its processes; see `evaluate_model`."""
    return Description(
        step="evaluate",
        inputs={"cases": str(cases), "dataset": str(dataset), "model": str(model)},
        outputs={"evaluation": str(evaluation), "predictions": str(predictions)},
        settings=settings.model_dump(mode="json"),
        facts="",
        remote=("cases", "dataset"),
    )
