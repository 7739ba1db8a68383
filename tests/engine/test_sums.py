"""Sums over the voxels of large images equal those in float64, whatever the mesh; Keras's own sums lose digits
there.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from equality import split

import keras_spatial as ks
from keras_spatial.engine.sums import add_bias, summed

GENERATOR = np.random.default_rng(0)
# The distance of 1 to the next number.
HALVES = [("float16", 2**-10), ("bfloat16", 2**-7)]
VALUES = (GENERATOR.normal(size=(1, 96, 96, 96, 4)) + 1).astype("float32")


@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (1, 2, 3), (2,), (1, 2, 3, 4)])
@pytest.mark.parametrize("keepdims", [False, True])
def test_a_sum_is_that_of_float64(axes, keepdims):
    expected = VALUES.astype("float64").sum(axes, keepdims=keepdims)
    np.testing.assert_allclose(summed(tf.constant(VALUES), axes, keepdims=keepdims), expected, rtol=2e-6, atol=1e-4)


def test_counts_are_right_beyond_what_float32_can_add_one_to():
    ones = tf.ones((1, 2**12, 2**13, 1))
    assert int(summed(ones, (1, 2))[0, 0]) == 2**25


def test_the_gradient_of_a_bias_is_that_of_float64():
    bias = tf.constant([0.5, -1.0, 2.0, 0.0])
    with tf.GradientTape() as tape:
        tape.watch(bias)
        y = add_bias(tf.constant(VALUES), bias)
    np.testing.assert_array_equal(y, VALUES + bias.numpy())
    gradient = tape.gradient(y, bias, tf.constant(VALUES**2))
    np.testing.assert_allclose(gradient, (VALUES.astype("float64") ** 2).sum((0, 1, 2, 3)), rtol=2e-6)


@pytest.mark.parametrize(("dtype", "unit"), HALVES)
def test_the_gradient_of_a_bias_in_half_precision_loses_one_digit_at_most(dtype, unit):
    image, addend = np.ones((1, 128, 128, 2)), float(tf.cast(0.001, dtype))
    inputs = keras.Input(image.shape[1:], dtype=dtype)
    plain = keras.Model(inputs, keras.layers.Conv2D(2, 3, padding="same", dtype=dtype)(inputs))
    model = ks.partition(plain, split("2x1"))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.cast(model(tf.cast(image, dtype)) * tf.cast(addend, dtype), tf.float32))
    gradient = tape.gradient(loss, model.trainable_variables[1])
    exact = addend * 128 * 128
    np.testing.assert_allclose(tf.cast(gradient, tf.float32), exact, rtol=unit)


@pytest.mark.parametrize(("dtype", "unit"), HALVES)
def test_a_sum_in_half_precision_loses_one_digit_at_most(dtype, unit):
    values = tf.fill((1, 64, 64, 64, 4), tf.cast(0.001, dtype))
    exact = float(values[0, 0, 0, 0, 0]) * 64**3
    np.testing.assert_allclose(tf.cast(summed(values, (0, 1, 2, 3)), tf.float32), exact, rtol=unit)


@pytest.mark.parametrize("mesh", ["1x1", "2x2"])
def test_statistics_of_a_batch_are_those_of_float64(mesh):
    inputs = keras.Input(VALUES.shape[1:])
    model = ks.partition(keras.Model(inputs, keras.layers.BatchNormalization(momentum=0.0)(inputs)), split(mesh))
    model.compile("sgd", "mse")
    model.train_on_batch(VALUES, VALUES)
    mean, variance = (v.numpy() for v in model.non_trainable_variables if "moving" in v.path)
    wide = VALUES.astype("float64")
    np.testing.assert_allclose(mean, wide.mean((0, 1, 2, 3)), rtol=2e-6)
    np.testing.assert_allclose(variance, wide.var((0, 1, 2, 3)), rtol=2e-6)


def test_a_dice_coefficient_of_many_voxels_is_that_of_float64():
    labels = GENERATOR.integers(0, 3, VALUES.shape[:-1])
    logits = VALUES[..., :3]
    found = float(ks.losses.SoftDice(over="case", epsilon=1e-6)(labels, logits))
    powers = np.exp(logits.astype("float64"))
    p, t = powers / powers.sum(-1, keepdims=True), np.eye(3)[labels]
    dice = 2 * (p * t).sum((0, 1, 2, 3)) / (p.sum((0, 1, 2, 3)) + t.sum((0, 1, 2, 3)))
    np.testing.assert_allclose(found, 1 - dice[1:].mean(), rtol=2e-6)
