"""All LiTS metrics of one case: liver, lesions and tumour burden."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keras_spatial.evaluation.lesions import LesionMatching, match_lesions
from keras_spatial.evaluation.masks import MaskMetrics, compare_masks
from keras_spatial.volumes import LabelError, as_labels

LIVER, LESION = 1, 2


class EvaluationError(ValueError):
    """The prediction, the truth or the spacing is invalid, or they do not belong together."""


@dataclass(frozen=True)
class CaseMetrics:
    """The metrics of one predicted case against its reference.

    Attributes:
        case: the name of the case.
        liver: the metrics of the liver with its lesions, labels >= 1.
        lesion: the metrics of all lesion voxels, label 2.
        lesions: the metrics of each lesion.
        burden_prediction: the tumour burden of the prediction, which is the ratio of lesion voxels to liver voxels;
            None if there are no liver voxels.
        burden_truth: the tumour burden of the reference.
        spacing: the voxel size along x, y and z in mm.
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
    """Compare the labels of one case, on the volume's own grid, by the definitions of LiTS (see the package's docs).

    Besides the two label arrays, it needs some tens of bytes of memory for each voxel of the box around the liver,
    however large the volume is.

    Args:
        prediction: integer labels `[X, Y, Z]`: 0 is background, 1 liver, 2 lesion.
        truth: integer labels of the same shape and meaning.
        spacing: the voxel size along x, y and z in mm.
        case: the name of the case, for tables and error messages.

    Raises:
        EvaluationError: if shapes differ, there are labels other than 0, 1 and 2, or the spacing is not positive.

    Example:

    ```python
    metrics = ks.evaluation.evaluate_case(prediction, truth, (0.8, 0.8, 2.5), case="volume-3")
    print(metrics.liver.dice, metrics.lesion.dice)
    ```
    """
    where = f"case {case}: " if case else ""
    if prediction.shape != truth.shape or truth.ndim != 3 or 0 in truth.shape:
        raise EvaluationError(
            f"{where}expected prediction and truth of the same shape [X, Y, Z]; resample the prediction to the grid of "
            f"the truth. Received: prediction {prediction.shape}, truth {truth.shape}"
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
