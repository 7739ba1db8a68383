"""Convolutions with a kernel of one voxel, whose gradients are products of matrices."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from equality import assert_equal_to_keras, split
from keras import layers as L

import keras_spatial as ks

SIZES = {L.Conv1D: (24,), L.Conv2D: (12, 10), L.Conv3D: (8, 9, 6)}


@pytest.mark.parametrize("filters", [3, 40], ids=["few-filters", "filters-that-outweigh-the-image"])
@pytest.mark.parametrize("mesh", ["1x1", "2x1", "2x2"])
@pytest.mark.parametrize("layer", SIZES)
def test_its_gradients_are_those_of_keras(layer, mesh, filters):
    size, dtype = SIZES[layer], "float64"
    if layer is L.Conv1D and mesh == "2x2":
        pytest.skip("one image axis has one mesh axis")
    distribution = split("rows:2", "x:rows") if layer is L.Conv1D and mesh == "2x1" else split(mesh)
    if layer is L.Conv1D and mesh == "1x1":
        distribution = split("rows:1", "x:rows")
    keras.utils.set_random_seed(0)
    inputs = keras.Input((*size, 4), dtype=dtype)
    x = layer(filters, 1, activation="gelu", dtype=dtype)(inputs)
    model = keras.Model(inputs, layer(2, 1, use_bias=False, dtype=dtype)(x))
    assert_equal_to_keras(model, distribution, forward=1e-9, gradient=1e-9)


@pytest.mark.parametrize(
    "options",
    [{"strides": 2}, {"groups": 2}, {"data_format": "channels_first"}],
    ids=lambda options: next(iter(options)),
)
def test_strides_groups_and_formats(options):
    inputs = keras.Input((8, 8, 8))
    assert_equal_to_keras(keras.Model(inputs, L.Conv2D(4, 1, **options)(inputs)), split("2x2"))


def test_the_gradient_of_its_kernel_is_that_of_float64():
    generator = np.random.default_rng(0)
    image = (generator.normal(size=(1, 64, 64, 64, 2)) + 1).astype("float32")
    inputs = keras.Input(image.shape[1:])
    model = ks.partition(keras.Model(inputs, L.Conv3D(3, 1)(inputs)), split("2x2"))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(image))
    gradient = tape.gradient(loss, model.trainable_variables)[0]
    expected = np.repeat(image.astype("float64").sum((0, 1, 2, 3))[:, None], 3, axis=1)
    np.testing.assert_allclose(gradient[0, 0, 0], expected, rtol=1e-6)
