"""Whether volumes lie in the same place is measured in voxels along each axis."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from datasets.cases import AffineMismatchError, check_same_place
from keras_spatial import volumes
from keras_spatial.volumes import Limits, Volume, check_channels, placed_on
from keras_spatial.volumes.place import enlarged, misplaced

FLAT = np.diag([-0.7, 0.7, 5.0, 1.0])


def volume(affine, shape=(20, 20, 6), array=None, name="a.nii.gz"):
    array = np.zeros(shape, np.uint8) if array is None else array
    return Volume(array, np.asarray(affine, float), nib.Nifti1Header(), Path(name))


def moved(affine, x=0.0, y=0.0, z=0.0):
    return affine @ nib.affines.from_matvec(np.eye(3), [x, y, z])


def turned(degrees):
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    return nib.affines.from_matvec(turn, [0, 0, 0]) @ FLAT


@pytest.mark.parametrize(
    "other, same",
    [
        (FLAT, True),
        (moved(FLAT, 0.05, -0.05, 0.05), True),
        (moved(FLAT, x=0.2), False),
        # 4.9 mm, less than a slice.
        (moved(FLAT, y=7), False),
        (moved(FLAT, z=0.2), False),
        (FLAT * [[-1], [1], [1], [1]], False),
        (FLAT * [[1], [1], [1.2], [1]], False),
        (turned(5), False),
        (turned(0.1), True),
    ],
)
def test_places_are_compared_along_each_axis(other, same):
    assert (misplaced(volume(other), volume(FLAT)) is None) == same
    if same:
        check_same_place(volume(other), volume(FLAT))
        check_channels([volume(FLAT), volume(other)], ["T1", "T2"])
        placed_on(volume(other), volume(FLAT))
    else:
        with pytest.raises(AffineMismatchError, match=r"b\.nii\.gz: lies up to .* mm away from a\.nii\.gz"):
            check_same_place(volume(other, name="b.nii.gz"), volume(FLAT))
        with pytest.raises(volumes.ChannelError, match=r"b\.nii\.gz: lies up to .* mm away from a\.nii\.gz"):
            check_channels([volume(FLAT), volume(other, name="b.nii.gz")], ["T1", "T2"])


def test_what_differs_at_two_corners_alone_is_seen():
    """A turn about the diagonal from the first voxel to the last, which do not move."""
    x, y, z = np.ones(3) / np.sqrt(3)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn = np.eye(3) + np.sin(0.5) * cross + (1 - np.cos(0.5)) * cross @ cross
    cube = (20, 20, 20)
    assert misplaced(volume(nib.affines.from_matvec(turn, [0, 0, 0]), cube), volume(np.eye(4), cube)) is not None


def test_labels_are_carried_on_as_far_as_another_volume_reaches():
    ours = volume(moved(FLAT, z=2), array=np.full((4, 4, 2), 2, np.uint8))
    theirs = volume(FLAT, (4, 4, 6))
    found = enlarged(ours, theirs)
    assert found.array.shape == (4, 4, 6) and misplaced(found, volumes.to_canonical(theirs)) is None
    np.testing.assert_array_equal(found.array.any((0, 1)), [False, False, True, True, False, False])
    with pytest.raises(volumes.LimitError, match="at most 90 voxels"):
        enlarged(ours, theirs, Limits(voxels=90))
    with pytest.raises(volumes.AffineError, match="beginning at voxel"):
        enlarged(ours, volume(moved(FLAT, x=0.5), (4, 4, 6)))
