"""Losses that layers add with `add_loss` are refused by name, and equal to Keras's if the layer is replicated."""

import keras
import numpy as np
import pytest
from equality import split
from keras import layers, ops

import keras_spatial as ks


class AddsOfInputs(layers.Layer):
    def call(self, x):
        self.add_loss(0.1 * ops.mean(ops.square(x)))
        return x


class AddsOfWeights(layers.Layer):
    def build(self, shape):
        self.gain = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, x):
        self.add_loss(ops.sum(ops.square(self.gain)))
        return x * self.gain


class AddsVectors(layers.Layer):
    def call(self, x):
        self.add_loss(ops.mean(ops.abs(x), axis=(1, 2)))
        self.add_loss(0.5 * ops.max(x))
        return 2.0 * x


class Around(layers.Layer):
    def __init__(self):
        super().__init__()
        self.inner = AddsOfInputs()

    def call(self, x):
        return self.inner(x) + 1.0


@pytest.mark.parametrize("layer", [AddsOfInputs, AddsOfWeights, AddsVectors, Around])
def test_a_layer_that_adds_a_loss_is_refused_by_that_name_and_equal_where_it_is_replicated(layer):
    keras.utils.set_random_seed(2)
    inputs = keras.Input((7, 9, 2))
    model = keras.Model(inputs, layers.Conv2D(1, 3)(layer()(layers.Conv2D(3, 3)(inputs))))
    with pytest.raises(ks.UnsupportedLayer, match=r"`add_loss`.*unsupported=\"replicate\""):
        ks.partition(model, split("2x2"))
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(4, 7, 9, 2)), generator.normal(size=(4, 3, 5, 1))
    weights, histories = model.get_weights(), []
    with pytest.warns(UserWarning, match="whole tensors"):
        spatial = ks.partition(model, split("2x2"), unsupported="replicate")
    for candidate in (model, spatial):
        model.set_weights(weights)
        candidate.compile(keras.optimizers.SGD(0.05), loss="mse")
        history = candidate.fit(x, y, batch_size=2, epochs=2, shuffle=False, verbose=0).history["loss"]
        histories.append([*history, candidate.evaluate(x, y, verbose=0)])
    np.testing.assert_allclose(histories[1], histories[0], rtol=1e-4)


def test_a_model_whose_call_adds_a_loss_is_refused_by_that_name():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv = layers.Conv2D(2, 3)

        def call(self, x):
            y = self.conv(x)
            self.add_loss(ops.mean(y))
            return y

    with pytest.raises(ks.UnsupportedLayer, match="`add_loss`"):
        ks.partition(Own(), split("2x2"), input_shape=(8, 8, 1))
