"""Segmenting and scoring held-out cases of any classes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from components import console
from components.files import write_json
from datasets.cases import Case
from datasets.decathlon.reader import TaskReader
from keras_spatial.evaluation import LabelledCase, evaluate_classes, summarise_classes, write_class_csv
from keras_spatial.inference import segment
from keras_spatial.volumes import Limits, Task, to_canonical

SUMMARY = "summary.json"


def score_case(network: keras.Model, case: Case, task: Task, folder: Path) -> tuple[LabelledCase, np.ndarray]:
    """Segment a case, write `prediction-CASE.nii.gz`, and compare it with its labels on the grid of the scan.

    Returns:
        The metrics, and voxel counts int64 `[true class, predicted class]`.
    """
    _, labels = TaskReader(task).read(case, Limits.current())
    path = folder / f"prediction-{case.name}.nii.gz"
    found = segment(network, case.images, path, task=task)
    # The labels were turned to canonical order.
    predicted = to_canonical(replace(found.volume, array=found.labels)).array
    classes = len(task.labels)
    pairs = labels.array.astype(np.int64).ravel() * classes + predicted.ravel()
    counts = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    scored = evaluate_classes(predicted, labels.array, labels.spacing, task.labels, case=case.name)
    return scored, counts


def write_scores(folder: Path, metrics: Sequence[LabelledCase]) -> dict[str, float | None]:
    """Write `cases.csv` and `summary.json`; the mean Dice of each class."""
    write_class_csv(folder / "cases.csv", metrics)
    summary = summarise_classes(metrics)
    write_json(folder / SUMMARY, summary.as_dict())
    return {name: found["dice"].value for name, found in summary.classes.items() if name != "mean"}


def printable(scored: Any) -> str:
    """The Dice of a case in a line of the log."""
    return console.figures({name: found.dice for name, found in scored.classes.items()})
