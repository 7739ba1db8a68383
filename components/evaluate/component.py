"""The component `evaluate`."""

from kfp import dsl

from components.base import component


@component
def evaluate(
    cases: dsl.Input[dsl.Dataset],
    dataset: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    confusion: dsl.Output[dsl.ClassificationMetrics],
    mesh: str = "rows:2, columns:2",
    layout: str = "x:rows, y:columns",
    thresholds: bool = False,
):
    """Segment the held-out cases and score them with the LiTS metrics.

    Args:
        cases: Checked cases, of the step ingest.
        dataset: Data set, of the step preprocess; its split test is scored.
        model: Trained model.
        evaluation: Predictions as NIfTI, metrics of each case and of all.
        metrics: Mean Dice per case of liver and lesion, for the user interface.
        confusion: Voxels by true and predicted class, for the user interface.
        mesh: Device mesh to predict on.
        layout: Which image axis is split over which mesh axis.
        thresholds: Score the best intensity thresholds too, as a yardstick.
    """
    import json

    from components.resume import step

    step(
        "evaluate",
        "components.evaluate.evaluate:evaluate_model",
        inputs={"cases": cases, "dataset": dataset, "model": model},
        outputs={"evaluation": evaluation},
        settings={"mesh": mesh, "layout": layout, "thresholds": thresholds},
    )
    for name, value in evaluation.metadata.items():
        if "dice" in name:
            metrics.log_metric(name, value)
    confusion.log_confusion_matrix(["background", "liver", "lesion"], json.loads(evaluation.metadata["confusion"]))
