"""Class numbers on grids: resampling that preserves every lesion, connected components, bounding boxes."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from keras_spatial.volumes.resampling import Axis, axes, checked_target, scale, sums
from keras_spatial.volumes.volume import DimensionError, LabelError

# The number of voxels of a slab: 16 MB for each of the few arrays that are held at once.
_SLAB = 1 << 22


def resample_labels(labels: np.ndarray, target_shape: Sequence[int], keep: Sequence[int] = (2,)) -> np.ndarray:
    """Resample class numbers over the same field of view, without losing small lesions.

    Each new voxel gets the class that covers most of it, measured as in `resample_image`. So volumes stay unbiased and
    edges smooth, but a lesion smaller than half a new voxel would vanish. Therefore, if a connected component (of
    voxels whose faces touch) of a class in `keep` has no voxel of its class left within its extent, it gets the new
    voxel that it covers most. Every lesion survives, and none grows beyond one voxel by this rule.

    Args:
        labels: integer class numbers from 0 to 255, `[X, Y, Z]`.
        target_shape: three positive voxel counts.
        keep: the classes whose components must survive; the default is LiTS's lesion.

    Returns:
        Class numbers, uint8 of shape `target_shape`.

    Raises:
        LabelError: if `labels` has other values.
        DimensionError: if `labels` does not have three axes, an axis is empty, or a count is not positive.

    Example:

    ```python
    small = ks.volumes.resample_labels(segmentation, (128, 128, 64))
    ```
    """
    labels = as_labels(labels)
    target = checked_target(labels.shape, target_shape)
    if target == labels.shape:
        return labels.copy()
    result = np.zeros(target, np.uint8)
    box = bounding_box(labels)
    if box is None:
        return result
    along = axes(labels.shape, target)
    # New voxels that do not touch the box are 0.
    cuts = [axis.cut(*axis.touching(part.start, part.stop)) for axis, part in zip(along, box, strict=True)]
    new = tuple(slice(*axis.touching(part.start, part.stop)) for axis, part in zip(along, box, strict=True))
    part, near = labels[tuple(old for _, old in cuts)], (cuts[0][0], cuts[1][0], cuts[2][0])
    best = np.zeros([axis.target for axis in near], np.float32)
    # The part of a voxel that no other class covers belongs to class 0, which wins ties as the lowest class.
    left = np.full(best.shape, 1 / scale(near), np.float32)
    for value in range(1, int(part.max()) + 1):
        mask = part == value
        if mask.any():
            cover = sums(mask, near)
            left -= cover
            _vote(result[new], best, cover, value)
    result[new][best <= left] = 0
    for value in keep:
        _restore_components(result, labels, box, along, int(value))
    return result


class Probabilities(Protocol):
    """An array `[X, Y, Z, classes]` of which planes along x are read one slab after the other."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, planes: slice, /) -> np.ndarray: ...


