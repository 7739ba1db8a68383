"""A CSV table with one row per case."""

import csv
from collections.abc import Sequence
from pathlib import Path

from keras_spatial.evaluation.cases import CaseMetrics
from keras_spatial.evaluation.masks import UNDEFINED
from keras_spatial.evaluation.summary import MASK_METRICS


def case_row(case: CaseMetrics) -> dict[str, str | int | float | None]:
    """The metrics of a case as a flat dict, with None for undefined values. Distances are in mm, volumes in ml.

    Example:

    ```python
    case = ks.evaluation.evaluate_case(prediction, truth, (0.8, 0.8, 2.5))
    row = ks.evaluation.case_row(case)
    print(row["liver_dice"], row["liver_ml_truth"])
    ```
    """
    row: dict[str, str | int | float | None] = {"case": case.case}
    voxel = case.spacing[0] * case.spacing[1] * case.spacing[2] / 1000
    for part in ("liver", "lesion"):
        mask = getattr(case, part)
        for name in MASK_METRICS:
            value = getattr(mask, name)
            row[f"{part}_{name}"] = None if value == UNDEFINED else value
        row[f"{part}_ml_prediction"] = mask.predicted * voxel
        row[f"{part}_ml_truth"] = mask.reference * voxel
    row["lesions_truth"] = len(case.lesions.reference)
    row["lesions_detected"] = sum(lesion.detected for lesion in case.lesions.reference)
    row["lesions_touched"] = sum(lesion.touched for lesion in case.lesions.reference)
    row["lesions_predicted"] = len(case.lesions.predicted)
    row["lesions_false"] = sum(not lesion.detected for lesion in case.lesions.predicted)
    row["burden_prediction"] = case.burden_prediction
    row["burden_truth"] = case.burden_truth
    return row


def write_csv(path: str | Path, cases: Sequence[CaseMetrics]) -> Path:
    """Write a CSV file with one row per case, lowest lesion Dice first, and return its path.

    Undefined values are empty fields.

    Raises:
        ValueError: if there are no cases.

    Example:

    ```python
    ks.evaluation.write_csv("metrics.csv", cases)
    ```
    """
    if not cases:
        raise ValueError("write_csv: expected at least one case. Received: none")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [case_row(case) for case in sorted(cases, key=lambda c: (c.lesion.dice, c.liver.dice, c.case))]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return path
