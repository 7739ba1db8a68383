"""CT volumes as NIfTI files: reading, orientation, resampling, the Hounsfield window, writing.

The data sets and the inference share these functions, so that a network sees at inference what it saw in training.
Needs the `medical` extra (nibabel, SciPy, SimpleITK) and no TensorFlow.

Grids: a volume covers its field of view with voxels side by side. Resampling keeps the field of view and changes the
number of voxels, so that voxel i of n covers the part [i/n, (i+1)/n] of the axis on every grid.
"""

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel import orientations
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from scipy import ndimage, sparse

Shape = tuple[int, int, int]

# Deflate cannot compress better than 1:1032, so a header that promises more than that belongs to a damaged file.
_DEFLATE_LIMIT = 1032
# Slices resampled at a time: bounds the float32 copy of a native CT (512 x 512 x 1000) to some tens of megabytes.
_SLAB = 32


class VolumeError(ValueError):
    """A volume file, or an array that belongs to one, cannot be used."""


class UnreadableVolumeError(VolumeError):
    """The file is missing, truncated, damaged, or no NIfTI file."""


class DimensionError(VolumeError):
    """The image is not three-dimensional, or has an empty axis."""


class AffineError(VolumeError):
    """The affine does not place the voxels in space in millimetres."""


class NonFiniteError(VolumeError):
    """The image holds NaN or infinite voxels."""


