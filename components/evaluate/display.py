"""What the user interface of Kubeflow Pipelines shows of an evaluation."""

import json
from typing import Any

from kfp import dsl


def show_scores(metadata: dict[str, Any], metrics: dsl.Metrics, confusion: dsl.ClassificationMetrics) -> None:
    """Log an evaluation's Dice values and its confusion matrix, which the user interface shows as tables.

    Args:
        metadata: The metadata of the artifact `evaluation`, as the step has written it: a number by name, and under
            `classes` and `confusion` the JSON of the classes' names and of the numbers of voxels.
        metrics: The artifact that receives the Dice values.
        confusion: The artifact that receives the confusion matrix.
    """
    for name, value in metadata.items():
        if "dice" in name:
            metrics.log_metric(name, value)
    confusion.log_confusion_matrix(json.loads(metadata["classes"]), json.loads(metadata["confusion"]))
