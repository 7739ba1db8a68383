"""Dropout and noise on a mesh have Keras's statistics, and the same numbers for the same seed and mesh only."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from equality import partitioned_results, split
from keras import layers as L

RATE = 0.3
DEVIATION = 0.5
SHAPE = (24, 20, 8)  # Two such images have 7,680 values, so rates are known within 0.02, which is four standard errors.
PER_ELEMENT = {
    "dropout": lambda: L.Dropout(RATE, seed=4),
    "gaussian-dropout": lambda: L.GaussianDropout(RATE, seed=4),
    "gaussian-noise": lambda: L.GaussianNoise(DEVIATION, seed=4),
    "alpha-dropout": lambda: L.AlphaDropout(RATE, seed=4),
}


def noisy_ones(layer: keras.Layer, mesh: str = "2x2", training: bool = True) -> np.ndarray:
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, layer(inputs))
    return partitioned_results(model, split(mesh), [tf.ones((2, *SHAPE))], training).outputs[0]


def test_dropout_drops_its_rate_and_scales_what_it_keeps():
    y = noisy_ones(L.Dropout(RATE, seed=4))
    assert np.mean(y == 0) == pytest.approx(RATE, abs=0.02)
    np.testing.assert_allclose(y[y != 0], 1 / (1 - RATE), rtol=1e-6)


@pytest.mark.parametrize("name", PER_ELEMENT)
def test_mean_and_deviation_are_those_of_keras(name):
    layer = PER_ELEMENT[name]()
    keras_values = layer(tf.ones((16, *SHAPE)), training=True).numpy()
    values = noisy_ones(PER_ELEMENT[name]())
    # Four standard errors of a mean of 7,680 values, and of the one it is compared with.
    margin = 5 * keras_values.std() / np.sqrt(values.size)
    assert values.mean() == pytest.approx(keras_values.mean(), abs=margin)
    assert values.std() == pytest.approx(keras_values.std(), rel=0.05)


@pytest.mark.parametrize("name", PER_ELEMENT)
def test_every_slice_draws_its_own_numbers(name):
    y = noisy_ones(PER_ELEMENT[name]())
    corners = [y[:, i : i + 12, j : j + 10] for i in (0, 12) for j in (0, 10)]
    for i, one in enumerate(corners):
        for other in corners[:i]:
            assert np.mean(one != other) > 0.3
    assert np.mean(y[0] != y[1]) > 0.3


@pytest.mark.parametrize("name", PER_ELEMENT)
def test_a_seed_and_a_mesh_fix_the_numbers(name):
    first, again = noisy_ones(PER_ELEMENT[name]()), noisy_ones(PER_ELEMENT[name]())
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("layer", [L.Dropout, L.GaussianDropout, L.GaussianNoise, L.AlphaDropout])
def test_another_seed_gives_other_numbers(layer):
    assert np.any(noisy_ones(layer(RATE, seed=4)) != noisy_ones(layer(RATE, seed=5)))


@pytest.mark.parametrize("name", PER_ELEMENT)
def test_inference_is_without_noise(name):
    np.testing.assert_array_equal(noisy_ones(PER_ELEMENT[name](), training=False), 1.0)


def test_each_step_draws_new_numbers():
    layer = L.Dropout(RATE, seed=4)
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, layer(inputs))
    ones = [tf.ones((2, *SHAPE))]
    first = partitioned_results(model, split("2x2"), ones, True)
    layer.seed_generator.state.assign(first.state[0])
    second = partitioned_results(model, split("2x2"), ones, True)
    assert np.any(first.outputs[0] != second.outputs[0])


@pytest.mark.parametrize("mesh", ["2x2", "3x1"])
def test_spatial_dropout_drops_whole_channels_over_all_slices(mesh):
    y = noisy_ones(L.SpatialDropout2D(0.5, seed=2), mesh)
    np.testing.assert_array_equal(y, np.broadcast_to(y[:, :1, :1], y.shape))
    assert set(np.unique(y)) == {0.0, 2.0}


def test_noise_shape_shares_numbers_over_a_split_axis():
    y = noisy_ones(L.Dropout(0.5, noise_shape=(None, 1, None, None), seed=2))
    np.testing.assert_array_equal(y, np.broadcast_to(y[:, :1], y.shape))
    assert len(np.unique(y[0, 0])) == 2
