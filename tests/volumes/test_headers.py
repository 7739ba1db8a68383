"""No field of a NIfTI header is repaired silently, and none is obeyed beyond the limits."""

import gzip
import io
import os
import socket

import nibabel as nib
import numpy as np
import pytest
from isal import igzip

from keras_spatial import volumes as vol
from keras_spatial.volumes import Limits

AFFINE = np.diag([-0.8, -0.8, 2.5, 1.0])
VOXELS = np.random.default_rng(0).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)


def content(image_class=nib.Nifti1Image, order="<", extension=None, affine=AFFINE, **fields):
    """The bytes of a valid file after some fields of its header are set without any check."""
    header = image_class.header_class(endianness=order)
    image = image_class(VOXELS, affine, header)
    image.header.set_xyzt_units("mm")
    if extension:
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", extension))
    stream = io.BytesIO()
    image.file_map["image"].fileobj = stream
    image.to_file_map()
    data = bytearray(stream.getvalue())
    template = image_class.header_class.template_dtype.newbyteorder(order)
    block = np.frombuffer(bytes(data[: template.itemsize]), template).copy()
    for name, value in fields.items():
        block[name][0] = value
    return block.tobytes() + bytes(data[template.itemsize :])


@pytest.fixture
def read(tmp_path):
    def read(data, limits=None, name="v.nii"):
        (tmp_path / name).write_bytes(data)
        return vol.read_volume(tmp_path / name, limits)

    return read


NO_FORMS = {"sform_code": 0, "qform_code": 0}


@pytest.mark.parametrize("image_class", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_good_file_is_read_in_either_byte_order_with_its_extensions(read, image_class, order):
    volume = read(content(image_class, order, b"a comment"))
    assert np.array_equal(volume.array, VOXELS)
    assert np.allclose(volume.affine, AFFINE)
    assert volume.header.extensions[0].get_content() == b"a comment"


def test_the_extensions_of_a_volume_are_written_with_its_labels(read, tmp_path):
    volume = read(content(extension=b"a comment"))
    vol.write_labels(tmp_path / "s.nii.gz", (VOXELS > 0).astype(np.uint8), volume)
    again = vol.read_volume(tmp_path / "s.nii.gz")
    assert np.array_equal(again.array, VOXELS > 0)
    assert again.header.extensions[0].get_content() == b"a comment"


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({**NO_FORMS, "pixdim": [1, 0, 1, 1, 0, 0, 0, 0]}, vol.SpacingError, r"pixdim.*\[0\.0, 1\.0, 1\.0\]"),
        ({**NO_FORMS, "pixdim": [1, -1, 1, 1, 0, 0, 0, 0]}, vol.SpacingError, r"pixdim.*\[-1\.0"),
        ({**NO_FORMS, "pixdim": [1, np.nan, 1, 1, 0, 0, 0, 0]}, vol.SpacingError, "pixdim.*nan"),
        ({"sform_code": 0, "qform_code": 1, "pixdim": [1, 0, 1, 1, 0, 0, 0, 0]}, vol.SpacingError, "pixdim"),
        ({**NO_FORMS, "pixdim": [1, 760, 760, 2500, 0, 0, 0, 0]}, vol.SpacingError, "another unit.*760"),
        ({**NO_FORMS, "pixdim": [1, 1e-3, 1e-3, 1e-3, 0, 0, 0, 0]}, vol.SpacingError, "another unit.*0.001"),
        ({"srow_x": [760, 0, 0, 0]}, vol.SpacingError, "0.01 to 100 mm"),
        ({"srow_x": [0, 0, 0, 0]}, vol.SpacingError, "0.01 to 100 mm"),
        ({"xyzt_units": 3}, vol.AffineError, "unit 'micron'"),
        ({"xyzt_units": 1}, vol.AffineError, "unit 'meter'"),
        ({"xyzt_units": 5}, vol.AffineError, "unit 'code 5'"),
        ({"sform_code": 200}, vol.AffineError, "sform_code"),
        ({"sform_code": 0, "qform_code": -3}, vol.AffineError, "qform_code"),
        ({"sform_code": 0, "qform_code": 1, "quatern_b": 2}, vol.AffineError, "quaternion"),
        ({"scl_slope": np.inf}, vol.ScaleError, "scl_slope.*inf"),
        ({"scl_slope": np.nan}, vol.ScaleError, "scl_slope.*nan"),
        ({"scl_slope": 1, "scl_inter": -np.inf}, vol.ScaleError, "-inf"),
        ({"scl_slope": 1e38}, vol.NonFiniteError, "infinite"),
        ({"vox_offset": 0}, vol.UnreadableVolumeError, "vox_offset.*352"),
        ({"vox_offset": 352.5}, vol.UnreadableVolumeError, "vox_offset"),
        ({"vox_offset": np.nan}, vol.UnreadableVolumeError, "vox_offset"),
        ({"vox_offset": 2.0**40}, vol.LimitError, "extension_bytes"),
        ({"magic": b"ni1"}, vol.UnreadableVolumeError, "pair of files"),
        ({"datatype": 128}, vol.UnreadableVolumeError, "one real number per voxel"),
        ({"datatype": 77}, vol.UnreadableVolumeError, "data code 77"),
        ({"dim": [9, 5, 6, 7, 1, 1, 1, 1]}, vol.UnreadableVolumeError, "1 to 7 dimensions"),
        ({"dim": [3, -5, 6, 7, 1, 1, 1, 1]}, vol.DimensionError, "-5"),
    ],
)
def test_a_damaged_field_is_named(read, fields, error, message):
    with pytest.raises(error, match=rf"(?s)v\.nii.*{message}"):
        read(content(**fields))


