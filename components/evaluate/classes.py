"""Scoring held-out cases of any classes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from components import console
from components.evaluate.truth import confusion_of, read_truth, write_prediction
from components.files import write_json
from datasets.cases import Case
from keras_spatial.evaluation import LabelledCase, evaluate_classes, summarise_classes, write_class_csv
from keras_spatial.volumes import Task, to_canonical

SUMMARY = "summary.json"


def score_case(probabilities: np.ndarray, case: Case, task: Task, folder: Path) -> tuple[LabelledCase, np.ndarray]:
    """Write `prediction-CASE.nii.gz`, and compare it with the case's labels on the grid of the scan.

    Args:
        probabilities: `[x, y, z, classes]` over the field of view of the case, in canonical order.
        case: the files of the case.
        task: the task of the data set.
        folder: the folder of the predictions.

    Returns:
        The metrics, and voxel counts int64 `[true class, predicted class]`.
    """
    channels = len(task.channels) if len(case.images) == 1 else 1
    truth = read_truth(case.images[0], case.label, task.labels, channels)
    path = folder / f"prediction-{case.name}.nii.gz"
    predicted = write_prediction(probabilities, truth, path, task.labels)
    counts = confusion_of(truth.array, predicted, len(task.labels))
    # Distances in canonical order, as those of other predictions of the case.
    canonical = to_canonical(truth)
    found = to_canonical(replace(truth, array=predicted)).array
    return evaluate_classes(found, canonical.array, canonical.spacing, task.labels, case=case.name), counts


def write_scores(folder: Path, metrics: Sequence[LabelledCase]) -> dict[str, float | None]:
    """Write `cases.csv` and `summary.json`; the mean Dice of each class."""
    write_class_csv(folder / "cases.csv", metrics)
    summary = summarise_classes(metrics)
    write_json(folder / SUMMARY, summary.as_dict())
    return {name: found["dice"].value for name, found in summary.classes.items() if name != "mean"}


def printable(scored: Any) -> str:
    """The Dice of a case in a line of the log."""
    return console.figures({name: found.dice for name, found in scored.classes.items()})
