"""NIfTI files are read to their last byte, or refused with a named error."""

import gzip

import nibabel as nib
import numpy as np
import pytest
from volumes.ct_files import AFFINE, ct, write

from keras_spatial import volumes as vol
from keras_spatial.volumes.files import read_slabs


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
@pytest.mark.parametrize("image_class", [nib.Nifti1Image, nib.Nifti2Image])
def test_voxels_affine_and_spacing_are_read(tmp_path, suffix, image_class):
    array = ct()
    volume = vol.read_volume(write(tmp_path / f"volume-0.{suffix}", array, image_class=image_class))
    assert np.array_equal(volume.array, array)
    assert volume.array.dtype == np.int16
    assert np.allclose(volume.affine, AFFINE)
    assert volume.spacing == pytest.approx((0.8, 0.8, 2.5))
    assert volume.orientation == "LPS"


def test_scaled_integers_become_their_hounsfield_units(tmp_path):
    image = nib.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), AFFINE)
    image.header.set_slope_inter(2, -1024)
    nib.save(image, tmp_path / "v.nii")
    raw = np.frombuffer((tmp_path / "v.nii").read_bytes()[-16:], np.int16)
    volume = vol.read_volume(tmp_path / "v.nii")
    assert volume.array.dtype == np.float32
    assert np.array_equal(volume.array.ravel(order="F"), raw * 2.0 - 1024)


def test_trailing_axes_of_one_are_dropped(tmp_path):
    array = ct()
    assert np.array_equal(vol.read_volume(write(tmp_path / "v.nii.gz", array[..., None])).array, array)


def damaged(kind):
    def make(path):
        write(path, ct((20, 20, 20)))
        content = bytearray(path.read_bytes())
        if kind == "truncated":
            content = content[: len(content) // 2]
        elif kind == "flipped":
            content[len(content) // 2] ^= 0xFF
        elif kind == "no checksum":
            content = content[:-8]
        elif kind == "wrong checksum":
            content[-8] ^= 0xFF
        elif kind == "empty":
            content = bytearray()
        elif kind == "text":
            content = bytearray(b"not an image at all" * 100)
        elif kind == "affine":
            plain = bytearray(gzip.decompress(bytes(content)))
            plain[280:284] = np.array([np.nan], "<f4").tobytes()
            content = bytearray(gzip.compress(bytes(plain)))
        elif kind == "huge header":
            plain = bytearray(gzip.decompress(bytes(content)))
            plain[42:48] = np.array([32000, 32000, 32000], "<i2").tobytes()
            content = bytearray(gzip.compress(bytes(plain)))
        path.write_bytes(bytes(content))

    return make


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda p: None, vol.UnreadableVolumeError),
        (lambda p: p.mkdir(), vol.UnreadableVolumeError),
        *[
            pytest.param(damaged(kind), vol.UnreadableVolumeError, id=kind)
            for kind in (
                "truncated", "flipped", "no checksum", "wrong checksum", "empty", "text", "huge header"
            )
        ],
        (lambda p: write(p, ct((4, 4, 4, 2))), vol.DimensionError),
        (lambda p: write(p, ct((4, 4))), vol.DimensionError),
        (lambda p: write(p, np.full((2, 2, 2), np.nan, np.float32)), vol.NonFiniteError),
        (lambda p: write(p, np.full((2, 2, 2), np.inf)), vol.NonFiniteError),
        (lambda p: write(p, np.zeros((2, 2, 2), np.complex64)), vol.UnreadableVolumeError),
        (lambda p: write(p, ct(), unit="meter"), vol.AffineError),
        (damaged("affine"), vol.AffineError),
        (lambda p: write(p, ct(), affine=np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])),
         vol.AffineError),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_by_name(tmp_path, make, error):
    path = tmp_path / "volume-3.nii.gz"
    make(path)
    with pytest.raises(error, match=r"volume-3\.nii\.gz.*Received|volume-3\.nii\.gz: no such file"):
        vol.read_volume(path)


@pytest.mark.parametrize("length", [0, 1, 100, 347, 352, 400])
def test_a_plain_file_cut_anywhere_is_refused(tmp_path, length):
    path = write(tmp_path / "v.nii", ct())
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(vol.UnreadableVolumeError):
        vol.read_volume(path)


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_slabs_are_the_volume_and_damage_is_found_in_them(tmp_path, suffix):
    path = write(tmp_path / f"v.{suffix}", ct((20, 20, 20)))
    slabs = list(read_slabs(path, voxels=20 * 20 * 3))
    assert [slab.shape[2] for slab in slabs] == [3] * 6 + [2]
    assert np.array_equal(np.concatenate(slabs, axis=2), vol.read_volume(path).array)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(vol.UnreadableVolumeError):
        list(read_slabs(path))
