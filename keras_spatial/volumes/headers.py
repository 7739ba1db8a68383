"""Headers of NIfTI files: every field is checked before anything is allocated or computed from it.

nibabel repairs fields where it can: a distance of 0 becomes 1 mm, an infinite scale is ignored, an unknown code becomes
0. So it may silently read a different scan. Here such a field is an error that names the field.
"""

import io
import math
import os
import stat
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib
from nibabel import orientations
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from keras_spatial._paths import UNREAD, ending_of, fault_of_name, kind_of, printable
from keras_spatial.volumes.limits import VARIABLE, Limits
from keras_spatial.volumes.volume import (
    AffineError,
    DimensionError,
    FileNameError,
    LimitError,
    ScaleError,
    Shape,
    SpacingError,
    UnreadableVolumeError,
    VolumeError,
)

# Deflate cannot compress better than 1:1032, so a header that promises more than that belongs to a damaged file.
DEFLATE_LIMIT = 1032
# The errors that reading a damaged file may raise. The cast is needed because isal's stubs type its error as an
# instance.
DAMAGED: tuple[type[Exception], ...] = (
    OSError, EOFError, ValueError, TypeError, KeyError, OverflowError, struct.error, zlib.error,
    cast(type[Exception], isal_zlib.error), ImageFileError, HeaderDataError,
)  # fmt: skip
_KINDS = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
# NIfTI allows any number of extensions of at least 16 bytes, but files have only a few.
_EXTENSIONS = 1024
_UNITS = {0: "unknown", 1: "meter", 2: "mm", 3: "micron"}


@dataclass(frozen=True, eq=False)
class Header:
    """A header that has passed all checks, and how the voxels after it are stored.

    Attributes:
        header: nibabel's header, with the file's extensions.
        shape: the number of voxels along the array's axes; trailing axes of length 1 are dropped.
        affine: the matrix, float64 `[4, 4]`, from voxel index to mm.
        dtype: the dtype of the stored voxels, in the byte order of the file.
        offset: the number of bytes before the first voxel.
        slope, inter: the value of a stored voxel is `slope * voxel + inter`.
        compressed: whether the file is a gzip stream.
        channels: the number of images in the file, which are stored one after another.
    """

    header: nib.Nifti1Header
    shape: Shape
    affine: np.ndarray
    dtype: np.dtype
    offset: int
    slope: float
    inter: float
    compressed: bool
    channels: int = 1

    @property
    def voxel_bytes(self) -> int:
        return math.prod(self.shape) * self.channels * self.dtype.itemsize


def read_header(path: str | Path, limits: Limits | None = None, channels: int = 1) -> Header:
    """Read the header of a NIfTI-1 or NIfTI-2 file, and check every field that determines voxels or their positions.

    Args:
        path: the path of a `.nii` or `.nii.gz` file.
        limits: the limits that the volume must keep; `Limits.current()` by default.
        channels: the number of images that the file must have, along its fourth axis if there are several.

    Raises:
        VolumeError: one of its subclasses, as for `read_volume`.
    """
    path = Path(path)
    limits = limits or Limits.current()
    size = checked_file(path)
    try:
        with opened(path) as (stream, compressed):
            fields, header, offset = _fields(path, stream, limits)
    except VolumeError:
        raise
    except DAMAGED as error:
        raise unreadable(path, error) from error
    shape = _checked_shape(path, fields, channels)
    dtype = _checked_type(path, header)
    # The size is checked before scale and affine, because it is the most likely to reveal that a header is damaged.
    check_size(path, offset, shape, channels, dtype, size * (DEFLATE_LIMIT if compressed else 1), limits)
    slope, inter = _checked_scale(path, fields)
    affine = _checked_affine(path, fields, header, shape, limits)
    return Header(header, shape, affine, dtype, offset, slope, inter, compressed, channels)


def unreadable(path: Path, error: Exception) -> UnreadableVolumeError:
    """The error for a file without the content that its header promises."""
    return UnreadableVolumeError(
        f"{path}: not a complete NIfTI file; copy or download it again. Received: {type(error).__name__}: {error}"
    )


