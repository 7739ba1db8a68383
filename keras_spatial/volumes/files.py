"""Reading NIfTI files to their last byte, and writing them so that they appear only when complete."""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, cast

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib
from nibabel import orientations
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from keras_spatial.volumes.labels import as_labels
from keras_spatial.volumes.volume import (
    AffineError,
    DimensionError,
    NonFiniteError,
    Shape,
    UnreadableVolumeError,
    Volume,
    VolumeError,
)

# Deflate cannot compress better than 1:1032, so a header that promises more than that belongs to a damaged file.
_DEFLATE_LIMIT = 1032
# Bytes decompressed at a time.
_CHUNK = 1 << 20
# What igzip raises for a damaged stream; its stubs say that it is an instance.
_DAMAGED = cast(type[Exception], isal_zlib.error)


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
        array = _read_voxels(path, image).reshape(shape, order="F")
    except VolumeError:
        raise
    except MemoryError as error:
        raise UnreadableVolumeError(
            f"{path}: the voxels do not fit into this machine's memory. Use a machine with more memory, or check that "
            f"the header is not damaged. Received: {error}"
        ) from error
    except (OSError, EOFError, ValueError, TypeError, KeyError, OverflowError, zlib.error, _DAMAGED) as error:
        raise _unreadable(path, error) from error
    # The extremes of an array with NaN are NaN.
    if array.dtype.kind == "f" and not (np.isfinite(array.min()) and np.isfinite(array.max())):
        broken = array.size - int(np.count_nonzero(np.isfinite(array)))
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
    if image.get_data_dtype().names or image.get_data_dtype().kind not in "iuf":
        raise UnreadableVolumeError(
            f"{path}: expected one real number per voxel. Received: data type {image.get_data_dtype()}"
        )
    stored = np.empty(expected, np.uint8)
    with cast(BinaryIO, igzip.open(path) if compressed else path.open("rb")) as stream:
        stream.seek(image.dataobj.offset)
        _fill(stream, stored.data)
        # To the end of the stream, where gzip has its checksum.
        while compressed and stream.read(_CHUNK):
            pass
    return _scaled(stored.view(image.get_data_dtype()), image.dataobj.slope, image.dataobj.inter)


def _fill(stream: BinaryIO, into: memoryview) -> None:
    position = 0
    while position < len(into):
        count = stream.readinto(into[position : position + _CHUNK])
        if not count:
            raise EOFError(f"the voxels end after {position} of {len(into)} bytes")
        position += count


def _scaled(array: np.ndarray, slope: float, inter: float) -> np.ndarray:
    if array.dtype.kind == "f":
        array = array.astype(np.float32, copy=False)
    elif not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if (slope, inter) == (1, 0):
        return array
    array = array.astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        array *= np.float32(slope)
        array += np.float32(inter)
    return array


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
