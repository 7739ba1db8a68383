"""The component `evaluate`."""

from typing import Annotated

from kfp import dsl

from components.base import component
from components.evaluate.settings import LocalEvaluationSettings


@component
def evaluate(
    cases: dsl.Input[dsl.Dataset],
    dataset: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Artifact],
    predictions: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    confusion: dsl.Output[dsl.ClassificationMetrics],
    settings: Annotated[dict, LocalEvaluationSettings],
):
    """Segment the held-out cases and score them, with the metrics of LiTS or with those for any classes.

    Args:
        cases: The checked cases, from the step ingest.
        dataset: The data set, from the step preprocess; its split test is scored.
        model: The trained model.
        evaluation: The metrics of each case and of all cases together.
        predictions: The segmentations of the held-out cases as NIfTI files.
        metrics: The mean Dice per case of each class, for the user interface.
        confusion: The numbers of voxels by true and predicted class, for the user interface.
    """
    from components.evaluate.display import show_scores
    from components.resume import step

    step(
        "evaluate",
        "components.evaluate.evaluate:evaluate_model",
        inputs={"cases": cases, "dataset": dataset, "model": model},
        outputs={"evaluation": evaluation, "predictions": predictions},
        settings=settings,
        stored=("predictions",),
        remote=("cases", "dataset"),
    )
    show_scores(evaluation.metadata, metrics, confusion)
