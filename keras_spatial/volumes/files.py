"""Read NIfTI files to their last byte, and write label files so that they appear only when they are complete."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np

from keras_spatial._paths import partial
from keras_spatial.volumes.headers import DAMAGED, Header, opened, raise_it, read_header, unreadable
from keras_spatial.volumes.labels import as_labels
from keras_spatial.volumes.limits import Limits
from keras_spatial.volumes.volume import (
    DimensionError,
    LimitError,
    NonFiniteError,
    UnreadableVolumeError,
    Volume,
    VolumeError,
)

# The number of bytes that are decompressed at a time.
_CHUNK = 1 << 20


def read_nifti(path: Path, limits: Limits, channels: int = 1) -> list[Volume]:
    """Read the channels and every byte of a NIfTI-1 or NIfTI-2 file; see `keras_spatial.volumes.read_channels`."""
    header = read_header(path, limits, channels)
    try:
        array = _read_voxels(path, header, limits).reshape((*header.shape, channels), order="F")
    except VolumeError:
        raise
    except MemoryError as error:
        raise UnreadableVolumeError(
            f"{path}: the voxels do not fit into this machine's memory. Use a machine with more memory, or check that "
            f"the header is not damaged. Received: {error}"
        ) from error
    except DAMAGED as error:
        raise unreadable(path, error) from error
    return [checked_finite(Volume(array[..., c], header.affine, header.header, path)) for c in range(channels)]


def checked_finite(volume: Volume) -> Volume:
    """Return the volume if all its voxels are finite.

    Raises:
        NonFiniteError: if it has NaN or infinite voxels; the message says how many.
    """
    array = volume.array
    # The extremes of an array with NaN are NaN.
    if array.dtype.kind == "f" and not (np.isfinite(array.min()) and np.isfinite(array.max())):
        broken = array.size - int(np.count_nonzero(np.isfinite(array)))
        raise NonFiniteError(
            f"{volume.path}: expected finite voxels. Received: {broken} NaN or infinite of {array.size}"
        )
    return volume


def read_slabs(path: Path, voxels: int = 1 << 22) -> Iterator[np.ndarray]:
    """The voxels of a NIfTI file, a few planes along its last axis at a time, so that they are never whole in memory.

    Args:
        path: the path of the file.
        voxels: how many voxels a slab should have, which is at least one plane.

    Yields:
        Arrays `[X, Y, planes]` in the order of the file, which together are the array of `read_volume`.

    Raises:
        VolumeError: as `read_volume`.
    """
    limits = Limits.current()
    header = read_header(path, limits, 1)
    x, y, z = header.shape
    planes = max(1, voxels // (x * y))
    try:
        with opened(path) as (stream, _):
            stream.seek(header.offset)
            for first in range(0, z, planes):
                count = min(planes, z - first)
                stored = np.empty(x * y * count * header.dtype.itemsize, np.uint8)
                _fill(stream, stored.data)
                array = _scaled(stored.view(header.dtype), header.slope, header.inter).reshape((x, y, count), order="F")
                yield checked_finite(Volume(array, header.affine, header.header, path)).array
            _check_end(path, stream, limits)
    except VolumeError:
        raise
    except DAMAGED as error:
        raise unreadable(path, error) from error


def _read_voxels(path: Path, header: Header, limits: Limits) -> np.ndarray:
    stored = np.empty(header.voxel_bytes, np.uint8)
    with opened(path) as (stream, _):
        stream.seek(header.offset)
        _fill(stream, stored.data)
        _check_end(path, stream, limits)
    return _scaled(stored.view(header.dtype), header.slope, header.inter)


def _check_end(path: Path, stream: BinaryIO, limits: Limits) -> None:
    """Read to the end of the stream, where gzip has its checksum."""
    trailing = 0
    while count := len(stream.read(_CHUNK)):
        trailing += count
        if trailing > limits.trailing_bytes:
            raise LimitError(
                f"{path}: expected at most {limits.trailing_bytes} bytes after the voxels; is the header that of "
                f"another file? Received: at least {trailing}. {raise_it('trailing_bytes')}"
            )


def _fill(stream: BinaryIO, into: memoryview) -> None:
    position = 0
    while position < len(into):
        count = stream.readinto(into[position : position + _CHUNK])  # pyright: ignore - typing's BinaryIO lacks it.
        if not count:
            raise EOFError(f"the voxels end after {position} of {len(into)} bytes")
        position += count


def _scaled(array: np.ndarray, slope: float, inter: float) -> np.ndarray:
    if array.dtype.kind == "f":
        # Values beyond float32 become infinite, which the caller refuses.
        with np.errstate(over="ignore", invalid="ignore"):
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


def write_nifti(path: Path, labels: np.ndarray, like: Volume) -> Path:
    """Write class numbers as a uint8 NIfTI file; see `write_labels`."""
    if labels.shape != like.array.shape:
        raise DimensionError(f"{path}: expected labels of shape {like.array.shape}. Received: {labels.shape}")
    header = like.header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    image = nib.Nifti1Image if header["sizeof_hdr"] == 348 else nib.Nifti2Image
    path.parent.mkdir(parents=True, exist_ok=True)
    part = partial(path)
    try:
        nib.save(image(as_labels(labels), like.affine, header), part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path
