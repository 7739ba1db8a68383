"""Images on other grids over the same field of view: means if voxels get larger, interpolation if they get smaller."""

import numpy as np
import pytest
from volumes.ct_files import ct

from keras_spatial import volumes as vol


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


@pytest.mark.parametrize("target", [(0, 4, 4), (4, 4), (4, 4, 4, 4)])
def test_sizes_that_make_no_grid_are_refused(target):
    with pytest.raises(vol.DimensionError, match="three positive"):
        vol.resample_image(ct(), target)
