"""Decode the pixels of one DICOM slice within the size that its header says.

GDCM allocates what a file asks for: each length in a header, and the size in the header of a compressed image, which
may be another one than `Rows` and `Columns`. So it never sees the file itself. pydicom reads it, and no more than there
is; the compressed image must have the size of the slice; and GDCM decodes a copy in memory that has the few fields that
determine the pixels, and nothing else.
"""

import io
import math
import os
import struct
from typing import Any

import numpy as np
import SimpleITK as sitk

from keras_spatial.volumes.identity import quiet
from keras_spatial.volumes.series import Series, Slice, pydicom, read_dataset
from keras_spatial.volumes.volume import UnreadableVolumeError, VolumeError

# What decides how pixels are decoded and scaled. GDCM scales by the slope of some classes of images only.
_KEPT = [
    "SOPClassUID", "Modality", "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "RescaleIntercept", "RescaleSlope", "RescaleType", "PixelData",
    "DoseGridScaling",
]  # fmt: skip
_DOSE = "DoseGridScaling"
_META = ("MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID", "TransferSyntaxUID")
# Transfer syntaxes without compression.
PLAIN = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
_RLE = "1.2.840.10008.1.2.5"
_JPEG = "1.2.840.10008.1.2.4."
# Start of a JPEG 2000 image, and of its header.
_JPEG_2000 = b"\xff\x4f\xff\x51"
# A decoder keeps several kilobytes for each tile. Scanners' images are one tile each.
_TILES = 1024
# The markers of JPEG and JPEG-LS that begin a frame's header, and those that have no length.
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_LONE = {0x01, *range(0xD0, 0xD9)}


def decoded(series: Series, image: Slice) -> np.ndarray:
    """The values of one slice, scaled as its header says, as an array `[rows, columns]`.

    Raises:
        UnreadableVolumeError: if they cannot be decoded, or the image has another size than its header says.
    """
    try:
        with quiet():
            content = _alone(series, image)
    except VolumeError:
        raise
    # pydicom raises errors of many kinds. Their messages quote the header, so neither message nor cause is kept.
    except Exception:
        raise _undecodable(series, image) from None
    try:
        return _by_gdcm(series, image, content)
    # The cause is dropped, because GDCM's messages name the file.
    except (RuntimeError, MemoryError):
        raise _undecodable(series, image) from None


def _undecodable(series: Series, image: Slice) -> UnreadableVolumeError:
    return UnreadableVolumeError(
        f"{series}: {image.called}: its pixels cannot be decoded; copy or download it again. Received: transfer "
        f"syntax {image.syntax or 'unknown'}, {image.bits} bits"
    )


def _alone(series: Series, image: Slice) -> memoryview:
    """A DICOM file with the pixels of a slice and what is needed to decode them, after their size was checked."""
    reader = pydicom("Reading DICOM")
    found = read_dataset(image.path, image.called, specific_tags=_KEPT)
    if _DOSE in found:
        raise UnreadableVolumeError(
            f"{series}: {image.called}: expected an image. Received: a dose, of which only DoseGridScaling gives values"
        )
    syntax = str(found.file_meta.TransferSyntaxUID)
    stored = image.rows * image.columns * int(found.BitsAllocated) // 8
    if syntax in PLAIN:
        if len(found.PixelData) < stored:
            raise UnreadableVolumeError(
                f"{series}: {image.called}: its pixels cannot be decoded: the file is truncated or its header is "
                f"damaged; copy or download it again. Received: {len(found.PixelData)} bytes for {image.rows} x "
                f"{image.columns} pixels of {stored} bytes"
            )
    else:
        # One image may lie in several fragments.
        whole = b"".join(reader.encaps.generate_frames(found.PixelData, number_of_frames=1))
        _check_size(series, image, syntax, whole)
        found.PixelData = reader.encaps.encapsulate([whole])
        found["PixelData"].VR, found["PixelData"].is_undefined_length = "OB", True
    meta = reader.dataset.FileMetaDataset()
    for keyword in _META:
        if keyword in found.file_meta:
            meta[keyword] = found.file_meta[keyword]
    found.file_meta = meta
    target = io.BytesIO()
    reader.dcmwrite(target, found)
    return target.getbuffer()


def _check_size(series: Series, image: Slice, syntax: str, content: bytes) -> None:
    size: tuple[int, ...] | None = (image.rows, image.columns, 1)
    if syntax.startswith(_JPEG):
        size = _size_in_jpeg_2000(content) if content.startswith(_JPEG_2000) else _size_in_jpeg(content)
    elif syntax != _RLE:  # Whose decoder writes as many pixels as the header says.
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