class LabelError(VolumeError):
    """A label volume holds something other than small non-negative integers."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3D image and where it lies in the patient.

    Attributes:
        array: voxels `[X, Y, Z]`: HU for a CT, class numbers for labels. Integers as stored; floats as float32.
        affine: float64 `[4, 4]`, voxel index to millimetres, NIfTI convention (x to the right, y to the front, z up).
        header: header of the file it was read from, in the orientation of the file.
        path: that file.
    """

    array: np.ndarray
    affine: np.ndarray
    header: nib.Nifti1Header
    path: Path

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxel centres along each array axis, in mm."""
        x, y, z = nib.affines.voxel_sizes(self.affine)
        return float(x), float(y), float(z)

    @property
    def orientation(self) -> str:
        """Where the array axes point, as axis codes, for instance "RAS"."""
        return "".join(orientations.aff2axcodes(self.affine))


def read_volume(path: str | Path) -> Volume:
    """Read a three-dimensional NIfTI-1 or NIfTI-2 file (`.nii` or `.nii.gz`), every byte of it.

    Trailing axes of length 1, which some LiTS files have, are dropped. A compressed file is read to its checksum: a
    flipped bit is an error and never a wrong voxel.

    Raises:
        UnreadableVolumeError: missing, truncated, damaged, or not NIfTI.
        DimensionError: not three-dimensional.
        AffineError: singular or non-finite affine, or units other than millimetres.
        NonFiniteError: NaN or infinite voxels.
    """
    path = Path(path)
    if not path.is_file():
        raise UnreadableVolumeError(f"{path}: no such file. Expected a NIfTI file (.nii or .nii.gz).")
    try:
        image = _load(path)
        shape = _spatial_shape(path, image.shape)
        affine = _checked_affine(path, image)
        array = np.asarray(_read_voxels(path, image)).reshape(shape)
    except VolumeError:
        raise
    except MemoryError as error:
        raise UnreadableVolumeError(
            f"{path}: the voxels do not fit into this machine's memory. Use a machine with more memory, or check that "
            f"the header is not damaged. Received: {error}"
        ) from error
    except (OSError, EOFError, ValueError, TypeError, KeyError, OverflowError, zlib.error) as error:
        raise _unreadable(path, error) from error
    if array.dtype.kind == "c" or array.dtype.names:
        raise UnreadableVolumeError(f"{path}: expected one real number per voxel. Received: data type {array.dtype}")
    if array.dtype.kind == "f":
        array = array.astype(np.float32, copy=False)
        broken = array.size - int(np.count_nonzero(np.isfinite(array)))
        if broken:
            raise NonFiniteError(f"{path}: expected finite voxels. Received: {broken} NaN or infinite of {array.size}")
    return Volume(array, affine, image.header, path)


def _unreadable(path: Path, error: Exception) -> UnreadableVolumeError:
    return UnreadableVolumeError(
        f"{path}: not a complete NIfTI file; copy or download it again. Received: {type(error).__name__}: {error}"
    )


def _load(path: Path) -> nib.Nifti1Image:
    try:
        image = nib.load(path, mmap=False)
    except (ImageFileError, HeaderDataError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(image, nib.Nifti1Image):
        raise UnreadableVolumeError(f"{path}: expected one NIfTI file. Received: a {type(image).__name__}")
    return image


def _spatial_shape(path: Path, shape: Sequence[int]) -> Shape:
    if len(shape) < 3 or any(n != 1 for n in shape[3:]) or any(n < 1 for n in shape[:3]):
        raise DimensionError(f"{path}: expected a three-dimensional image (x, y, z). Received: shape {tuple(shape)}")
    return int(shape[0]), int(shape[1]), int(shape[2])


def _checked_affine(path: Path, image: nib.Nifti1Image) -> np.ndarray:
    affine = image.affine
    units = image.header.get_xyzt_units()[0]
    if units not in ("mm", "unknown"):
        raise AffineError(f"{path}: expected lengths in mm. Received: unit {units!r} in the header")
    if affine is None or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise AffineError(f"{path}: expected a finite, invertible affine. Received: {np.asarray(affine).tolist()}")
    if np.isnan(orientations.io_orientation(affine)).any():
        raise AffineError(f"{path}: the affine maps two array axes to one direction. Received: {affine.tolist()}")
    return np.asarray(affine, np.float64)


def _read_voxels(path: Path, image: nib.Nifti1Image) -> np.ndarray:
    expected = int(np.prod(image.shape, dtype=object)) * image.get_data_dtype().itemsize
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    size = path.stat().st_size
    if expected > size * (_DEFLATE_LIMIT if compressed else 1):
        raise UnreadableVolumeError(
            f"{path}: the file is truncated or its header is damaged; copy or download it again. "
            f"Received: {size} bytes for {expected} bytes of voxels, shape {tuple(image.shape)}"
        )
    if not compressed:
        return np.asarray(image.dataobj)
    # nibabel stops after the last voxel, before the checksum that gzip verifies at the end of the stream.
    with gzip.open(path) as stream:
        array = np.asarray(type(image).from_stream(stream).dataobj)
        while stream.read(1 << 20):
            pass
    return array


def to_canonical(volume: Volume) -> Volume:
    """Flip and swap axes so that the array runs closest to right, anterior, superior (RAS); no interpolation.

    Returns:
        The same voxels on the same places in the patient: `array` a contiguous array, `affine` updated. `header` is
        still that of the file.
    """
    change = orientations.io_orientation(volume.affine)
    array = np.ascontiguousarray(orientations.apply_orientation(volume.array, change))
    affine = volume.affine @ orientations.inv_ornt_aff(change, volume.array.shape)
    return Volume(array, affine, volume.header, volume.path)


def from_canonical(array: np.ndarray, original: Volume) -> np.ndarray:
    """Undo `to_canonical`: bring an RAS array on the grid of `original` into the array order of `original`.

    Args:
        array: `[X, Y, Z]`, on the grid of `to_canonical(original)`.
        original: the volume as read.

    Raises:
        DimensionError: if the shapes do not belong together.
    """
    change = orientations.io_orientation(original.affine)
    result = np.ascontiguousarray(orientations.apply_orientation(array, _inverse(change)))
    if result.shape != original.array.shape:
        raise DimensionError(
            f"from_canonical: expected an array on the RAS grid of {original.path}, shape {original.array.shape} in "
            f"the file's order. Received: shape {array.shape}"
        )
    return result


def _inverse(change: np.ndarray) -> np.ndarray:
    # Row a of an orientation says: array axis a becomes axis `target`, running backwards where `flip` is -1.
    inverse = np.empty_like(change)
    for axis, (target, flip) in enumerate(change):
        inverse[int(target)] = axis, flip
    return inverse


def hu_window(array: np.ndarray) -> np.ndarray:
    """Hounsfield units to the network's input: `clip(HU / 1024 + 0.5, 0, 1)`, that is -512 HU to 0 and 512 HU to 1.

    The window of the released code of Hou et al., "High Resolution Medical Image Analysis with Spatial Partitioning",
    arXiv 1909.03108 (`tensorflow/mesh`, `experimental/unet.py`).

    Args:
        array: HU, any shape.

    Returns:
        float32, same shape.
    """
    result = np.asarray(array, np.float32) * np.float32(1 / 1024)
    result += np.float32(0.5)
    return np.clip(result, 0, 1, out=result)


def resample_image(array: np.ndarray, target_shape: Sequence[int]) -> np.ndarray:
    """Resample an image over the same field of view.

    Along an axis that gets fewer voxels, a new voxel is the mean over the part of the volume it covers (no aliasing);
    along an axis that gets more, it is interpolated linearly between voxel centres.

    Args:
        array: `[X, Y, Z]`, any real type.
        target_shape: three positive voxel counts.

    Returns:
        float32 `[*target_shape]`.
    """
    target = _target(array, target_shape)
    if target == array.shape:
        return np.array(array, np.float32)
    wx, wy, wz = (_weights(n, m) for n, m in zip(array.shape, target, strict=True))
    planes = np.empty((*target[:2], array.shape[2]), np.float32)
    for start in range(0, array.shape[2], _SLAB):
        slab = np.asarray(array[:, :, start : start + _SLAB], np.float32)
        planes[:, :, start : start + _SLAB] = _along(_along(slab, wx, 0), wy, 1)
    return _along(planes, wz, 2)


def resample_labels(labels: np.ndarray, target_shape: Sequence[int], keep: Sequence[int] = (2,)) -> np.ndarray:
    """Resample class numbers over the same field of view, losing no small lesion.

    Each new voxel gets the class that covers most of it, as `resample_image` measures cover: volumes stay unbiased
    and edges smooth, but a lesion smaller than half a new voxel would be outvoted everywhere. So a connected component
    (faces touching) of a class in `keep` that has no voxel of its class left within its extent gets one: the new voxel
    that it covers most. Every lesion survives, and none grows beyond one voxel by this rule.

    Args:
        labels: integers 0 to 255, `[X, Y, Z]`.
        target_shape: three positive voxel counts.
        keep: classes whose components must survive; the default is LiTS's lesion.

    Returns:
        uint8 `[*target_shape]`.

    Raises:
        LabelError: if `labels` holds other numbers.
    """
    labels = as_labels(labels)
    target = _target(labels, target_shape)
    if target == labels.shape:
        return labels.copy()
    result = np.zeros(target, np.uint8)
    cover = np.full(target, -1, np.float32)
    # A plane at a time: bincount copies its input to int64.
    present = sum(np.bincount(plane.ravel(), minlength=256) for plane in labels)
    for value in np.flatnonzero(present):
        _vote(result, cover, resample_image(labels == value, target), int(value))
    for value in keep:
        _restore_components(result, labels, int(value))
    return result


def labels_from_probabilities(probabilities: np.ndarray, target_shape: Sequence[int]) -> np.ndarray:
    """The most probable class of each voxel of a finer or coarser grid over the same field of view.

    Probabilities are resampled, not labels, so that class borders follow the network's certainty below its own voxel
    size. One class is held at the target's size at a time.

    Args:
        probabilities: `[X, Y, Z, classes]`, classes at most 256; scores of any monotone kind do.
        target_shape: three positive voxel counts.

    Returns:
        uint8 class numbers `[*target_shape]`; the lower class wins a tie.
    """
    if probabilities.ndim != 4 or not 1 <= probabilities.shape[3] <= 256:
        raise DimensionError(f"probabilities: expected [X, Y, Z, classes]. Received: shape {probabilities.shape}")
    target = _target(probabilities[..., 0], target_shape)
    result = np.zeros(target, np.uint8)
    best = resample_image(probabilities[..., 0], target)
    for value in range(1, probabilities.shape[3]):
        _vote(result, best, resample_image(probabilities[..., value], target), value)
    return result


def _vote(result: np.ndarray, best: np.ndarray, score: np.ndarray, value: int) -> None:
    better = score > best
    result[better] = value
    np.maximum(best, score, out=best)


def as_labels(array: np.ndarray) -> np.ndarray:
    """Class numbers as uint8.

    Raises:
        LabelError: unless every value is an integer from 0 to 255.
    """
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.view(np.uint8)
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    if not (low >= 0 and high <= 255):
        raise LabelError(f"labels: expected integers from 0 to 255. Received: values from {low:g} to {high:g}")
    result = array.astype(np.uint8)
    if array.dtype.kind == "f" and not np.array_equal(result, array):
        raise LabelError("labels: expected integers. Received: fractional values")
    return result


def components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Number the connected components (faces touching, 6 neighbours in 3D) of a mask, as LiTS does.

    Args:
        mask: bool `[X, Y, Z]`.

    Returns:
        uint32 `[X, Y, Z]` with 0 outside and 1 to n inside, and n.
    """
    image = sitk.GetImageFromArray(np.ascontiguousarray(mask, np.uint8))
    numbered = sitk.GetArrayFromImage(sitk.ConnectedComponent(image, False))
    return numbered, int(numbered.max(initial=0))


def bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """The smallest box around the true voxels, or None where there are none."""
    found = []
    for axis in range(mask.ndim):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        if not hit.size:
            return None
        found.append(slice(int(hit[0]), int(hit[-1]) + 1))
    return tuple(found)


def write_labels(path: str | Path, labels: np.ndarray, like: Volume) -> Path:
    """Write class numbers as a uint8 NIfTI file with the header, orientation and affine of `like`.

    The file appears under its name only when it is complete.

    Args:
        path: ends in `.nii` or `.nii.gz`.
        labels: integers 0 to 255 on the grid and in the array order of `like`.
        like: the volume as read by `read_volume`.

    Raises:
        VolumeError: if the name or the shape do not fit.
    """
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise VolumeError(f"{path}: expected a name that ends in .nii or .nii.gz. Received: {path.name!r}")
    if labels.shape != like.array.shape:
        raise DimensionError(f"{path}: expected labels of shape {like.array.shape}. Received: {labels.shape}")
    header = like.header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    image = nib.Nifti1Image if header["sizeof_hdr"] == 348 else nib.Nifti2Image
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".part-{path.name}")
    try:
        nib.save(image(as_labels(labels), like.affine, header), part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _target(array: np.ndarray, shape: Sequence[int]) -> Shape:
    sizes = tuple(int(n) for n in shape)
    if array.ndim != 3 or 0 in array.shape:
        raise DimensionError(f"resampling: expected an array [X, Y, Z] without empty axes. Received: {array.shape}")
    if len(sizes) != 3 or min(sizes) < 1:
        raise DimensionError(f"resampling: expected three positive target sizes. Received: {tuple(shape)}")
    return sizes[0], sizes[1], sizes[2]


def _weights(source: int, target: int) -> sparse.csr_array:
    """The matrix [target, source], rows summing to 1, that resamples one axis."""
    if target <= source:
        edges = np.arange(target + 1) * (source / target)
        fine = np.arange(source)
        rows, columns, values = [], [], []
        for row in range(target):
            first, last = int(edges[row]), min(int(np.ceil(edges[row + 1])), source)
            part = fine[first:last]
            overlap = np.minimum(part + 1, edges[row + 1]) - np.maximum(part, edges[row])
            rows.append(np.full(part.size, row))
            columns.append(part)
            values.append(overlap / overlap.sum())
        entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
    else:
        centre = np.clip((np.arange(target) + 0.5) * (source / target) - 0.5, 0, source - 1)
        left = np.minimum(centre.astype(int), max(source - 2, 0))
        right = np.minimum(left + 1, source - 1)
        share = centre - left
        rows = np.arange(target)
        entries = np.concatenate([1 - share, share]), (np.tile(rows, 2), np.concatenate([left, right]))
    return sparse.csr_array(entries, shape=(target, source), dtype=np.float32)


def _along(array: np.ndarray, weights: sparse.csr_array, axis: int) -> np.ndarray:
    moved = np.moveaxis(array, axis, 0)
    flat = np.ascontiguousarray(moved).reshape(moved.shape[0], -1)
    return np.moveaxis((weights @ flat).reshape(-1, *moved.shape[1:]), 0, axis)


def _restore_components(result: np.ndarray, labels: np.ndarray, value: int) -> None:
    box = bounding_box(labels == value)
    if box is None:
        return
    numbered, count = components(labels[box] == value)
    scale = [m / n for n, m in zip(labels.shape, result.shape, strict=True)]
    where = np.nonzero(numbered)
    coarse = tuple(
        np.minimum(((w + b.start + 0.5) * s).astype(np.intp), m - 1)
        for w, b, s, m in zip(where, box, scale, result.shape, strict=True)
    )
    present = np.bincount(numbered[where], weights=result[coarse] == value, minlength=count + 1)
    extents = ndimage.find_objects(numbered.astype(np.int32, copy=False))
    matrices = [_weights(n, m) for n, m in zip(labels.shape, result.shape, strict=True)]
    for number in np.flatnonzero(present[1:] == 0) + 1:
        extent = extents[number - 1]
        cover = (numbered[extent] == number).astype(np.float32)
        offset = []
        for axis, matrix in enumerate(matrices):
            first, last = box[axis].start + extent[axis].start, box[axis].start + extent[axis].stop
            columns = matrix[:, first:last]
            rows = np.flatnonzero(columns.sum(axis=1))
            cover = _along(cover, columns[rows[0] : rows[-1] + 1], axis)
            offset.append(rows[0])
        place = np.unravel_index(int(cover.argmax()), cover.shape)
        result[tuple(int(p) + int(o) for p, o in zip(place, offset, strict=True))] = value
