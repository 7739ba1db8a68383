"""Volumes are turned to canonical axes and back, and shown in the window of Hounsfield units."""

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from volumes.ct_files import ct

from keras_spatial import volumes as vol
from keras_spatial.volumes.volume import canonical_shape

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


def test_the_window_is_clip_of_hu_over_1024_plus_a_half():
    found = vol.hu_window(np.array([-3000, -512, -256, 0, 256, 512, 3000], np.int16))
    assert found.dtype == np.float32
    assert found.tolist() == [0, 0, 0.25, 0.5, 0.75, 1, 1]
