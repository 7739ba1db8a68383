"""Metrics for any classes: overlap and surface distances of each class, per case and per data set, with intervals.

The definitions follow Maier-Hein et al., "Metrics reloaded", Nature Methods 21, 2024. A surface consists of the voxels
with at least one of their 18 neighbours outside the mask; distances are between the centres of voxels, in mm.
"""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from keras_spatial.evaluation.cases import EvaluationError
from keras_spatial.evaluation.summary import Estimate, estimate_mean
from keras_spatial.evaluation.surfaces import Spacing, directed_distances
from keras_spatial.volumes import LabelError, as_labels, bounding_box

METRICS = ("dice", "hd95", "nsd", "assd", "voe", "rvd", "rmsd", "msd")
"""The names of the metrics of a class. Distances are in mm."""


@dataclass(frozen=True)
class ClassMetrics:
    """The metrics of one class of one case, with predicted voxels P and reference voxels R.

    Attributes:
        predicted: the number of predicted voxels, |P|.
        reference: the number of reference voxels, |R|.
        dice: `2 |P and R| / (|P| + |R|)`; 1 if both are empty, 0 if one of them is.
        hd95: the 95th percentile of the distances from one surface to the other, the larger one of both directions, in
            mm; None if P or R is empty.
        nsd: the normalised surface distance (surface Dice), which is the fraction of both surfaces that lies within the
            tolerance of the other one; 1 if both are empty, 0 if one of them is.
        assd: the average symmetric surface distance in mm; None if P or R is empty.
        rmsd: the root mean square of the symmetric surface distances in mm; None if P or R is empty.
        msd: the maximum symmetric surface distance in mm; None if P or R is empty.
        voe: the volumetric overlap error, `1 - |P and R| / |P or R|`; 0 if both are empty, 1 if one of them is.
        rvd: the relative volume difference, `(|P| - |R|) / |R|`; None if R is empty.
    """

    predicted: int
    reference: int
    dice: float
    hd95: float | None
    nsd: float
    assd: float | None
    voe: float
    rvd: float | None
    rmsd: float | None
    msd: float | None


ABSENT = ClassMetrics(0, 0, dice=1.0, hd95=None, nsd=1.0, assd=None, voe=0.0, rvd=None, rmsd=None, msd=None)
"""The metrics of a class that neither the prediction nor the reference has: the two agree, and no distance exists."""


@dataclass(frozen=True)
class LabelledCase:
    """The metrics of one predicted case against its reference.

    Attributes:
        case: the name of the case.
        classes: the metrics of each class but the background, by the name of the class.
        spacing: the voxel size along x, y and z in mm.
        tolerance: the tolerance of the normalised surface distance in mm.
    """

    case: str
    classes: dict[str, ClassMetrics]
    spacing: tuple[float, float, float]
    tolerance: float

    @property
    def mean_dice(self) -> float:
        """The mean Dice coefficient over the classes."""
        return float(np.mean([c.dice for c in self.classes.values()]))


@dataclass(frozen=True)
class LabelledSummary:
    """The metrics of a data set.

    Attributes:
        cases: the number of cases.
        classes: the estimates by class and metric; the class "mean" is the mean over the classes of a case.
        confidence: the confidence level of the intervals, which are bootstrapped over the cases.
        tolerance: the tolerance of the normalised surface distance in mm.
    """

    cases: int
    classes: dict[str, dict[str, Estimate]]
    confidence: float
    tolerance: float

    def as_dict(self) -> dict:
        """The summary as plain dicts, lists and numbers, for JSON."""
        return asdict(self)


def evaluate_classes(
    prediction: np.ndarray,
    truth: np.ndarray,
    spacing: Sequence[float],
    labels: Sequence[str],
    *,
    case: str = "",
    tolerance: float = 1.0,
) -> LabelledCase:
    """Compare the labels of one case, on the volume's own grid.

    Args:
        prediction: integer class numbers `[X, Y, Z]`.
        truth: integer class numbers of the same shape.
        spacing: the voxel size along x, y and z in mm.
        labels: the names of the classes by number, the background first.
        case: the name of the case, for tables and error messages.
        tolerance: the tolerance of the normalised surface distance in mm: by how much two observers differ.

    Raises:
        EvaluationError: if shapes differ, a number has no class, the spacing or the tolerance is not positive, or
            `labels` does not have at least two names, all different.

    Example:

    ```python
    classes = ("background", "liver", "lesion")
    case = ks.evaluation.evaluate_classes(prediction, truth, (1.0, 1.0, 1.0), classes)
    print(case.classes["liver"].hd95)
    ```
    """
    where = f"case {case}: " if case else ""
    if len(labels) < 2 or len(set(labels)) != len(labels):
        raise EvaluationError(
            f"{where}expected different names of the background and at least one class. Received: {list(labels)}"
        )
    if prediction.shape != truth.shape or truth.ndim != 3 or 0 in truth.shape:
        raise EvaluationError(
            f"{where}expected prediction and truth of the same shape [X, Y, Z]; resample the prediction to the grid of "
            f"the truth. Received: prediction {prediction.shape}, truth {truth.shape}"
        )
    x, y, z = (float(s) for s in spacing)
    if not all(0 < s < np.inf for s in (x, y, z, tolerance)):
        raise EvaluationError(
            f"{where}expected positive voxel sizes and a positive tolerance in mm. Received: spacing={tuple(spacing)}, "
            f"tolerance={tolerance}"
        )
    p, r = _labels(prediction, labels, f"{where}prediction"), _labels(truth, labels, f"{where}truth")
    present = {*np.unique(p).tolist(), *np.unique(r).tolist()}
    compared = {
        name: _compare(p == number, r == number, (x, y, z), tolerance) if number in present else ABSENT
        for number, name in enumerate(labels)
        if number > 0
    }
    return LabelledCase(case, compared, (x, y, z), tolerance)


