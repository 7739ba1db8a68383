"""Moving averages of normalization, which are computed once, where the variable is."""

import keras
import numpy as np
import pytest
from equality import split

import keras_spatial as ks


def twice() -> keras.Model:
    """A model that calls one normalization on two images of different statistics."""
    keras.utils.set_random_seed(5)
    inputs = keras.Input((8, 6, 3))
    shared = keras.layers.BatchNormalization(momentum=0.6)
    y = shared(keras.layers.Conv2D(3, 1)(inputs)) + shared(inputs)
    return keras.Model(inputs, keras.layers.BatchNormalization(scale=False, center=False)(y))


@pytest.mark.parametrize("frozen", [False, True])
def test_a_layer_that_is_called_twice_in_a_step_averages_twice(frozen):
    x = np.random.default_rng(0).normal(1.0, 2.0, size=(2, 8, 6, 3)).astype("float32")
    found = []
    for partitioned in (False, True):
        model = twice()
        model.layers[-1].trainable = not frozen
        model = ks.partition(model, split("2x2")) if partitioned else model
        model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
        losses = [model.train_on_batch(x, x) for _ in range(2)]
        found.append([np.ravel(losses), *(v.numpy() for v in model.weights)])
    for expected, value in zip(*found, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
