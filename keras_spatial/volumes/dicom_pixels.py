"""Decode the pixels of DICOM images within the size that their header says.

GDCM allocates what a file asks for: each length in a header, and the size in the header of a compressed image, which
may differ from `Rows` and `Columns`. So it never sees the file itself. The pixels are read one image at a time, and no
more of them than the file has; the compressed image must have the size of the slice; and GDCM decodes a copy in memory
that has the few fields that determine the pixels, and nothing else.
"""

import io
import math
import os
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk

from keras_spatial.volumes.dicom_files import BoundedFile, opened, pydicom
from keras_spatial.volumes.dicom_images import Slice
from keras_spatial.volumes.pseudonyms import quiet
from keras_spatial.volumes.series import Series
from keras_spatial.volumes.volume import UnreadableVolumeError, VolumeError

# The fields that determine how pixels are decoded.
_KEPT = [
    "SOPClassUID", "Modality", "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation",
]  # fmt: skip
# The fields that determine how GDCM scales pixels, which it does only for some classes of images.
_SCALE = ["RescaleIntercept", "RescaleSlope", "RescaleType"]
_DOSE = "DoseGridScaling"
# The fields that say where frames begin in compressed pixels and how long they are. Not every header has them.
_TABLE = ["ExtendedOffsetTable", "ExtendedOffsetTableLengths"]
_META = ("MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID", "TransferSyntaxUID")
# Transfer syntaxes without compression.
_IMPLICIT, _BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
PLAIN = (_IMPLICIT, "1.2.840.10008.1.2.1", _BIG_ENDIAN)
_RLE = "1.2.840.10008.1.2.5"
_JPEG = "1.2.840.10008.1.2.4."
# The class of CT images, whose values GDCM leaves as they are stored if there is no slope. Frames are scaled later,
# each by its own slope.
_UNSCALED = "1.2.840.10008.5.1.4.1.1.2"
_PIXELS = 0x7FE00010
# The first bytes of a JPEG 2000 image and of its header.
_JPEG_2000 = b"\xff\x4f\xff\x51"
# A decoder keeps several kilobytes for each tile. Scanners' images are one tile each.
_TILES = 1024
# The markers of JPEG and JPEG-LS that begin a frame's header, and those that have no length.
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_LONE = {0x01, *range(0xD0, 0xD9)}


def decoded(series: Series, images: Sequence[Slice]) -> Iterator[np.ndarray]:
    """The pixels of all images of one file, each as an array `[rows, columns]`, in their order.

    Args:
        series: the series, for messages.
        images: all images of the file, in the order of the file.

    Returns:
        The image of a classic file as values, scaled as its header says; frames of an enhanced one as they are stored.

    Raises:
        UnreadableVolumeError: if they cannot be decoded, or an image has another size than its header says.
    """
    contents = _alone(series, images)
    for image in images:
        try:
            with quiet():
                content = next(contents)
        except VolumeError:
            raise
        # pydicom raises errors of many kinds. Their messages quote the header, so neither message nor cause is kept.
        except Exception:
            raise _undecodable(series, image) from None
        try:
            array = _by_gdcm(series, image, content)
        # The cause is dropped, because GDCM's messages name the file.
        except (RuntimeError, MemoryError):
            raise _undecodable(series, image) from None
        yield array


def _undecodable(series: Series, image: Slice) -> UnreadableVolumeError:
    return UnreadableVolumeError(
        f"{series}: {image.called}: its pixels cannot be decoded; copy or download it again. Received: transfer "
        f"syntax {image.syntax or 'unknown'}, {image.bits} bits"
    )


def _alone(series: Series, images: Sequence[Slice]) -> Iterator[memoryview]:
    """For each image of a file, a DICOM file with its pixels and the fields that decode them; the size is checked."""
    first = images[0]
    options = {"stop_before_pixels": True, "specific_tags": [*_KEPT, *_SCALE, *_TABLE, _DOSE]}
    with opened(first.path, first.called, **options) as (header, file):
        if _DOSE in header:
            raise UnreadableVolumeError(
                f"{series}: {first.called}: expected an image. Received: a radiation dose, whose values depend on "
                "DoseGridScaling"
            )
        syntax = str(header.file_meta.TransferSyntaxUID)
        table = [header.get(name) for name in _TABLE]
        alone = _without_pixels(header, first)
        kind, length = _pixels_at(series, first, file, syntax)
        contents = (
            _plain(series, images, file, length, first.rows * first.columns * int(header.BitsAllocated))
            if syntax in PLAIN
            else _compressed(series, images, file, syntax, (table[0], table[1]) if all(table) else None)
        )
        for content in contents:
            if syntax not in PLAIN:
                content = pydicom("Reading DICOM").encaps.encapsulate([content])
            alone.add_new(_PIXELS, kind, content)
            alone["PixelData"].is_undefined_length = syntax not in PLAIN
            target = io.BytesIO()
            pydicom("Reading DICOM").dcmwrite(target, alone)
            yield target.getbuffer()


def _without_pixels(header: Any, image: Slice) -> Any:
    """The fields of a header that determine how pixels are decoded and, except for frames, how they are scaled."""
    reader = pydicom("Reading DICOM")
    alone, meta = reader.Dataset(), reader.dataset.FileMetaDataset()
    for keyword in (*_KEPT, *(_SCALE if image.index is None else ())):
        if keyword in header:
            alone[keyword] = header[keyword]
    for keyword in _META:
        if keyword in header.file_meta:
            meta[keyword] = header.file_meta[keyword]
    alone.file_meta = meta
    if image.index is not None:
        alone.SOPClassUID = meta.MediaStorageSOPClassUID = _UNSCALED
    return alone


