"""Where volumes lie in the patient, compared with one another: one measure and one tolerance for all that compare."""

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
"""Voxels by which places may differ that are meant to be the same: what a header rounds, and not what it gets wrong."""


def misplaced(volume: Volume, of: Volume) -> str | None:
    """What is wrong if two images of one shape do not lie in the same place, for a message, or None.

    A distance in mm says nothing where voxels are flat: 4 mm are less than a slice, and many voxels across it.
    """
    apart = _apart(volume.affine, of.affine, volume.array.shape)
    if apart.max() <= TOLERANCE:
        return None
    corners = _corners(volume.array.shape)
    distance = float(np.abs(((volume.affine - of.affine) @ corners)[:3]).max())
    # The path of a series may hold the patient's name.
    known = of.path.name if of.series is None else of.name
    return (
        f"lies up to {distance:.1f} mm away from {known}, {np.round(apart, 2).tolist()} voxels along the axes, where "
        f"{TOLERANCE} are accepted"
    )


def placed_on(labels: Volume, like: Volume) -> np.ndarray:
    """Labels on the grid of another volume, in its array order; 0 where they do not reach.

    They may be turned another way, and cover fewer slices, as a DICOM segmentation does, but no voxel is resampled.

    Raises:
        AffineError: the voxels of the two do not coincide.
        DimensionError: the labels reach beyond the other volume.
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
    """Labels on their grid, carried on as far as another volume reaches, with 0 there; in canonical order.

    For labels whose file leaves out the slices without any, as DICOM segmentations do.

    Raises:
        AffineError: the voxels of the two do not coincide.
        LimitError: both together reach over more voxels than the limits allow.
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
    """The voxel of `whole` on which the first one of `part` lies; both are in canonical order."""
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
    """How far a grid's corners lie from those of another one, along each axis of that one in its voxels."""
    return np.abs(((np.linalg.inv(of) @ affine - np.eye(4)) @ _corners(shape))[:3]).max(axis=1)


def _corners(shape: Sequence[int]) -> np.ndarray:
    # All eight: what differs at some may cancel out at others.
    return np.array([[*corner, 1.0] for corner in itertools.product(*((-0.5, n - 0.5) for n in shape))]).T


def _pasted(array: np.ndarray, first: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    result = np.zeros(shape, array.dtype)
    result[tuple(slice(a, a + n) for a, n in zip(first, array.shape, strict=True))] = array
    return result
