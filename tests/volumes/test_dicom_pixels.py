"""Slices are decoded as ITK decodes their files, but never to another size than their headers say."""

import struct

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.encaps import encapsulate, generate_frames
from volumes.dicom_files import SAMPLES

import keras_spatial.volumes as vol
from keras_spatial.volumes.dicom_images import read_slices
from keras_spatial.volumes.dicom_pixels import decoded
from keras_spatial.volumes.series import Series

HUGE = 60_000


def slice_of(path):
    found = read_slices(path, "file 1 of 1")
    assert found is not None
    return Series(path.parent, "1", tuple(found[1])), found[1]


def sample(name, tmp_path, change):
    """A copy of a real file whose compressed image is changed."""
    header = pydicom.dcmread(SAMPLES / name)
    (frame,) = generate_frames(header.PixelData, number_of_frames=1)
    header.PixelData = encapsulate([change(frame)])
    header.save_as(tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize(
    "name",
    [
        "CT_small.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_RLE.dcm", "MR_small_padded.dcm",
        "examples_overlay.dcm", "MR_small_jpeg_ls_lossless.dcm", "JPEGLSNearLossless_08.dcm", "JPGExtended.dcm",
        "MR_small_jp2klossless.dcm", "J2K_pixelrep_mismatch.dcm", "693_J2KI.dcm",
    ],
)  # fmt: skip
def test_a_real_slice_has_the_values_that_itk_reads_from_its_file(name):
    values = next(decoded(*slice_of(SAMPLES / name)))
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(SAMPLES / name), imageIO="GDCMImageIO"))
    assert values.dtype == expected.dtype
    assert np.array_equal(values, expected.reshape(values.shape))


def with_size(frame):
    """A JPEG 2000 image that says it is larger than its slice."""
    assert frame.startswith(b"\xff\x4f\xff\x51")
    return frame[:8] + struct.pack(">II", HUGE, HUGE) + frame[16:24] + struct.pack(">II", HUGE, HUGE) + frame[32:]


def with_tiles(frame):
    return frame[:24] + struct.pack(">II", 1, 1) + frame[32:]


def with_values(frame):
    return frame[:40] + struct.pack(">H", 16_000) + frame[42:]


def with_frame_size(frame):
    """A JPEG or JPEG-LS image that says it is larger than its slice."""
    place = next(frame.index(mark) for mark in (b"\xff\xf7", b"\xff\xc1", b"\xff\xc3") if mark in frame)
    return frame[: place + 5] + struct.pack(">HH", HUGE, HUGE) + frame[place + 9 :]


@pytest.mark.parametrize(
    ("name", "change", "received"),
    [
        ("MR_small_jp2klossless.dcm", with_size, "(60000, 60000, 1)"),
        ("MR_small_jp2klossless.dcm", with_tiles, "an image without a size"),
        ("MR_small_jp2klossless.dcm", with_values, "(64, 64, 16000)"),
        ("MR_small_jp2klossless.dcm", lambda frame: frame[:20], "an image without a size"),
        ("MR_small_jpeg_ls_lossless.dcm", with_frame_size, "(60000, 60000, 1)"),
        ("MR_small_jpeg_ls_lossless.dcm", lambda frame: b"\xff\xd8" + bytes(100), "an image without a size"),
        ("JPGExtended.dcm", with_frame_size, "(60000, 60000, 1)"),
        ("JPGExtended.dcm", lambda frame: b"noise" + frame, "an image without a size"),
    ],
)
def test_a_compressed_image_of_another_size_is_refused_before_it_is_unfolded(tmp_path, name, change, received):
    series, images = slice_of(sample(name, tmp_path, change))
    with pytest.raises(vol.UnreadableVolumeError) as refusal:
        next(decoded(series, images))
    assert f"expected a compressed image of {images[0].rows} x {images[0].columns} pixels" in str(refusal.value)
    assert received in str(refusal.value)


def test_pixels_without_compression_must_be_in_the_file():
    with pytest.raises(vol.UnreadableVolumeError, match="8130 bytes for 64 x 64 pixels of 8192 bytes"):
        next(decoded(*slice_of(SAMPLES / "MR_truncated.dcm")))


def test_a_dose_is_no_image():
    with pytest.raises(vol.UnreadableVolumeError, match="DoseGridScaling"):
        next(decoded(*slice_of(SAMPLES / "rtdose_1frame.dcm")))
