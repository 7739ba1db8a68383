"""Augmentation of volumes in plain Keras: what each layer does, and what it refuses."""

import keras
import numpy as np
import pytest

import keras_spatial as ks

VOLUMES = np.random.default_rng(0).normal(size=(16, 3, 4, 5, 1)).astype("float32")


def test_flips_mirror_some_images_along_each_axis_by_itself():
    found = ks.layers.RandomFlip3D("xz", seed=2)(VOLUMES, training=True).numpy()
    seen = set()
    for before, after in zip(VOLUMES, found, strict=True):
        mirrors = [(), (0,), (2,), (0, 2)]
        (mirror,) = [axes for axes in mirrors if np.array_equal(np.flip(before, axes), after)]
        seen.add(mirror)
    assert len(seen) == 4


def test_brightness_adds_one_number_to_each_image():
    found = ks.layers.RandomBrightness3D((0.1, 0.2), (-50, 50), seed=2)(VOLUMES, training=True).numpy()
    added = (found - VOLUMES).reshape(16, -1)
    np.testing.assert_allclose(added, np.broadcast_to(added[:, :1], added.shape), atol=1e-4)
    assert added.min() > 10 - 1e-3 and added.max() < 20 + 1e-3 and added.std() > 1


def test_contrast_keeps_the_mean_and_scales_the_deviation():
    found = ks.layers.RandomContrast3D((0.5, 0.5), (-50, 50), seed=2)(VOLUMES, training=True).numpy()
    np.testing.assert_allclose(found.mean((1, 2, 3)), VOLUMES.mean((1, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(found.std((1, 2, 3)), 1.5 * VOLUMES.std((1, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        ks.layers.RandomFlip3D("y", seed=1),
        ks.layers.RandomBrightness3D(0.1, (0, 1), seed=1),
        ks.layers.RandomContrast3D((0.0, 0.3), (0, 1), seed=1),
    ],
)
def test_inference_changes_nothing_and_a_configuration_makes_the_same_layer(layer):
    np.testing.assert_array_equal(layer(VOLUMES), VOLUMES)
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    np.testing.assert_array_equal(layer(VOLUMES, training=True), again(VOLUMES, training=True))


def test_a_model_with_them_is_loaded_from_its_file(tmp_path):
    inputs = keras.Input((4, 4, 4, 1))
    keras.Model(inputs, ks.layers.RandomFlip3D("x")(inputs)).save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").layers[1].axes == "x"


@pytest.mark.parametrize("axes", ["", "xx", "w"])
def test_bad_axes_are_named(axes):
    with pytest.raises(ValueError, match="axes: expected"):
        ks.layers.RandomFlip3D(axes)


@pytest.mark.parametrize(("factor", "value_range"), [(2.0, (0, 1)), ((0.3, 0.1), (0, 1)), (0.1, (1, 1))])
def test_bad_factors_and_ranges_are_named(factor, value_range):
    with pytest.raises(ValueError, match="Expected a factor"):
        ks.layers.RandomContrast3D(factor, value_range)


def test_images_of_two_axes_are_refused():
    with pytest.raises(ValueError, match="takes \\[batch, x, y, z, channels\\]"):
        ks.layers.RandomFlip3D()(np.zeros((1, 4, 4, 1), "float32"))