def test_distances_that_nothing_depends_on_may_be_zero(read):
    assert np.allclose(read(content(pixdim=[1, 0, 0, 0, 0, 0, 0, 0])).affine, AFFINE)


def test_a_slope_of_zero_means_no_scale(read):
    volume = read(content(scl_slope=0, scl_inter=7))
    assert np.array_equal(volume.array, VOXELS)


@pytest.mark.parametrize(
    ("limits", "data"),
    [
        (Limits(spacing=(1e-4, 1e4), extent=1e5), content(**NO_FORMS, pixdim=[1, 760, 760, 2500, 0, 0, 0, 0])),
        (Limits(trailing_bytes=1 << 21), content() + bytes((1 << 20) + 1)),
        (Limits(extension_bytes=1 << 25), content(extension=bytes(16) + b"x" * (1 << 24))),
    ],
    ids=["spacing", "trailing_bytes", "extension_bytes"],
)
def test_a_limit_can_be_raised_and_the_error_says_how(read, limits, data, monkeypatch):
    with pytest.raises(vol.VolumeError, match="KERAS_SPATIAL_LIMITS='"):
        read(data)
    assert np.array_equal(read(data, limits).array, VOXELS)


def test_more_voxels_than_the_limit_are_refused_before_they_are_read(read):
    with pytest.raises(vol.LimitError, match=r"at most 209 voxels.*\(5, 6, 7\)"):
        read(content(), Limits(voxels=209))
    assert read(content(), Limits(voxels=210)).array.size == 210


@pytest.mark.parametrize("size", [0, 8, -16, 24, 1 << 20])
def test_extensions_of_impossible_sizes_are_refused(read, size):
    data = bytearray(content(extension=b"a comment"))
    data[352:356] = np.int32(size).tobytes()
    with pytest.raises(vol.UnreadableVolumeError, match="extensions are damaged"):
        read(bytes(data))


@pytest.mark.parametrize("place", ["extension", "trailing"])
def test_a_gzip_bomb_is_left_before_it_unfolds(tmp_path, place):
    data, zeros = content(vox_offset=352 + 2.0**29 if place == "extension" else 352), bytes(1 << 20)
    path = tmp_path / "v.nii.gz"
    with igzip.open(path, "wb", compresslevel=1) as file:
        file.write(data[:352] if place == "extension" else data)
        for _ in range(512):
            file.write(zeros)
        file.write(data[352:])
    with pytest.raises(vol.LimitError, match=r"extension_bytes|trailing_bytes"):
        vol.read_volume(path)


