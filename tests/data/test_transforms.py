"""Augmentation: the parts of a partitioned volume together are the transform of the whole volume."""

import itertools

import numpy as np
import pytest

from keras_spatial.data import NNUNET, STRONG, Augmentation, Box, Part, Transform

SHAPE = (12, 9, 8)


@pytest.fixture(scope="module")
def volume():
    rng = np.random.default_rng(0)
    label = np.zeros(SHAPE, np.uint8)
    label[2:9, 3:8, 1:6] = 1
    label[4:7, 4:6, 2:4] = 2
    return rng.random((*SHAPE, 1), np.float32), label


def reader(volume):
    def read(box):
        assert all(0 <= a < b <= n for a, b, n in zip(box.start, box.stop, SHAPE, strict=True))
        where = tuple(slice(a, b) for a, b in zip(box.start, box.stop, strict=True))
        return volume[0][where], volume[1][where]

    return read


def whole(transform, volume):
    return transform.apply(reader(volume), Box((0, 0, 0), SHAPE), SHAPE)


KINDS = {
    "paper": Augmentation(),
    "translation": Augmentation(translation=0.3),
    "shear": Augmentation(flips=False, rotation=False, shear=0.4),
    "intensity": Augmentation(intensity_scale=0.2, intensity_shift=0.1),
    "noise": Augmentation(noise=0.2),
    "corruption": Augmentation(corruption=1.0),
    "turn": Augmentation(flips=False, rotation=False, angle=0.5),
    "zoom": Augmentation(zoom=0.5),
    "gamma": Augmentation(gamma=0.5),
    "strong": STRONG,
    "nnunet": NNUNET,
}


@pytest.mark.parametrize("counts", [(2, 1, 1), (2, 3, 2), (4, 2, 1)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_parts_together_are_the_whole(volume, kind, counts):
    for seed in range(4):
        transform = KINDS[kind].draw(seed)
        image, label = whole(transform, volume)
        for index in itertools.product(*(range(n) for n in counts)):
            box = Part(index, counts).box(SHAPE)
            part_image, part_label = transform.apply(reader(volume), box, SHAPE)
            where = tuple(slice(a, b) for a, b in zip(box.start, box.stop, strict=True))
            np.testing.assert_allclose(part_image, image[where], atol=1e-6)
            np.testing.assert_array_equal(part_label, label[where])


def test_flips_mirror_image_and_label(volume):
    image, label = whole(Transform(flips=(True, False, True)), volume)
    np.testing.assert_array_equal(image, volume[0][::-1, :, ::-1])
    np.testing.assert_array_equal(label, volume[1][::-1, :, ::-1])


def test_the_rotation_is_half_a_turn_about_z(volume):
    drawn = [Augmentation(flips=False).draw(seed) for seed in range(50)]
    assert {t.flips for t in drawn} == {(False, False, False), (True, True, False)}
    image, _ = whole(next(t for t in drawn if any(t.flips)), volume)
    np.testing.assert_array_equal(image, np.rot90(volume[0], 2, axes=(0, 1)))


def test_translation_by_whole_voxels_moves_voxels_and_fills_with_air(volume):
    image, label = whole(Transform(translation=(2 / 12, 0, -1 / 8)), volume)
    np.testing.assert_allclose(image[:-2, :, 1:], volume[0][2:, :, :-1], atol=1e-6)
    np.testing.assert_array_equal(label[:-2, :, 1:], volume[1][2:, :, :-1])
    assert not image[-2:].any() and not label[-2:].any()


def test_a_quarter_turn_about_z_is_that_of_numpy():
    label = np.zeros((8, 8, 3), np.uint8)
    label[1:3, 4:7, 1] = 1
    image = label[..., None].astype(np.float32)

    def read(box):
        where = tuple(slice(a, b) for a, b in zip(box.start, box.stop, strict=True))
        return image[where], label[where]

    turned = Transform(angles=(0, 0, np.pi / 2)).apply(read, Box((0, 0, 0), label.shape), label.shape)
    np.testing.assert_allclose(turned[0], np.rot90(image, -1, axes=(0, 1)), atol=1e-6)
    np.testing.assert_array_equal(turned[1], np.rot90(label, -1, axes=(0, 1)))


def test_zoom_enlarges_about_the_centre(volume):
    image, label = whole(Transform(zoom=1.25), volume)
    assert (label == 1).sum() > 1.5 * (volume[1] == 1).sum()
    # Shrinking leaves air around.
    image, _ = whole(Transform(zoom=0.5), volume)
    assert not image[0].any() and not image[-1].any()


def test_gamma_is_the_exponent_of_the_intensity(volume):
    np.testing.assert_allclose(whole(Transform(gamma=2.0), volume)[0], volume[0] ** 2, rtol=1e-6)


def test_a_power_of_what_may_be_negative_is_refused():
    with pytest.raises(ValueError, match="gamma: expected bounds that begin at 0"):
        Augmentation(gamma=0.5, bounds=None)


def test_turn_zoom_and_gamma_are_drawn_as_rarely_as_asked():
    drawn = [NNUNET.draw(seed) for seed in range(400)]
    for changed in ([t.zoom != 1 for t in drawn], [t.gamma != 1 for t in drawn], [any(t.angles) for t in drawn]):
        assert 0.2 < np.mean(changed) < 0.4


def test_intensity_changes_by_class(volume):
    image, _ = whole(Transform(scale=(1, 1, 1), shift=(0, 0.1, 0)), (volume[0] * 0.5, volume[1]))
    difference = (image - volume[0] * 0.5)[..., 0]
    np.testing.assert_allclose(difference, np.where(volume[1] == 1, 0.1, 0), atol=1e-6)


def test_corruption_leaves_the_liver_alone(volume):
    image, _ = whole(Transform(corrupted=True, seed=3), volume)
    changed = (image != volume[0])[..., 0]
    assert not changed[volume[1] > 0].any()
    assert changed[volume[1] == 0].mean() > 0.9


def test_noise_has_the_drawn_strength_on_both_scales():
    flat = np.full((*SHAPE, 1), 0.5, np.float32), np.zeros(SHAPE, np.uint8)
    fine, _ = whole(Transform(noise=(0.1, 0)), flat)
    assert (fine - 0.5).std() == pytest.approx(0.1, rel=0.1)
    coarse, _ = whole(Transform(noise=(0, 0.1)), flat)
    assert np.unique(coarse[:4, :4, :4]).size == 1


def test_a_seed_is_a_transform_and_seeds_differ():
    assert STRONG.draw(7) == STRONG.draw(7)
    assert len({STRONG.draw(seed) for seed in range(100)}) == 100


@pytest.mark.parametrize("argument", ["translation", "shear", "noise", "corruption"])
def test_strengths_out_of_range_are_named(argument):
    with pytest.raises(ValueError, match=f"{argument}: .*Received: 1.5"):
        Augmentation(**{argument: 1.5})