def summarise_classes(
    cases: Sequence[LabelledCase], *, confidence: float = 0.95, samples: int = 2000, seed: int = 0
) -> LabelledSummary:
    """Means over the cases, with bootstrapped intervals. Distances that do not exist are left out.

    Args:
        cases: at least one case; all have the same classes.
        confidence: the confidence level of the intervals, between 0 and 1.
        samples: the number of bootstrap samples.
        seed: the seed of the bootstrap; equal seeds give equal intervals.

    Raises:
        ValueError: if there are no cases, the confidence is not between 0 and 1, or cases have different classes.

    Example:

    ```python
    classes = ("background", "liver", "lesion")
    case = ks.evaluation.evaluate_classes(prediction, truth, (1.0, 1.0, 1.0), classes)
    summary = ks.evaluation.summarise_classes([case])
    print(summary.classes["mean"]["dice"].value)
    ```
    """
    if not cases or not 0 < confidence < 1 or samples < 1:
        raise ValueError(
            "summarise_classes: expected at least one case, 0 < confidence < 1 and samples >= 1. "
            f"Received: {len(cases)} cases, confidence={confidence}, samples={samples}"
        )
    names = list(cases[0].classes)
    unlike = [c.case for c in cases if list(c.classes) != names]
    if unlike:
        raise ValueError(
            f"summarise_classes: expected the classes {names} in every case. Received: other classes in {unlike}"
        )

    def estimate(values: Sequence[float | None]) -> Estimate:
        return estimate_mean(values, confidence=confidence, samples=samples, seed=seed)

    found = {
        name: {metric: estimate([getattr(c.classes[name], metric) for c in cases]) for metric in METRICS}
        for name in names
    }
    means = {metric: estimate([_mean(c, metric) for c in cases]) for metric in METRICS}
    return LabelledSummary(len(cases), {**found, "mean": means}, confidence, cases[0].tolerance)


def write_class_csv(path: str | Path, cases: Sequence[LabelledCase]) -> Path:
    """Write a CSV file with one row per case and class, lowest mean Dice first, and return its path.

    Distances are in mm and volumes in ml. A distance that does not exist is an empty field.

    Raises:
        ValueError: if there are no cases.

    Example:

    ```python
    classes = ("background", "liver", "lesion")
    case = ks.evaluation.evaluate_classes(prediction, truth, (1.0, 1.0, 1.0), classes)
    ks.evaluation.write_class_csv("metrics.csv", [case])
    ```
    """
    if not cases:
        raise ValueError("write_class_csv: expected at least one case. Received: none")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "class", *METRICS, "ml_prediction", "ml_truth"])
        for case in sorted(cases, key=lambda c: (c.mean_dice, c.case)):
            voxel = float(np.prod(case.spacing)) / 1000
            for name, found in case.classes.items():
                values = [getattr(found, metric) for metric in METRICS]
                writer.writerow([case.case, name, *values, found.predicted * voxel, found.reference * voxel])
    return path


def _mean(case: LabelledCase, metric: str) -> float | None:
    known = [v for c in case.classes.values() if (v := getattr(c, metric)) is not None]
    return float(np.mean(known)) if known else None


def _compare(prediction: np.ndarray, truth: np.ndarray, spacing: Spacing, tolerance: float) -> ClassMetrics:
    box = bounding_box(prediction | truth)
    if box is None:
        return ABSENT
    p, r = np.ascontiguousarray(prediction[box]), np.ascontiguousarray(truth[box])
    common, predicted, reference = (int(np.count_nonzero(m)) for m in (p & r, p, r))
    rvd = (predicted - reference) / reference if reference else None
    if not predicted or not reference:
        return ClassMetrics(
            predicted, reference, dice=0.0, hd95=None, nsd=0.0, assd=None, voe=1.0, rvd=rvd, rmsd=None, msd=None
        )
    there, back = directed_distances(p, r, spacing)
    both = np.concatenate([there, back])
    return ClassMetrics(
        predicted=predicted,
        reference=reference,
        dice=2 * common / (predicted + reference),
        hd95=float(max(np.percentile(there, 95), np.percentile(back, 95))),
        nsd=float(np.mean(both <= tolerance)),
        assd=float(both.mean()),
        voe=1 - common / (predicted + reference - common),
        rvd=rvd,
        rmsd=float(np.sqrt(np.mean(both**2))),
        msd=float(both.max()),
    )


def _labels(array: np.ndarray, names: Sequence[str], where: str) -> np.ndarray:
    try:
        labels = as_labels(array)
    except LabelError as error:
        raise EvaluationError(f"{where}: {error}") from error
    highest = int(labels.max())
    if highest >= len(names):
        raise EvaluationError(f"{where}: expected the classes {list(enumerate(names))}. Received: label {highest}")
    return labels
