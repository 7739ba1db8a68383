"""Distances between the surfaces of two masks, in millimetres."""

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage, spatial

Spacing = tuple[float, float, float]

# The 18 neighbours of a voxel that share a face or an edge with it.
_NEIGHBOURS = ndimage.generate_binary_structure(3, 2)
# A search tree takes about 100 bytes per point, and for real surfaces (that of a liver at 0.7 mm has 0.3 million
# voxels) less time than a distance map of the volume. For the noise of an untrained network, a map bounds the memory by
# the size of the volume.
_MOST_POINTS = 4_000_000


@dataclass(frozen=True)
class SurfaceDistances:
    """Statistics of the distances, in mm, from each mask's surface voxels to the nearest surface voxel of the other.

    Attributes:
        mean: the average symmetric surface distance, ASSD.
        root_mean_square: the root mean square symmetric surface distance, RMSD.
        maximum: the maximum symmetric surface distance, MSD or MSSD, which is the Hausdorff distance.
    """

    mean: float
    root_mean_square: float
    maximum: float


def surface(mask: np.ndarray) -> np.ndarray:
    """The surface of a mask: its voxels with at least one of their 18 neighbours outside it or beyond the array.

    Args:
        mask: a mask, bool `[X, Y, Z]`.

    Returns:
        A mask of the same shape.

    Example:

    ```python
    border = ks.evaluation.surface(truth == 1)
    print(border.sum(), "voxels")
    ```
    """
    return mask & ~ndimage.binary_erosion(mask, _NEIGHBOURS)


def surface_distances(prediction: np.ndarray, truth: np.ndarray, spacing: Spacing) -> SurfaceDistances:
    """Symmetric surface distances of two masks that are not empty.

    They are exact Euclidean distances between voxel centres, as defined by Heimann et al., "Comparison and Evaluation
    of Methods for Liver Segmentation From CT Datasets", IEEE TMI 28(8), 2009, which LiTS follows.

    Args:
        prediction: the predicted mask, bool `[X, Y, Z]`. Crop both masks to their common box first, because memory
            grows with the size of the arrays.
        truth: the reference mask, bool `[X, Y, Z]`.
        spacing: the voxel size along x, y and z in mm.

    Example:

    ```python
    distances = ks.evaluation.surface_distances(prediction >= 1, truth >= 1, (0.8, 0.8, 2.5))
    print(distances.mean, distances.maximum)
    ```
    """
    pooled = np.concatenate(directed_distances(prediction, truth, spacing))
    return SurfaceDistances(float(pooled.mean()), float(np.sqrt(np.mean(pooled**2))), float(pooled.max()))


def directed_distances(prediction: np.ndarray, truth: np.ndarray, spacing: Spacing) -> tuple[np.ndarray, np.ndarray]:
    """The distances from the surface of the prediction to that of the truth, and in the other direction, in mm.

    Args:
        prediction, truth: masks, bool `[X, Y, Z]`, that are not empty.
        spacing: the voxel size along x, y and z in mm.

    Returns:
        Two float64 vectors, with one distance for each surface voxel of the prediction and of the truth.
    """
    ours, theirs = surface(prediction), surface(truth)
    return nearest_distances(theirs, ours, spacing), nearest_distances(ours, theirs, spacing)


def nearest_distances(
    points: np.ndarray, queries: np.ndarray, spacing: Spacing, most_points: int = _MOST_POINTS
) -> np.ndarray:
    """The distance from each true voxel of `queries` to the nearest true voxel of `points`, in mm.

    Args:
        points: a mask, bool `[X, Y, Z]`, that is not empty.
        queries: a mask, bool `[X, Y, Z]`.
        spacing: the voxel size along x, y and z in mm.
        most_points: with more voxels than this, a distance map is used in place of a search tree.

    Returns:
        A float64 vector, in the order of `np.nonzero(queries)`.
    """
    if np.count_nonzero(points) + np.count_nonzero(queries) > most_points:
        return _distance_map(points, spacing)[queries].astype(np.float64)
    scale = np.asarray(spacing, np.float64)
    found, _ = spatial.KDTree(np.argwhere(points) * scale).query(np.argwhere(queries) * scale, workers=-1)
    return found


def _distance_map(points: np.ndarray, spacing: Spacing) -> np.ndarray:
    """The distance of every voxel to the nearest true voxel, in mm, as float32."""
    image = sitk.GetImageFromArray(points.view(np.uint8))
    image.SetSpacing(tuple(reversed(spacing)))  # SimpleITK's first axis is the last axis of the array.
    signed = sitk.SignedMaurerDistanceMap(image, insideIsPositive=False, squaredDistance=False, useImageSpacing=True)
    # Inside the set the filter returns the negative depth below its border, where the distance to the set is 0.
    return np.maximum(sitk.GetArrayFromImage(signed), 0)