def nifti_header(array: np.ndarray, affine: np.ndarray) -> nib.Nifti1Header:
    """The NIfTI header of a volume that was read from another format."""
    header = nib.Nifti1Header()
    header.set_data_shape(array.shape)
    header.set_data_dtype(array.dtype)
    header.set_qform(affine, 1, strip_shears=True)
    header.set_sform(affine, 1)
    header.set_xyzt_units("mm")
    return header


class opened:
    """A context manager for the bytes of a file, decompressed if it is a gzip stream, and whether it is one."""

    def __init__(self, path: Path):
        with path.open("rb") as file:
            self.compressed = file.read(2) == b"\x1f\x8b"
        self.stream = cast(BinaryIO, igzip.open(path) if self.compressed else path.open("rb"))

    def __enter__(self) -> tuple[BinaryIO, bool]:
        return self.stream, self.compressed

    def __exit__(self, *error: object) -> None:
        self.stream.close()


def checked_file(path: Path) -> int:
    """The size in bytes of a regular file that can be read.

    Raises:
        FileNameError: if its name cannot be used.
        UnreadableVolumeError: if it does not exist, is not a regular file, or may not be read.
    """
    fault = fault_of_name(path)
    if fault:
        raise FileNameError(f"{printable(path)}: rename the file or its folder. Received: {fault}")
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UnreadableVolumeError(
            f"{path}: no such file. Expected a NIfTI file (.nii or .nii.gz), .nrrd, .mha, or the folder of a DICOM "
            "series."
        ) from error
    except OSError as error:
        raise UnreadableVolumeError(f"{path}: cannot be found. Received: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableVolumeError(
            f"{path}: expected a file (.nii, .nii.gz, .nrrd, .mha). Received: {kind_of(status.st_mode)}"
        )
    if ending := ending_of(path, UNREAD):
        raise UnreadableVolumeError(
            f"{path}: expected a file in a format that is read here (.nii, .nii.gz, .nrrd, .mha). Received: one that "
            f"ends in {ending}. Convert it, for instance with SimpleITK or nibabel"
        )
    if not os.access(path, os.R_OK):
        raise UnreadableVolumeError(f"{path}: may not be read by this user. Received: mode {status.st_mode & 0o777:o}")
    return status.st_size


def _fields(path: Path, stream: BinaryIO, limits: Limits) -> tuple[np.void, nib.Nifti1Header, int]:
    """The raw fields, nibabel's header with the extensions, and the offset of the first voxel."""
    first = _exactly(stream, 4)
    kind, order = next(
        ((k, o) for size, k in _KINDS.items() for o in "<>" if first == struct.pack(f"{o}i", size)), (None, "")
    )
    if kind is None:
        raise UnreadableVolumeError(
            f"{path}: not a NIfTI file. Expected a header of 348 or 540 bytes. Received: it begins with {first.hex()}"
        )
    block = first + _exactly(stream, kind.sizeof_hdr - 4)
    fields = np.frombuffer(block, kind.template_dtype.newbyteorder(order))[0]
    magic = bytes(fields["magic"])
    if magic not in (b"n+1", b"n+2"):
        pair = "the header of a pair of files" if magic in (b"ni1", b"ni2") else f"magic {magic!r}"
        raise UnreadableVolumeError(f"{path}: expected one NIfTI file, header and voxels. Received: {pair}")
    start, offset = kind.sizeof_hdr + 4, float(fields["vox_offset"])
    if not (math.isfinite(offset) and offset >= start and offset == int(offset)):
        raise UnreadableVolumeError(
            f"{path}: the header is damaged: vox_offset: expected a whole number from {start}. Received: {offset:g}"
        )
    if offset - start > limits.extension_bytes:
        raise LimitError(
            f"{path}: expected at most {limits.extension_bytes} bytes of extensions before the voxels. Received: "
            f"{offset - start:.0f}. {raise_it('extension_bytes')}"
        )
    header = kind(block, order)
    flags, content = _exactly(stream, 4), _exactly(stream, int(offset) - start)
    if flags[0]:
        _check_extensions(path, content, order)
        # `_check_extensions` has refused sizes that are not a multiple of 16, of which nibabel would warn.
        header.extensions = kind.exts_klass.from_fileobj(
            io.BytesIO(content), len(content), byteswap=header.endianness != nib.volumeutils.native_code
        )
    # nibabel clears these fields too when it reads an image, so that a file written with the header gets its own
    # values.
    header["vox_offset"], header["scl_slope"], header["scl_inter"] = 0, np.nan, np.nan
    return fields, header, int(offset)


