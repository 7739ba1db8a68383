"""Read NRRD and MetaImage files (`.nrrd`, `.mha`).

SimpleITK interprets the header. The voxels are read here, because SimpleITK does not verify the checksum of a
compressed MetaImage, nor that of every NRRD file: a flipped bit would silently give a wrong voxel. Files whose voxels
are in another file are refused, because a header could name any file of the machine.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk
from isal import isal_zlib

from keras_spatial._paths import ITK, ending_of
from keras_spatial.volumes.files import checked_finite
from keras_spatial.volumes.headers import (
    DAMAGED,
    DEFLATE_LIMIT,
    check_affine,
    check_size,
    checked_file,
    nifti_header,
    raise_it,
)
from keras_spatial.volumes.limits import Limits
from keras_spatial.volumes.volume import (
    DimensionError,
    LimitError,
    Shape,
    UnreadableVolumeError,
    Volume,
    VolumeError,
)

_CHUNK = 1 << 20
# The text of a header must end within this many bytes.
_HEADER = 1 << 16
_DTYPES = {
    sitk.sitkInt8: np.int8, sitk.sitkUInt8: np.uint8, sitk.sitkInt16: np.int16, sitk.sitkUInt16: np.uint16,
    sitk.sitkInt32: np.int32, sitk.sitkUInt32: np.uint32, sitk.sitkInt64: np.int64, sitk.sitkUInt64: np.uint64,
    sitk.sitkFloat32: np.float32, sitk.sitkFloat64: np.float64,
}  # fmt: skip
# zlib's window bits for streams with a gzip header and with a zlib header.
_GZIP, _ZLIB = 31, 15


@dataclass(frozen=True)
class _Encoding:
    """Where the voxels begin in a file, how they are compressed (zlib's window bits, or 0), and their byte order."""

    offset: int
    window: int
    order: Literal["<", ">"]


@dataclass(frozen=True, eq=False)
class ItkHeader:
    """A header that has passed all checks, and how the voxels after it are stored.

    Attributes:
        shape: the number of voxels along the array's axes; trailing axes of length 1 are dropped.
        affine: the matrix, float64 `[4, 4]`, from voxel index to mm, with x to the right and y to the front.
        dtype: the dtype of the stored voxels, in the byte order of the file.
        offset: the number of bytes before the first voxel.
        window: zlib's window bits with which the voxels are compressed, or 0 if they are not.
    """

    shape: Shape
    affine: np.ndarray
    dtype: np.dtype
    offset: int
    window: int


def read_itk_header(path: Path, limits: Limits, channels: int = 1) -> ItkHeader:
    """Read the header of a `.nrrd` or `.mha` file, and check it against the limits and the size of the file.

    Args:
        path: the path of the file.
        limits: the limits that the volume must keep.
        channels: the number of images that the file must have, along its fourth axis if there are several.

    Raises:
        VolumeError: one of its subclasses, as for `read_volume`.
    """
    size = checked_file(path)
    try:
        with path.open("rb") as file:
            start = file.read(_HEADER)
        encoding = (_nrrd if ending_of(path, ITK) == ".nrrd" else _meta_image)(path, start)
        shape, affine, dtype = _geometry(path, channels)
        most = size * (DEFLATE_LIMIT if encoding.window else 1)
        check_size(path, encoding.offset, shape, channels, dtype, most, limits)
        check_affine(str(path), affine, shape, limits)
    except VolumeError:
        raise
    except (*DAMAGED, RuntimeError) as error:
        raise _unreadable(path, error) from error
    return ItkHeader(shape, affine, dtype.newbyteorder(encoding.order), encoding.offset, encoding.window)


def read_itk(path: Path, limits: Limits, channels: int = 1) -> list[Volume]:
    """Read the channels of a `.nrrd` or `.mha` file; see `keras_spatial.volumes.read_channels`."""
    header = read_itk_header(path, limits, channels)
    wanted = math.prod(header.shape) * channels * header.dtype.itemsize
    try:
        array = _voxels(path, header, wanted, limits).view(header.dtype)
        array = array.reshape((*header.shape, channels), order="F")
        if array.dtype.kind == "f":
            # Values beyond float32 become infinite and are refused below.
            with np.errstate(over="ignore", invalid="ignore"):
                array = array.astype(np.float32, copy=False)
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
    except VolumeError:
        raise
    except MemoryError as error:
        raise UnreadableVolumeError(f"{path}: the voxels do not fit into this machine's memory: {error}") from error
    except DAMAGED as error:
        raise _unreadable(path, error) from error
    return [
        checked_finite(Volume(one, header.affine, nifti_header(one, header.affine), path))
        for one in (array[..., channel] for channel in range(channels))
    ]


def _unreadable(path: Path, error: Exception) -> UnreadableVolumeError:
    return UnreadableVolumeError(
        f"{path}: not a complete NRRD or MetaImage file; copy or download it again. Received: "
        f"{type(error).__name__}: {str(error)[:500]}"
    )


def _geometry(path: Path, channels: int) -> tuple[Shape, np.ndarray, np.dtype]:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("NrrdImageIO" if ending_of(path, ITK) == ".nrrd" else "MetaImageIO")
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    size, values = tuple(int(n) for n in reader.GetSize()), int(reader.GetNumberOfComponents())
    rest = tuple(n for n in size[3:] if n != 1)
    if len(size) < 3 or 0 in size or rest != ((channels,) if channels > 1 else ()) or values != 1:
        expected = "a three-dimensional image" if channels == 1 else f"{channels} channels along the fourth axis"
        raise DimensionError(
            f"{path}: expected {expected} with one value per voxel, or give each channel its own file. Received: "
            f"size {size}, {values} values per voxel"
        )
    kind = _DTYPES.get(reader.GetPixelID())
    if kind is None:
        raise UnreadableVolumeError(
            f"{path}: expected one real number per voxel. Received: {sitk.GetPixelIDValueAsString(reader.GetPixelID())}"
        )
    d = len(size)
    affine = np.eye(4)
    direction = np.array(reader.GetDirection(), np.float64).reshape(d, d)[:3, :3]
    affine[:3, :3], affine[:3, 3] = direction * np.array(reader.GetSpacing()[:3]), reader.GetOrigin()[:3]
    # ITK's axes run to the left and to the back, NIfTI's to the right and to the front.
    return (size[0], size[1], size[2]), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, np.dtype(kind)


def _nrrd(path: Path, start: bytes) -> _Encoding:
    end = min((start.find(mark) + len(mark) for mark in (b"\n\n", b"\r\n\r\n") if mark in start), default=0)
    if not start.startswith(b"NRRD000") or not end:
        raise UnreadableVolumeError(f"{path}: not an NRRD file. Received: it begins with {start[:8].hex()}")
    fields = _fields(start[:end], ":")
    if "data file" in fields or "datafile" in fields:
        raise UnreadableVolumeError(f"{path}: expected the voxels in the file itself. Received: a detached header")
    if any(fields.get(name, "0") != "0" for name in ("line skip", "lineskip", "byte skip", "byteskip")):
        raise UnreadableVolumeError(f"{path}: expected voxels directly after the header. Received: bytes to skip")
    encoding = fields.get("encoding", "").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise UnreadableVolumeError(f"{path}: expected encoding raw or gzip. Received: {encoding[:40]!r}")
    return _Encoding(end, 0 if encoding == "raw" else _GZIP, ">" if fields.get("endian", "").lower() == "big" else "<")


def _meta_image(path: Path, start: bytes) -> _Encoding:
    place = start.find(b"ElementDataFile")
    end = start.find(b"\n", place) + 1
    if place < 0 or not end:
        raise UnreadableVolumeError(f"{path}: not a MetaImage file. Received: it begins with {start[:8].hex()}")
    fields = _fields(start[:end], "=")
    if fields.get("elementdatafile", "").upper() != "LOCAL":
        raise UnreadableVolumeError(
            f"{path}: expected the voxels in the file itself (ElementDataFile = LOCAL). Received: another file's name"
        )
    if _yes(fields, "headersize") or fields.get("headersize", "0") != "0":
        raise UnreadableVolumeError(f"{path}: expected voxels directly after the header. Received: HeaderSize")
    if not _yes(fields, "binarydata"):
        raise UnreadableVolumeError(f"{path}: expected binary voxels (BinaryData = True). Received: text")
    big = _yes(fields, "binarydatabyteordermsb") or _yes(fields, "elementbyteordermsb")
    return _Encoding(end, _ZLIB if _yes(fields, "compresseddata") else 0, ">" if big else "<")


def _yes(fields: dict[str, str], name: str) -> bool:
    return fields.get(name, "").lower() in ("true", "1", "t")


def _fields(text: bytes, between: str) -> dict[str, str]:
    lines = (line.partition(between) for line in text.decode("latin-1").splitlines() if not line.startswith("#"))
    return {name.strip().lower(): value.strip() for name, found, value in lines if found}


def _voxels(path: Path, header: ItkHeader, wanted: int, limits: Limits) -> np.ndarray:
    stored = np.empty(wanted, np.uint8)
    position = trailing = 0
    for part in _parts(path, header):
        count = min(len(part), wanted - position)
        stored[position : position + count] = np.frombuffer(part, np.uint8, count)
        position, trailing = position + count, trailing + len(part) - count
        if trailing > limits.trailing_bytes:
            raise LimitError(
                f"{path}: expected at most {limits.trailing_bytes} bytes after the voxels; is the header that of "
                f"another file? {raise_it('trailing_bytes')}"
            )
    if position < wanted:
        raise EOFError(f"the voxels end after {position} of {wanted} bytes")
    return stored


def _parts(path: Path, header: ItkHeader) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(header.offset)
        if not header.window:
            while part := file.read(_CHUNK):
                yield part
            return
        stream = isal_zlib.decompressobj(header.window)
        while not stream.eof and (packed := stream.unconsumed_tail or file.read(_CHUNK)):
            yield stream.decompress(packed, _CHUNK)
        while not stream.eof and (rest := stream.decompress(b"", _CHUNK)):
            yield rest
        if not stream.eof:
            raise EOFError("the compressed voxels end before their checksum")
