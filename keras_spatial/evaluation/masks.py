"""Overlap, volume and surface metrics of a pair of masks."""

from dataclasses import dataclass

import numpy as np

from keras_spatial.evaluation.surfaces import Spacing, surface_distances
from keras_spatial.volumes import bounding_box

UNDEFINED = 9001.0
"""The value that LiTS uses for a relative volume or a distance that does not exist because a mask is empty."""


@dataclass(frozen=True)
class MaskMetrics:
    """The metrics of a predicted mask P against a reference mask R.

    Attributes:
        intersection, predicted, reference: the voxel counts |P and R|, |P| and |R|.
        dice: `2 |P and R| / (|P| + |R|)`; 1 if both are empty, 0 if one of them is.
        voe: the volumetric overlap error, `1 - |P and R| / |P or R|`; 1 if both are empty, as in LiTS.
        rvd: the relative volume difference, `(|P| - |R|) / |R|`; `UNDEFINED` if R is empty.
        assd, rmsd, msd: the average, root mean square and maximum symmetric surface distance in mm; `UNDEFINED` if P or
            R is empty.
    """

    intersection: int
    predicted: int
    reference: int
    dice: float
    voe: float
    rvd: float
    assd: float
    rmsd: float
    msd: float


def compare_masks(prediction: np.ndarray, truth: np.ndarray, spacing: Spacing) -> MaskMetrics:
    """Compute all metrics of a pair of masks, within the box around both, so that empty space costs nothing.

    Args:
        prediction: the predicted mask, bool `[X, Y, Z]`.
        truth: the reference mask, bool `[X, Y, Z]`.
        spacing: the voxel size along x, y and z in mm.

    Example:

    ```python
    liver = ks.evaluation.compare_masks(prediction >= 1, truth >= 1, (0.8, 0.8, 2.5))
    ```
    """
    box = bounding_box(prediction | truth)
    if box is None:
        return MaskMetrics(0, 0, 0, 1.0, 1.0, UNDEFINED, UNDEFINED, UNDEFINED, UNDEFINED)
    p, r = np.ascontiguousarray(prediction[box]), np.ascontiguousarray(truth[box])
    common, predicted, reference = (int(np.count_nonzero(m)) for m in (p & r, p, r))
    assd = rmsd = msd = UNDEFINED
    if predicted and reference:
        found = surface_distances(p, r, spacing)
        assd, rmsd, msd = found.mean, found.root_mean_square, found.maximum
    return MaskMetrics(
        intersection=common,
        predicted=predicted,
        reference=reference,
        dice=2 * common / (predicted + reference),
        voe=1 - common / (predicted + reference - common),
        rvd=(predicted - reference) / reference if reference else UNDEFINED,
        assd=assd,
        rmsd=rmsd,
        msd=msd,
    )
