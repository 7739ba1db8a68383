"""Compare where volumes lie in the patient, with one measure and one tolerance for the whole package."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from nibabel import affines

from keras_spatial.volumes.headers import raise_it
from keras_spatial.volumes.limits import Limits
from keras_spatial.volumes.volume import (
    AffineError,
    DimensionError,
    LimitError,
    Volume,
    from_canonical,
    to_canonical,
)

TOLERANCE = 0.1
"""The number of voxels by which equal positions may differ: enough for a header's rounding, too little for an error."""


def misplaced(volume: Volume, of: Volume) -> str | None:
    """Say how far two images of the same shape lie apart, for a message; None if they lie in the same place.

    The distance is measured in voxels along each axis, because millimetres mislead if voxels are flat: 4 mm may be less
    than the distance between two slices, but many voxels within one.
    """
    apart = _apart(volume.affine, of.affine, volume.array.shape)
    if apart.max() <= TOLERANCE:
        return None
    corners = _corners(volume.array.shape)
    distance = float(np.abs(((volume.affine - of.affine) @ corners)[:3]).max())
    # The path of a series may contain the patient's name.
    known = of.path.name if of.series is None else of.name
    return (
        f"lies up to {distance:.1f} mm away from {known}, {np.round(apart, 2).tolist()} voxels along the axes, where "
        f"{TOLERANCE} are accepted"
    )


def placed_on(labels: Volume, like: Volume) -> np.ndarray:
    """Put labels on the grid of another volume, with 0 for the voxels that they do not cover.

    The labels may have another orientation and cover fewer slices, as a DICOM segmentation does. Nothing is resampled.

    Args:
        labels: the labels, whose voxels coincide with voxels of `like`.
        like: the other volume.

    Returns:
        The labels in the shape and the array order of `like`, with the dtype of `labels`.

    Raises:
        AffineError: if the voxels of the two do not coincide.
        DimensionError: if the labels reach beyond the other volume.

    Example:

    ```python
    volume = ks.volumes.read_volume("series")
    labels = ks.volumes.placed_on(ks.volumes.read_volume("segmentation.dcm"), volume)
    ```
    """
    ours, theirs = to_canonical(labels), to_canonical(like)
    first = _offset(ours, theirs)
    last = [a + n for a, n in zip(first, ours.array.shape, strict=True)]
    if min(first) < 0 or any(b > n for b, n in zip(last, theirs.array.shape, strict=True)):
        raise DimensionError(
            f"{labels.name}: expected labels within the grid of {like.name}, shape {theirs.array.shape} in RAS order. "
            f"Received: voxels {first} to {last}"
        )
    return from_canonical(_pasted(ours.array, first, theirs.array.shape), like)


def enlarged(labels: Volume, over: Volume, limits: Limits | None = None) -> Volume:
    """Extend labels with 0 as far as another volume reaches, on their own grid and in canonical order.

    This is for labels whose file leaves out the slices without labels, as DICOM segmentations do.

    Args:
        labels: the labels, whose voxels coincide with voxels of `over`.
        over: the other volume.
        limits: the limits that the result must keep; `Limits.current()` by default.

    Raises:
        AffineError: if the voxels of the two do not coincide.
        LimitError: if both together extend over more voxels than the limits allow.
    """
    ours, theirs = to_canonical(labels), to_canonical(over)
    offset = _offset(theirs, ours)
    first = [min(0, a) for a in offset]
    last = [max(n, a + m) for a, n, m in zip(offset, ours.array.shape, theirs.array.shape, strict=True)]
    shape = [b - a for a, b in zip(first, last, strict=True)]
    limits = limits or Limits.current()
    if math.prod(shape) > limits.voxels:
        raise LimitError(
            f"{labels.name}: expected at most {limits.voxels} voxels from this one to {over.name}. Received: {shape}. "
            f"Do they belong to one patient? {raise_it('voxels')}"
        )
    affine = ours.affine @ affines.from_matvec(np.eye(3), first)
    return replace(ours, array=_pasted(ours.array, [-a for a in first], shape), affine=affine)


def _offset(part: Volume, whole: Volume) -> list[int]:
    """The voxel of `whole` that coincides with the first voxel of `part`; both are in canonical order."""
    start = (np.linalg.inv(whole.affine) @ part.affine)[:3, 3]
    first = [round(float(s)) for s in start]
    beginning = whole.affine @ affines.from_matvec(np.eye(3), first)
    if _apart(part.affine, beginning, part.array.shape).max() > TOLERANCE:
        raise AffineError(
            f"{part.name}: expected labels on the grid of {whole.name}. Received: voxels of "
            f"{[float(f'{s:.4g}') for s in part.spacing]} mm for {[float(f'{s:.4g}') for s in whole.spacing]} mm, "
            f"beginning at voxel {[float(f'{s:.4g}') for s in start]}. Resample one of the two"
        )
    return first


def _apart(affine: np.ndarray, of: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The largest distance between the corners of two grids along each axis of the second one, in its voxels."""
    return np.abs(((np.linalg.inv(of) @ affine - np.eye(4)) @ _corners(shape))[:3]).max(axis=1)


def _corners(shape: Sequence[int]) -> np.ndarray:
    # All eight corners, because at some of them differences may cancel out.
    return np.array([[*corner, 1.0] for corner in itertools.product(*((-0.5, n - 0.5) for n in shape))]).T


def _pasted(array: np.ndarray, first: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    result = np.zeros(shape, array.dtype)
    result[tuple(slice(a, a + n) for a, n in zip(first, array.shape, strict=True))] = array
    return result
