"""Resampling over the same field of view: area means if voxels get larger, linear interpolation if they get smaller.

A volume is processed plane by plane in the order in which it lies in memory, each plane while it is in the processor's
cache. So the source is read only once, whatever its orientation, and never copied.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from keras_spatial.volumes.volume import DimensionError, Shape

# NumPy releases Python's lock while it works on a plane. With more threads than this, memory bandwidth is the limit.
_THREADS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True, eq=False)
class Axis:
    """The map from the voxels along one axis to those of another grid.

    New voxel i is `scale * sum over t of weight[t, i] * old[index[t, i]]`.

    Attributes:
        index: the indices of old voxels, intp `[taps, target]`, which do not decrease along the target.
        weight: their weights, float32 of the same shape.
        scale: the factor of the weighted sum.
        factor: if each new voxel is the mean of a number of whole old ones, this number, so that integers can be
            summed; otherwise 0.
    """

    index: np.ndarray
    weight: np.ndarray
    scale: float
    factor: int

    @classmethod
    def between(cls, source: int, target: int) -> "Axis":
        """The axis from `source` to `target` voxels over the same length."""
        if target > source:
            centre = np.clip((np.arange(target) + 0.5) * (source / target) - 0.5, 0, source - 1)
            left = np.minimum(centre.astype(np.intp), max(source - 2, 0))
            share = centre - left
            index = np.stack([left, np.minimum(left + 1, source - 1)])
            return cls(index, np.stack([1 - share, share]).astype(np.float32), 1.0, 0)
        factor = 0 if source % target else source // target
        # In exact fractions, new voxel i covers the old voxels from i source / target to (i + 1) source / target.
        start = np.arange(target) * source
        first = start // target
        taps = int((-(-(start + source) // target) - first).max())
        index = first + np.arange(taps)[:, None]
        overlap = np.minimum((index + 1) * target, start + source) - np.maximum(index * target, start)
        weight = (np.maximum(overlap, 0) / target).astype(np.float32)
        return cls(np.minimum(index, source - 1), weight, target / source, factor)

    @property
    def target(self) -> int:
        return self.index.shape[1]

    def cut(self, first: int, last: int) -> tuple["Axis", slice]:
        """The part for the new voxels from `first` to before `last`, and the range of old voxels that it reads."""
        index = self.index[:, first:last]
        start, stop = int(index.min()), int(index.max()) + 1
        return Axis(index - start, self.weight[:, first:last], self.scale, self.factor), slice(start, stop)

    def touching(self, start: int, stop: int) -> tuple[int, int]:
        """The first new voxel that reads old voxels from `start` to before `stop`, and the one after the last."""
        hit = np.flatnonzero(((self.index >= start) & (self.index < stop) & (self.weight > 0)).any(axis=0))
        return int(hit[0]), int(hit[-1]) + 1


def resample_image(array: np.ndarray, target_shape: Sequence[int]) -> np.ndarray:
    """Resample an image over the same field of view.

    Along an axis that gets fewer voxels, a new voxel is the mean over the part of the volume that it covers, which
    avoids aliasing; along an axis that gets more voxels, it is interpolated linearly between voxel centres.

    Args:
        array: an image `[X, Y, Z]` of any real dtype, in any memory order.
        target_shape: three positive voxel counts.

    Returns:
        A float32 array of shape `target_shape`, in the memory order of `array`.

    Raises:
        DimensionError: if the array does not have three axes, an axis is empty, or a count is not positive.

    Example:

    ```python
    half = ks.volumes.resample_image(volume.array, [n // 2 for n in volume.array.shape])
    ```
    """
    target = checked_target(array.shape, target_shape)
    if target == array.shape:
        return np.array(array, np.float32)
    along = axes(array.shape, target)
    result = sums(array, along)
    result *= np.float32(scale(along))
    return result


def axes(source: Sequence[int], target: Sequence[int]) -> tuple[Axis, Axis, Axis]:
    """The three axes between two grids."""
    x, y, z = (Axis.between(n, m) for n, m in zip(source, target, strict=True))
    return x, y, z


def checked_target(source: Sequence[int], shape: Sequence[int]) -> Shape:
    """The target shape of an array of shape `source`, as integers.

    Raises:
        DimensionError: if one of them is not a three-dimensional grid.
    """
    sizes = tuple(int(n) for n in shape)
    if len(source) != 3 or 0 in source:
        raise DimensionError(f"resampling: expected an array [X, Y, Z] without empty axes. Received: {tuple(source)}")
    if len(sizes) != 3 or min(sizes) < 1:
        raise DimensionError(f"resampling: expected three positive target sizes. Received: {tuple(shape)}")
    return sizes[0], sizes[1], sizes[2]


def scale(along: tuple[Axis, Axis, Axis]) -> float:
    """The factor by which `sums` must be multiplied. Its inverse is the sum over an array of ones."""
    return along[0].scale * along[1].scale * along[2].scale


def sums(array: np.ndarray, along: tuple[Axis, Axis, Axis]) -> np.ndarray:
    """Resample an array `[X, Y, Z]` along its axes without the scale; float32, and exact if whole voxels are summed."""
    order = sorted(range(3), key=lambda axis: -abs(array.strides[axis]))
    ordered = array.transpose(order)
    forward = tuple(slice(None, None, -1 if stride < 0 else 1) for stride in ordered.strides)
    outer, rows, columns = (_turned(along[a], f.step) for a, f in zip(order, forward, strict=True))
    result = _planes(ordered[forward], outer, rows, columns)[forward]
    return result.transpose(np.argsort(order))


def _turned(axis: Axis, step: int | None) -> Axis:
    """The axis for voxels in reverse order."""
    if step != -1:
        return axis
    last = int(axis.index.max())
    return Axis(last - axis.index[:, ::-1], axis.weight[:, ::-1], axis.scale, axis.factor)


def _planes(array: np.ndarray, outer: Axis, rows: Axis, columns: Axis) -> np.ndarray:
    """Resample an array whose last axis is contiguous in memory."""
    result = np.empty((outer.target, rows.target, columns.target), np.float32)
    kind = _exact_sums(array, rows, columns)

    def fill(indices: np.ndarray) -> None:
        planes: dict[int, np.ndarray] = {}
        for i in indices:
            taken: dict[int, np.ndarray] = {}
            for j, weight in zip(outer.index[:, i].tolist(), outer.weight[:, i], strict=True):
                if weight > 0:
                    if j not in planes:
                        planes[j] = _plane(array[j].astype(kind, copy=False), rows, columns)
                    part = planes[j] if weight == 1 else planes[j] * weight
                    if taken:
                        result[i] += part
                    else:
                        result[i] = part
                    taken[j] = planes[j]
            planes = taken

    parts = np.array_split(np.arange(outer.target), min(_THREADS, outer.target))
    if len(parts) == 1 or array.size < 1 << 18:
        fill(np.arange(outer.target))
    else:
        with ThreadPoolExecutor(len(parts)) as pool:
            list(pool.map(fill, parts))
    return result


def _plane(plane: np.ndarray, rows: Axis, columns: Axis) -> np.ndarray:
    plane = _rows(plane, rows)
    if columns.factor:
        return _total(plane.reshape(rows.target, columns.target, columns.factor))
    # Selecting rows copies contiguous memory, selecting columns does not, so the plane is transposed and back.
    return np.ascontiguousarray(_rows(np.ascontiguousarray(plane.T), columns).T)


def _rows(plane: np.ndarray, axis: Axis) -> np.ndarray:
    if axis.factor:
        return _total(np.moveaxis(plane.reshape(axis.target, axis.factor, -1), 1, 2))
    total = plane[axis.index[0]] * axis.weight[0][:, None]
    for index, weight in zip(axis.index[1:], axis.weight[1:], strict=True):
        total += plane[index] * weight[:, None]
    return total


def _total(groups: np.ndarray) -> np.ndarray:
    """The sum over the last axis, which is short; NumPy's own sum would loop over that axis for every voxel."""
    if groups.shape[-1] == 1:
        return groups[..., 0]
    total = groups[..., 0] + groups[..., 1]
    for k in range(2, groups.shape[-1]):
        total += groups[..., k]
    return total


def _exact_sums(array: np.ndarray, rows: Axis, columns: Axis) -> type[np.generic]:
    """int16 if no sum within a plane leaves its range, because that is twice as fast; otherwise float32."""
    if array.dtype.kind not in "biu":
        return np.float32
    largest = 1 if array.dtype.kind == "b" else max(abs(int(array.min())), abs(int(array.max())))
    terms = max(1, rows.factor) * max(1, columns.factor)
    return np.int16 if largest * terms <= np.iinfo(np.int16).max else np.float32