def _pixels_at(series: Series, image: Slice, file: BoundedFile, syntax: str) -> tuple[str, int]:
    """Read the kind and the length of the element with the pixels, which comes next in the file; its value follows."""
    order = ">" if syntax == _BIG_ENDIAN else "<"
    if struct.unpack(f"{order}HH", file.read(4)) != (_PIXELS >> 16, _PIXELS & 0xFFFF):
        raise _undecodable(series, image)
    if syntax == _IMPLICIT:
        return "OW", struct.unpack("<I", file.read(4))[0]
    kind, length = struct.unpack(f"{order}2s2xI", file.read(8))
    return kind.decode("ascii"), length


def _plain(series: Series, images: Sequence[Slice], file: BoundedFile, length: int, bits: int) -> Iterator[bytes]:
    """The pixels of each image of a file without compression, each of which has `bits` bits."""
    stored, there = bits // 8, min(length, file.left)
    if stored * len(images) > there or (bits % 8 and len(images) > 1):
        first = images[0]
        raise UnreadableVolumeError(
            f"{series}: {first.called}: its pixels cannot be decoded: the file is truncated or its header is damaged; "
            f"copy or download it again. Received: {there} bytes for "
            f"{f'{len(images)} frames of ' if first.index is not None else ''}{first.rows} x {first.columns} pixels of "
            f"{stored} bytes"
        )
    for number in range(len(images)):
        # The last image includes the byte that may pad the pixels to an even length.
        yield file.read(stored if number < len(images) - 1 else there - stored * number)


def _compressed(
    series: Series,
    images: Sequence[Slice],
    file: BoundedFile,
    syntax: str,
    table: tuple[bytes, bytes] | None,
) -> Iterator[bytes]:
    """The compressed content of each image of a file, whose size is checked; one may lie in several fragments."""
    generate = pydicom("Reading DICOM").encaps.generate_frames
    found = generate(file, number_of_frames=len(images), extended_offsets=table)
    if len(images) == 1:
        # All fragments belong to it.
        found = iter([b"".join(found)])
    for image in images:
        content = next(found, None)
        if content is None:
            raise UnreadableVolumeError(
                f"{series}: {image.called}: the file is truncated or its header is damaged; copy or download it again. "
                f"Received: pixels of {image.index} frames"
            )
        _check_size(series, image, syntax, content)
        yield content


def _check_size(series: Series, image: Slice, syntax: str, content: bytes) -> None:
    size: tuple[int, ...] | None = (image.rows, image.columns, 1)
    if syntax.startswith(_JPEG):
        size = _size_in_jpeg_2000(content) if content.startswith(_JPEG_2000) else _size_in_jpeg(content)
    elif syntax != _RLE:
        # The decoder of RLE needs no check, because it writes as many pixels as the header says.
        size = None
    if size != (image.rows, image.columns, 1):
        raise UnreadableVolumeError(
            f"{series}: {image.called}: its pixels cannot be decoded: expected a compressed image of {image.rows} x "
            f"{image.columns} pixels with one value each, as the header says. Received: transfer syntax "
            f"{image.syntax or 'unknown'}, {f'rows, columns and values {size}' if size else 'an image without a size'}"
        )


def _size_in_jpeg_2000(content: bytes) -> tuple[int, int, int] | None:
    """Rows, columns and values per pixel in the header of a JPEG 2000 image; None if there is none, or many tiles."""
    try:
        right, bottom, left, top, wide, high, tiles_left, tiles_top, values = struct.unpack_from(">8IH", content, 8)
    except struct.error:
        return None
    if not wide or not high or math.ceil((right - tiles_left) / wide) * math.ceil((bottom - tiles_top) / high) > _TILES:
        return None
    return bottom - top, right - left, values


def _size_in_jpeg(content: bytes) -> tuple[int, int, int] | None:
    """Rows, columns and values per pixel in the header of a JPEG or JPEG-LS image; None if there is none."""
    if not content.startswith(b"\xff\xd8"):
        return None
    position = 2
    while position + 4 <= len(content) and content[position] == 0xFF:
        marker, length = content[position + 1], struct.unpack_from(">H", content, position + 2)[0]
        if marker == 0xFF or marker in _LONE:
            position += 1 if marker == 0xFF else 2
        elif marker in _FRAMES:
            return struct.unpack_from(">HHB", content, position + 5) if position + 10 <= len(content) else None
        else:
            position += 2 + length
    return None


def _by_gdcm(series: Series, image: Slice, content: memoryview) -> np.ndarray:
    descriptor = os.memfd_create("slice")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        reader: Any = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(f"/proc/self/fd/{descriptor}")
        reader.ReadImageInformation()
        size, parts = reader.GetSize(), reader.GetNumberOfComponents()
        if (*size[:2], math.prod(size[2:]), parts) != (image.columns, image.rows, 1, 1):
            raise UnreadableVolumeError(
                f"{series}: {image.called}: expected {image.rows} x {image.columns} pixels with one value each. "
                f"Received: an image of size {size} with {parts} values per pixel"
            )
        return sitk.GetArrayFromImage(reader.Execute()).reshape(image.rows, image.columns)
    finally:
        os.close(descriptor)
