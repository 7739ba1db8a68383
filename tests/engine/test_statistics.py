"""Normalization by the statistics of the whole image, compared with float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_spatial as ks

# The means of the channels; their standard deviation is 1.
MEANS = (0.0, 10.0, -100.0, 1000.0)


def _model(dtype: str) -> keras.Model:
    inputs = keras.Input((16, 16, 16, len(MEANS)), dtype=dtype)
    layer = keras.layers.BatchNormalization(dtype=dtype)
    model = keras.Model(inputs, layer(inputs))
    layer.gamma.assign(np.linspace(0.5, 2, len(MEANS)))
    layer.beta.assign(np.linspace(-2, 2, len(MEANS)))
    return model


def _results(model: keras.Model, image: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
    """The output and the gradients, by name."""
    x = tf.constant(image, dtype)
    seed = tf.constant(np.random.default_rng(1).normal(size=image.shape), dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = model(x, training=True)
        value = tf.reduce_sum(y * seed)
    gradients = tape.gradient(value, [x, *model.trainable_variables])
    return dict(zip(("output", "input", "gamma", "beta"), map(np.asarray, (y, *gradients)), strict=True))


def _errors(found: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """For each channel, the largest error over the largest number."""
    over = tuple(range(exact.ndim - 1))
    return np.max(np.abs(found - exact), axis=over) / np.max(np.abs(exact), axis=over)


@pytest.mark.parametrize("what", ["output", "input", "gamma", "beta"])
def test_channels_far_from_zero_are_normalized_as_exactly_as_by_keras(what):
    image = np.random.default_rng(0).normal(size=(1, 16, 16, 16, len(MEANS))) + MEANS
    distribution = ks.SpatialParallel(ks.device_mesh("rows:2, columns:2"), "x:rows, y:columns")

    exact = _results(_model("float64"), image, "float64")[what]
    keras_s = _errors(_results(_model("float32"), image, "float32")[what], exact)
    ours = _errors(_results(ks.partition(_model("float32"), distribution), image, "float32")[what], exact)

    np.testing.assert_array_less(ours, keras_s + 1e-6)