def _check_extensions(path: Path, content: bytes, order: str) -> None:
    position, count = 0, 0
    while len(content) - position >= 16:
        (size,) = struct.unpack_from(f"{order}i", content, position)
        if size < 16 or size % 16 or position + size > len(content) or count == _EXTENSIONS:
            raise UnreadableVolumeError(
                f"{path}: its header extensions are damaged: expected at most {_EXTENSIONS}, each with a multiple of "
                f"16 bytes, within {len(content)} bytes. Received: {size} bytes at {position}, after {count} others"
            )
        position, count = position + size, count + 1


def _exactly(stream: BinaryIO, count: int) -> bytes:
    content = stream.read(count)
    if len(content) != count:
        raise EOFError(f"the header ends after {len(content)} of {count} bytes")
    return content


def _checked_shape(path: Path, fields: np.void, channels: int) -> Shape:
    dimensions = int(fields["dim"][0])
    shape = tuple(int(n) for n in fields["dim"][1 : 1 + dimensions]) if 1 <= dimensions <= 7 else ()
    if not shape:
        raise UnreadableVolumeError(
            f"{path}: the header is damaged: expected 1 to 7 dimensions. Received: {dimensions}"
        )
    rest = tuple(n for n in shape[3:] if n != 1)
    if len(shape) < 3 or any(n < 1 for n in shape[:3]) or rest != ((channels,) if channels > 1 else ()):
        wanted = "a three-dimensional image (x, y, z)" if channels == 1 else f"{channels} channels (x, y, z, channel)"
        raise DimensionError(f"{path}: expected {wanted}. Received: shape {shape}")
    return shape[0], shape[1], shape[2]


def check_size(
    path: Path, offset: int, shape: Shape, channels: int, dtype: np.dtype, most: int, limits: Limits
) -> None:
    """Check that a file can contain the voxels that its header promises, and that there are not too many.

    Args:
        path: the path of the file, for the message.
        offset: the number of bytes before the first voxel.
        shape: the number of voxels along the axes of one channel.
        channels: the number of images in the file.
        dtype: the dtype of the stored voxels.
        most: the largest number of bytes that the file can contain after decompression.
        limits: the limits that the volume must keep.

    Raises:
        UnreadableVolumeError: if the file is too short.
        LimitError: if there are more voxels than the limits allow.
    """
    wanted = math.prod(shape) * channels * dtype.itemsize
    if offset + wanted > most:
        raise UnreadableVolumeError(
            f"{path}: the file is truncated or its header is damaged; copy or download it again. Received: a file that "
            f"can hold {most} bytes for {wanted} bytes of voxels, shape {shape}"
        )
    if math.prod(shape) * channels > limits.voxels:
        received = f"shape {shape}" + (f" of {channels} channels" if channels > 1 else "")
        raise LimitError(f"{path}: expected at most {limits.voxels} voxels. Received: {received}. {raise_it('voxels')}")


def _checked_type(path: Path, header: nib.Nifti1Header) -> np.dtype:
    try:
        dtype = header.get_data_dtype()
    except HeaderDataError as error:
        raise unreadable(path, error) from error
    if dtype.names or dtype.kind not in "iuf" or dtype.itemsize == 0:
        raise UnreadableVolumeError(f"{path}: expected one real number per voxel. Received: data type {dtype}")
    return dtype


