"""The component `evaluate_job`."""

from typing import Annotated

from kfp import dsl

from components.base import component
from components.evaluate.settings import EvaluationSettings


@component
def evaluate_job(
    cases: dsl.Input[dsl.Dataset],
    dataset: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Artifact],
    predictions: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    confusion: dsl.Output[dsl.ClassificationMetrics],
    job: str,
    settings: Annotated[dict, EvaluationSettings],
):
    """Segment the held-out cases in a job of several pods, whose devices are one mesh, and score them.

    Args:
        cases: The checked cases, from the step ingest.
        dataset: The data set, from the step preprocess; its split test is scored.
        model: The trained model.
        evaluation: The metrics of each case and of all cases together.
        predictions: The segmentations of the held-out cases as NIfTI files.
        metrics: The mean Dice per case of each class, for the user interface.
        confusion: The numbers of voxels by true and predicted class, for the user interface.
        job: The JSON of the job (kind, pods, image, resources, volumes); the compiler writes it from the cluster file.
    """
    from components.evaluate.display import show_scores
    from components.resume import step

    step(
        "evaluate_job",
        "components.evaluate_job.evaluate_job:evaluate_in_job",
        inputs={"cases": cases, "dataset": dataset, "model": model},
        outputs={"evaluation": evaluation, "predictions": predictions},
        settings={"job": job, **settings},
        scratch=True,
        scratch_url=True,
        stored=("predictions",),
        remote=("cases", "dataset"),
    )
    show_scores(evaluation.metadata, metrics, confusion)
