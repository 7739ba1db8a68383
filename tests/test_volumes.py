"""Reading, orienting, resampling and writing CT volumes."""

import gzip
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest

from keras_spatial import volumes as vol
from keras_spatial.volumes.files import read_slabs
from keras_spatial.volumes.volume import canonical_shape

AFFINE = np.diag([-0.8, -0.8, 2.5, 1.0])


def write(path, array, affine=AFFINE, image_class=nib.Nifti1Image, unit="mm"):
    image = image_class(array, affine)
    image.header.set_xyzt_units(unit)
    nib.save(image, path)
    return path


def ct(shape=(5, 6, 7), seed=0):
    return np.random.default_rng(seed).integers(-1000, 1000, shape).astype(np.int16)


# --- reading -------------------------------------------------------------------------------------------------------


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


# --- orientation ---------------------------------------------------------------------------------------------------

ORIENTATIONS = [(order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]


def oriented(order, signs, path="v.nii"):
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    affine[:3, 3] = 10, 20, 30
    for axis, (target, sign) in enumerate(zip(order, signs, strict=True)):
        affine[target, axis] = sign * (axis + 1)
    return vol.Volume(ct(), affine, nib.Nifti1Header(), path)


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_canonical_axes_keep_every_voxel_in_its_place(order, signs):
    volume = oriented(order, signs)
    canonical = vol.to_canonical(volume)
    assert canonical.orientation == "RAS"
    for index in ((0, 0, 0), (4, 0, 3), (2, 5, 6)):
        place = volume.affine @ (*index, 1)
        there = np.rint(np.linalg.inv(canonical.affine) @ place)[:3].astype(int)
        assert canonical.array[tuple(there)] == volume.array[index]
    assert np.array_equal(vol.from_canonical(canonical.array, volume), volume.array)
    assert canonical_shape(volume.array.shape, volume.affine) == canonical.array.shape


def test_labels_of_another_grid_are_not_turned_back():
    with pytest.raises(vol.DimensionError, match=r"v\.nii"):
        vol.from_canonical(np.zeros((5, 6, 8)), oriented((0, 1, 2), (1, 1, 1)))


# --- the window ----------------------------------------------------------------------------------------------------


def test_the_window_is_clip_of_hu_over_1024_plus_a_half():
    found = vol.hu_window(np.array([-3000, -512, -256, 0, 256, 512, 3000], np.int16))
    assert found.dtype == np.float32
    assert found.tolist() == [0, 0, 0.25, 0.5, 0.75, 1, 1]


# --- resampling ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [(4, 4, 4), (5, 3, 7), (16, 16, 16), (9, 4, 13), (1, 1, 1)])
def test_a_constant_stays_constant_and_the_mean_is_kept_when_made_smaller(target):
    assert np.allclose(vol.resample_image(np.full((8, 8, 8), 7), target), 7)
    array = ct((8, 8, 8))
    if max(target) <= 8:
        assert vol.resample_image(array, target).mean() == pytest.approx(array.mean(), abs=1e-2)


def test_halving_takes_means_of_pairs():
    array = ct((8, 6, 4))
    assert np.allclose(vol.resample_image(array, (4, 3, 2)), array.reshape(4, 2, 3, 2, 2, 2).mean((1, 3, 5)), atol=1e-3)


@pytest.mark.parametrize("target", [12, 17, 40])
def test_more_voxels_interpolate_a_ramp_exactly_between_outer_centres(target):
    ramp = np.broadcast_to((np.arange(8) + 0.5)[:, None, None], (8, 2, 2))
    found = vol.resample_image(ramp, (target, 2, 2))[:, 0, 0]
    wanted = np.clip((np.arange(target) + 0.5) * 8 / target, 0.5, 7.5)
    assert np.allclose(found, wanted, atol=1e-5)


def test_every_slab_of_a_long_volume_is_resampled():
    array = ct((4, 4, 100))
    found = vol.resample_image(array, (4, 4, 50))
    assert np.allclose(found, array.reshape(4, 4, 50, 2).mean(-1), atol=1e-3)


def test_flipping_before_and_after_resampling_is_the_same():
    array = ct((11, 7, 5))
    flipped = vol.resample_image(array[::-1, ::-1, ::-1], (4, 16, 3))
    assert np.allclose(flipped, vol.resample_image(array, (4, 16, 3))[::-1, ::-1, ::-1], atol=1e-2)


def test_labels_follow_the_majority():
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[:5] = 1
    found = vol.resample_labels(labels, (4, 4, 4))
    assert found[:2].all()
    assert not found[3:].any()


def test_a_lesion_of_one_voxel_survives_as_one_voxel_at_its_place():
    labels = np.ones((64, 64, 64), np.uint8)
    labels[37, 12, 55] = 2
    found = vol.resample_labels(labels, (8, 8, 8))
    assert np.argwhere(found == 2).tolist() == [[37 // 8, 12 // 8, 55 // 8]]


def test_every_lesion_survives_and_volumes_are_kept():
    rng = np.random.default_rng(1)
    labels = np.ones((96, 96, 96), np.uint8)
    places = [(x, y, z) for x in range(4, 96, 24) for y in range(4, 96, 24) for z in range(4, 96, 24)]
    for place in places:
        size = rng.integers(1, 9)
        labels[tuple(slice(p, p + size) for p in place)] = 2
    assert vol.components(labels == 2)[1] == len(places)
    kept = vol.resample_labels(labels, (24, 24, 24))
    voted = vol.resample_labels(labels, (24, 24, 24), keep=())
    assert vol.components(kept == 2)[1] == len(places)
    assert vol.components(voted == 2)[1] < len(places)
    # A restored lesion is at most one voxel, 64 of the old ones.
    lost = len(places) - vol.components(voted == 2)[1]
    assert np.count_nonzero(kept == 2) - np.count_nonzero(voted == 2) == lost


def test_labels_made_finer_and_coarser_again_are_the_same():
    labels = np.random.default_rng(0).integers(0, 3, (6, 5, 4)).astype(np.uint8)
    assert np.array_equal(vol.resample_labels(np.repeat(labels, 3, 0).repeat(2, 1), labels.shape), labels)


@pytest.mark.parametrize("bad", [np.full((2, 2, 2), -1), np.full((2, 2, 2), 0.5), np.full((2, 2, 2), 300)])
def test_what_is_no_label_is_refused(bad):
    with pytest.raises(vol.LabelError, match="Received"):
        vol.resample_labels(bad, (4, 4, 4))


def test_probabilities_become_the_most_probable_class_with_borders_between_voxels():
    probabilities = np.zeros((2, 1, 1, 2), np.float32)
    probabilities[:, 0, 0, 1] = 0.1, 0.7
    probabilities[..., 0] = 1 - probabilities[..., 1]
    found = vol.labels_from_probabilities(probabilities, (60, 1, 1))[:, 0, 0]
    # Centres at a quarter and three quarters; a half is reached two thirds of the way between them.
    assert int(np.argmax(found)) == pytest.approx(60 * (0.25 + 0.5 * 2 / 3), abs=1)
    assert found[-1] == 1


@pytest.mark.parametrize("target", [(20, 11, 5), (9, 7, 6), (4, 14, 6), (3, 7, 6), (10, 7, 6)], ids=str)
def test_probabilities_become_classes_slab_by_slab_as_at_once(monkeypatch, target):
    probabilities = np.random.default_rng(1).random((9, 7, 6, 3)).astype(np.float32)
    at_once = vol.labels_from_probabilities(probabilities, target)
    resampled = [vol.resample_image(probabilities[..., n], target) for n in range(3)]
    np.testing.assert_array_equal(at_once, np.argmax(resampled, 0))
    monkeypatch.setattr(vol.labels, "_SLAB", target[1] * target[2])
    np.testing.assert_array_equal(vol.labels_from_probabilities(probabilities, target), at_once)


@pytest.mark.parametrize("target", [(0, 4, 4), (4, 4), (4, 4, 4, 4)])
def test_sizes_that_make_no_grid_are_refused(target):
    with pytest.raises(vol.DimensionError, match="three positive"):
        vol.resample_image(ct(), target)


# --- writing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image_class", [nib.Nifti1Image, nib.Nifti2Image])
def test_labels_are_written_on_the_grid_of_the_volume(tmp_path, image_class):
    source = write(tmp_path / "v.nii.gz", ct(), image_class=image_class)
    volume = vol.read_volume(source)
    labels = (volume.array > 0).astype(int)
    again = vol.read_volume(vol.write_labels(tmp_path / "out" / "s.nii.gz", labels, volume))
    assert again.array.dtype == np.uint8
    assert np.array_equal(again.array, labels)
    assert np.array_equal(again.affine, volume.affine)
    for name in ("qform_code", "sform_code", "xyzt_units", "pixdim"):
        assert np.array_equal(again.header[name], volume.header[name])
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["s.nii.gz"]


@pytest.mark.parametrize(("name", "shape"), [("s.png", (5, 6, 7)), ("s.nii", (5, 6, 8))])
def test_labels_that_do_not_fit_are_not_written(tmp_path, name, shape):
    volume = vol.read_volume(write(tmp_path / "v.nii.gz", ct()))
    with pytest.raises(vol.VolumeError, match="Received"):
        vol.write_labels(tmp_path / "out" / name, np.zeros(shape, int), volume)
    assert not (tmp_path / "out" / name).exists()