def test_no_flipped_bit_of_a_compressed_file_changes_a_voxel(tmp_path):
    """nibabel does not read to the checksum and accepts more than half of these files, with wrong voxels."""
    whole = gzip.compress(content(), mtime=0)
    path = tmp_path / "v.nii.gz"
    refused = 0
    for bit in range(0, 8 * len(whole), 3):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(data)
        try:
            volume = vol.read_volume(path)
        except vol.VolumeError:
            refused += 1
        else:
            assert np.array_equal(volume.array, VOXELS)
            assert np.allclose(volume.affine, AFFINE)
    # What is left are bits of the gzip header that mean nothing: time, system, level.
    assert refused > 0.97 * (8 * len(whole) // 3)


def test_what_is_no_regular_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe.nii")
    with pytest.raises(vol.UnreadableVolumeError, match="Received: a named pipe"):
        vol.read_volume(tmp_path / "pipe.nii")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.nii"))
        with pytest.raises(vol.UnreadableVolumeError, match="Received: a socket"):
            vol.read_volume(tmp_path / "s.nii")
    with pytest.raises(vol.UnreadableVolumeError, match="a folder"):
        vol.read_volume(tmp_path)


def test_a_link_to_itself_and_a_path_that_is_too_long_are_named(tmp_path):
    (tmp_path / "loop.nii").symlink_to(tmp_path / "loop.nii")
    with pytest.raises(vol.UnreadableVolumeError, match=r"cannot be found.*symbolic links"):
        vol.read_volume(tmp_path / "loop.nii")
    with pytest.raises(vol.UnreadableVolumeError, match=r"cannot be found.*too long"):
        vol.read_volume(tmp_path.joinpath(*["x" * 200] * 30, "v.nii"))


@pytest.mark.parametrize("name", ["x" * 252 + ".nii", "a\udcff.nii", "a\0.nii"], ids=["256 bytes", "no UTF-8", "NUL"])
def test_a_name_that_no_file_should_have_is_refused(tmp_path, name):
    with pytest.raises(vol.FileNameError) as caught:
        vol.read_volume(tmp_path / name)
    str(caught.value).encode("utf-8")
    volume = vol.Volume(VOXELS, AFFINE, nib.Nifti1Header(), tmp_path)
    with pytest.raises(vol.FileNameError):
        vol.write_labels(tmp_path / name, VOXELS, volume)


@pytest.mark.parametrize("length", [240, 251, 255])
def test_labels_are_written_under_every_name_that_the_file_system_allows(tmp_path, length):
    (tmp_path / "v.nii").write_bytes(content())
    volume = vol.read_volume(tmp_path / "v.nii")
    path = vol.write_labels(tmp_path / ("x" * (length - 7) + ".nii.gz"), (VOXELS > 0).astype(np.uint8), volume)
    assert np.array_equal(vol.read_volume(path).array, VOXELS > 0)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_stream_of_several_gzip_members_is_one_file(read):
    data = content()
    assert np.array_equal(read(gzip.compress(data[:500]) + gzip.compress(data[500:]), name="v.nii.gz").array, VOXELS)


@pytest.mark.parametrize(
    ("array", "refused"),
    [
        (np.linspace(0, 1, 210), True),
        (np.linspace(-1, 1, 210), True),
        (np.linspace(-3, 5, 210), True),
        (np.linspace(0, 4095, 210), True),
        (np.linspace(-1024, -1000, 210), True),
        (np.linspace(-1024, 1e6, 210), True),
        (np.full(210, -1000.0), True),
        (np.linspace(-1024, 3071, 210), False),
        (np.linspace(-100, 400, 210), False),
        (np.linspace(-3024, 20000, 210), False),
    ],
)
def test_values_that_cannot_be_told_to_be_hounsfield_units_are_refused(array, refused):
    volume = vol.Volume(array.astype(np.float32).reshape(5, 6, 7), AFFINE, nib.Nifti1Header(), "volume-7.nii")
    if refused:
        with pytest.raises(vol.IntensityError, match=r"volume-7\.nii.*Received.*hounsfield=no"):
            vol.check_hounsfield(volume)
    else:
        vol.check_hounsfield(volume)