def _checked_scale(path: Path, fields: np.void) -> tuple[float, float]:
    slope, inter = float(fields["scl_slope"]), float(fields["scl_inter"])
    if not (math.isfinite(slope) and math.isfinite(inter)):
        raise ScaleError(
            f"{path}: the header is damaged: expected finite scl_slope and scl_inter, which give the values of the "
            f"voxels. Received: {slope:g} and {inter:g}"
        )
    # By the standard, a slope of 0 means that the voxels are not scaled.
    return (slope, inter) if slope else (1.0, 0.0)


def _checked_affine(path: Path, fields: np.void, header: nib.Nifti1Header, shape: Shape, limits: Limits) -> np.ndarray:
    unit = _UNITS.get(int(fields["xyzt_units"]) & 7, f"code {int(fields['xyzt_units']) & 7}")
    if unit not in ("mm", "unknown"):
        raise AffineError(f"{path}: expected lengths in mm. Received: unit {unit!r} in the header")
    codes = {name: int(fields[name]) for name in ("sform_code", "qform_code")}
    if any(not 0 <= code <= 5 for code in codes.values()):
        raise AffineError(f"{path}: expected sform_code and qform_code from 0 to 5. Received: {codes}")
    distances = np.array(fields["pixdim"][1:4], np.float64)
    if not codes["sform_code"] and not (np.isfinite(distances).all() and (distances > 0).all()):
        raise SpacingError(
            f"{path}: expected positive distances of the voxels in pixdim, because the header has no sform. "
            f"Received: {distances.tolist()}"
        )
    try:
        affine = np.asarray(header.get_best_affine(), np.float64)
    except (ValueError, HeaderDataError) as error:
        raise AffineError(f"{path}: the header's quaternion is not a rotation. Received: {error}") from error
    check_affine(str(path), affine, shape, limits, unit)
    return affine


def check_affine(where: str, affine: np.ndarray, shape: Shape, limits: Limits, unit: str = "mm") -> None:
    """Check that an affine is invertible, and that the sizes of voxels and volume are within the limits.

    Args:
        where: the name of the file, for the message.
        affine: the matrix, float64 `[4, 4]`, from voxel index to mm.
        shape: the number of voxels along the array's axes.
        limits: the limits that the volume must keep.
        unit: the unit of lengths in the header, for the message.

    Raises:
        AffineError: if it is singular or not finite, or two axes of the array run in the same direction.
        SpacingError: if the size of the voxels or of the volume is beyond the limits.
    """
    if not np.isfinite(affine).all():
        raise AffineError(f"{where}: expected a finite, invertible affine. Received: {affine.tolist()}")
    spacing = np.sqrt((affine[:3, :3] ** 2).sum(0))
    if (spacing > 0).all() and abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-6:
        raise AffineError(f"{where}: expected a finite, invertible affine. Received: {affine.tolist()}")
    if (spacing > 0).all() and np.isnan(orientations.io_orientation(affine)).any():
        raise AffineError(f"{where}: the affine maps two array axes to the same direction. Received: {affine.tolist()}")
    _check_spacing(where, spacing, shape, unit, limits)


def _check_spacing(where: str, spacing: np.ndarray, shape: Shape, unit: str, limits: Limits) -> None:
    smallest, largest = limits.spacing
    received = f"{[float(f'{s:.4g}') for s in spacing]} mm with unit {unit!r} in the header, shape {shape}"
    if not ((spacing >= smallest).all() and (spacing <= largest).all()):
        raise SpacingError(
            f"{where}: expected voxels of {smallest:g} to {largest:g} mm along each axis; are the lengths in another "
            f"unit? Received: {received}. Correct the affine, or {raise_it('spacing', lower=True)}"
        )
    if (spacing * shape > limits.extent).any():
        raise SpacingError(
            f"{where}: expected a volume of at most {limits.extent:g} mm along each axis; are the lengths in another "
            f"unit? Received: {received}. Correct the affine, or {raise_it('extent', lower=True)}"
        )


def raise_it(name: str, *, lower: bool = False) -> str:
    """The sentence that tells a user how to raise a limit; `lower` begins it with a lower-case letter."""
    text = f"raise the limit if the file is right: ks.volumes.Limits({name}=...), or {VARIABLE}='{name}=...'"
    return text if lower else text[0].upper() + text[1:]