def labels_from_probabilities(
    probabilities: Probabilities, target_shape: Sequence[int], planes: slice | None = None
) -> np.ndarray:
    """The most probable class of each voxel of a finer or coarser grid over the same field of view.

    Probabilities are resampled rather than labels, so that class borders are more precise than the network's own
    voxels. This is done slab by slab, so that besides the classes only a slab of probabilities is held at the target's
    size; `probabilities` may be a file that is mapped into memory.

    Args:
        probabilities: class probabilities `[X, Y, Z, classes]` for at most 256 classes; other scores that grow with the
            probability work too.
        target_shape: three positive voxel counts.
        planes: which of the target's planes along x to compute, such as `slice(0, 64)`; all of them by default. The
            planes are the same whichever others are computed.

    Returns:
        Class numbers, uint8 of shape `target_shape`, or of those planes; the lower class wins a tie.

    Raises:
        DimensionError: if a shape is invalid.

    Example:

    ```python
    labels = ks.volumes.labels_from_probabilities(probabilities, volume.array.shape)
    ```
    """
    if len(probabilities.shape) != 4 or not 1 <= probabilities.shape[3] <= 256:
        raise DimensionError(f"probabilities: expected [X, Y, Z, classes]. Received: shape {probabilities.shape}")
    target = checked_target(probabilities.shape[:3], target_shape)
    along_x, along_y, along_z = axes(probabilities.shape[:3], target)
    start, stop, _ = (planes or slice(None)).indices(target[0])
    result = np.zeros((max(0, stop - start), *target[1:]), np.uint8)
    step = max(1, _SLAB // (target[1] * target[2]))
    for first in range(start, stop, step):
        last = min(first + step, stop)
        near, read = along_x.cut(first, last)
        along, slab = (near, along_y, along_z), probabilities[read]
        here = result[first - start : last - start]
        # The scale is the same for all classes, so the sums are enough.
        best = sums(slab[..., 0], along)
        for value in range(1, probabilities.shape[3]):
            _vote(here, best, sums(slab[..., value], along), value)
    return result


def _vote(result: np.ndarray, best: np.ndarray, score: np.ndarray, value: int) -> None:
    better = score > best
    result[better] = value
    np.maximum(best, score, out=best)


def as_labels(array: np.ndarray, name: str = "labels") -> np.ndarray:
    """Class numbers as uint8.

    Args:
        array: an array of numbers of any dtype, or a mask.
        name: the name of the labels in messages, such as that of their file.

    Raises:
        LabelError: unless every value is an integer from 0 to 255.

    Example:

    ```python
    import numpy as np

    labels = ks.volumes.as_labels(np.array([[0.0, 1.0, 2.0]]))  # uint8
    ```
    """
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.view(np.uint8)
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    if not (low >= 0 and high <= 255):
        raise LabelError(f"{name}: expected integers from 0 to 255. Received: values from {low:g} to {high:g}")
    result = array.astype(np.uint8)
    if array.dtype.kind == "f" and not np.array_equal(result, array):
        raise LabelError(f"{name}: expected integers. Received: fractional values")
    return result


def components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Number the connected components of a mask as LiTS does: voxels are connected if their faces touch.

    Args:
        mask: a mask, bool `[X, Y, Z]`.

    Returns:
        A uint32 array `[X, Y, Z]` with 0 outside the mask and 1 to n inside, and the number n.

    Example:

    ```python
    numbered, count = ks.volumes.components(volume.array > 300)
    ```
    """
    image = sitk.GetImageFromArray(np.ascontiguousarray(mask, np.uint8))
    numbered = sitk.GetArrayFromImage(sitk.ConnectedComponent(image, False))
    return numbered, int(numbered.max(initial=0))


def bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """The smallest box around the elements above 0, as one slice for each axis; None if there are no such elements.

    Args:
        mask: a mask or class numbers, of any shape.

    Example:

    ```python
    box = ks.volumes.bounding_box(segmentation)
    cropped = segmentation if box is None else segmentation[box]
    ```
    """
    # The axis with the largest stride comes first, so that memory is read in order.
    found: list[slice] = [slice(None)] * mask.ndim
    for axis in sorted(range(mask.ndim), key=lambda a: -abs(mask.strides[a])):
        part = mask[tuple(found)]
        # The maximum takes a tenth of the time of any().
        hit = np.flatnonzero(part.max(axis=tuple(a for a in range(mask.ndim) if a != axis), initial=0))
        if not hit.size:
            return None
        found[axis] = slice(int(hit[0]), int(hit[-1]) + 1)
    return tuple(found)


def _restore_components(
    result: np.ndarray, labels: np.ndarray, box: tuple[slice, ...], along: tuple[Axis, Axis, Axis], value: int
) -> None:
    inner = bounding_box(labels[box] == value)
    if inner is None:
        return
    box = tuple(slice(b.start + i.start, b.start + i.stop) for b, i in zip(box, inner, strict=True))
    numbered, _ = components(labels[box] == value)
    # The new voxel that contains the centre of each old voxel.
    centres = [((2 * np.arange(n) + 1) * m) // (2 * n) for n, m in zip(labels.shape, result.shape, strict=True)]
    for number, extent in enumerate(ndimage.find_objects(numbered.astype(np.int32, copy=False)), 1):
        component = numbered[extent] == number
        places = [slice(b.start + e.start, b.start + e.stop) for b, e in zip(box, extent, strict=True)]
        there = np.ix_(*(centre[place] for centre, place in zip(centres, places, strict=True)))
        if not ((result[there] == value) & component).any():
            result[_most_covered(component, places, along)] = value


def _most_covered(component: np.ndarray, places: list[slice], along: tuple[Axis, Axis, Axis]) -> tuple[int, ...]:
    """The new voxel that a component at `places` of the old grid covers most."""
    ranges = [axis.touching(place.start, place.stop) for axis, place in zip(along, places, strict=True)]
    cuts = [axis.cut(*new) for axis, new in zip(along, ranges, strict=True)]
    # The new voxels also read old voxels outside the component.
    padding = [(place.start - old.start, old.stop - place.stop) for (_, old), place in zip(cuts, places, strict=True)]
    cover = sums(np.pad(component, padding), (cuts[0][0], cuts[1][0], cuts[2][0]))
    place = np.unravel_index(int(cover.argmax()), cover.shape)
    return tuple(int(p) + first for p, (first, _) in zip(place, ranges, strict=True))
