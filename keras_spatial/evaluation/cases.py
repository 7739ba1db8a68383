"""All metrics of one case: liver, lesions, tumour burden."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keras_spatial.evaluation.lesions import LesionMatching, match_lesions
from keras_spatial.evaluation.masks import MaskMetrics, compare_masks
from keras_spatial.volumes import LabelError, as_labels

LIVER, LESION = 1, 2


class EvaluationError(ValueError):
    """Prediction, truth and spacing do not belong together."""


@dataclass(frozen=True)
class CaseMetrics:
    """One predicted case against its reference.

    Attributes:
        case: its name.
        liver: metrics of the liver with its lesions, labels >= 1.
        lesion: metrics of all lesion voxels, label 2.
        lesions: metrics lesion by lesion.
        burden_prediction: tumour burden, lesion voxels per liver voxels, of the prediction; None without liver voxels.
        burden_truth: the same of the reference.
        spacing: voxel size, mm.
    """

    case: str
    liver: MaskMetrics
    lesion: MaskMetrics
    lesions: LesionMatching
    burden_prediction: float | None
    burden_truth: float | None
    spacing: tuple[float, float, float]


def evaluate_case(
    prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float], *, case: str = ""
) -> CaseMetrics:
    """Compare the labels of one case, on the grid of the volume itself, with the definitions of LiTS.

    Memory beside the two label arrays: some tens of bytes per voxel of the box around the liver, however large the
    volume.

    Args:
        prediction: integers `[X, Y, Z]`: 0 background, 1 liver, 2 lesion.
        truth: the same.
        spacing: voxel size along x, y, z in mm.
        case: name, for tables and error messages.

    Raises:
        EvaluationError: shapes differ, labels other than 0, 1, 2, or a spacing that is not positive.
    """
    where = f"case {case}: " if case else ""
    if prediction.shape != truth.shape or truth.ndim != 3 or 0 in truth.shape:
        raise EvaluationError(
            f"{where}expected prediction and truth of one shape [X, Y, Z]; resample the prediction to the grid of the "
            f"truth. Received: prediction {prediction.shape}, truth {truth.shape}"
        )
    size = tuple(float(s) for s in spacing)
    if len(size) != 3 or not all(0 < s < np.inf for s in size):
        raise EvaluationError(f"{where}expected three positive voxel sizes in mm. Received: spacing={tuple(spacing)}")
    p, r = _labels(prediction, f"{where}prediction"), _labels(truth, f"{where}truth")
    voxel = size[0], size[1], size[2]
    return CaseMetrics(
        case=case,
        liver=compare_masks(p >= LIVER, r >= LIVER, voxel),
        lesion=compare_masks(p == LESION, r == LESION, voxel),
        lesions=match_lesions(p == LESION, r == LESION, voxel),
        burden_prediction=_burden(p),
        burden_truth=_burden(r),
        spacing=voxel,
    )


def _labels(array: np.ndarray, name: str) -> np.ndarray:
    try:
        labels = as_labels(array)
    except LabelError as error:
        raise EvaluationError(f"{name}: {error}") from error
    highest = int(labels.max())
    if highest > LESION:
        raise EvaluationError(
            f"{name}: expected labels 0 (background), 1 (liver), 2 (lesion). Received: label {highest}"
        )
    return labels


def _burden(labels: np.ndarray) -> float | None:
    liver = int(np.count_nonzero(labels))
    return int(np.count_nonzero(labels == LESION)) / liver if liver else None
