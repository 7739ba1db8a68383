"""Class numbers on other grids: volumes are kept, and no lesion is lost."""

import numpy as np
import pytest

from keras_spatial import volumes as vol


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
