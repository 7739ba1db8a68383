"""A layer that overrides part of its parent's computation does not get its parent's rule; the refusal says so."""

import keras
import numpy as np
import pytest
from equality import assert_equal_to_keras, split
from keras import layers, ops

import keras_spatial as ks
from keras_spatial.rules import find_lowering


class StandardizedConv(layers.Conv2D):
    def convolution_op(self, inputs, kernel):
        return super().convolution_op(inputs, kernel - ops.mean(kernel, axis=(0, 1, 2), keepdims=True))


class TwiceCalled(layers.Conv2D):
    def __call__(self, inputs, *args, **kwargs):
        return super().__call__(inputs * 2.0, *args, **kwargs)


class DoubledKernel(layers.Dense):
    @property
    def kernel(self):
        return super().kernel * 2.0


class OtherMoments(layers.BatchNormalization):
    def _moments(self, inputs, mask):
        mean, variance = super()._moments(inputs, mask)
        return mean, variance * 4.0


class Intercepting(layers.ReLU):
    def __getattribute__(self, name):
        return 3.0 if name == "max_value" else super().__getattribute__(name)


class Mixed:
    def _merge_function(self, inputs):
        return inputs[0] - inputs[1]


class MixedAdd(Mixed, layers.Add):
    pass


class Root(keras.regularizers.L1):
    def __call__(self, x):
        return self.l1 * ops.sqrt(ops.sum(ops.square(x)))


def model_of(layer: keras.Layer, size: int = 8) -> keras.Model:
    inputs = keras.Input((size, size, 3))
    return keras.Model(inputs, layers.Conv2D(2, 1)(layer(inputs)))


REFUSED = {
    "__call__": lambda: TwiceCalled(4, 3, padding="same"),
    "_moments": lambda: OtherMoments(),
    "activity regularizer": lambda: layers.Conv2D(4, 3, activity_regularizer=Root(0.1)),
}


def losses(model: keras.Model, x: np.ndarray, y: np.ndarray) -> list[float]:
    model.compile(keras.optimizers.SGD(0.01), loss="mse")
    return model.fit(x, y, epochs=2, shuffle=False, verbose=0).history["loss"]


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_traced_is_refused_and_equal_where_it_is_replicated(name):
    keras.utils.set_random_seed(3)
    model = model_of(REFUSED[name]())
    with pytest.raises(ks.UnsupportedLayer, match=name):
        ks.partition(model, split("2x2"))
    generator = np.random.default_rng(0)
    x, y = (
        generator.normal(size=(4, *shape[1:])).astype("float32") for shape in (model.input_shape, model.output_shape)
    )
    weights = model.get_weights()
    expected = losses(model, x, y)
    model.set_weights(weights)
    with pytest.warns(UserWarning, match="whole tensors"):
        spatial = ks.partition(model, split("2x2"), unsupported="replicate")
    np.testing.assert_allclose(losses(spatial, x, y), expected, rtol=1e-4)


TRACED = {
    "convolution_op": lambda: StandardizedConv(4, 3, padding="same"),
    "kernel": lambda: DoubledKernel(4),
}


@pytest.mark.parametrize("name", TRACED)
def test_kernels_that_are_computed_with_train_as_in_keras(name):
    keras.utils.set_random_seed(3)
    model = model_of(TRACED[name]())
    generator = np.random.default_rng(0)
    x, y = (
        generator.normal(size=(4, *shape[1:])).astype("float32") for shape in (model.input_shape, model.output_shape)
    )
    weights = model.get_weights()
    expected = losses(model, x, y)
    model.set_weights(weights)
    np.testing.assert_allclose(losses(ks.partition(model, split("2x2")), x, y), expected, rtol=1e-4)


def test_what_can_be_traced_is_equal():
    class Pooled(layers.MaxPooling2D):
        def call(self, inputs):
            return super().call(inputs) * 2.0

    inputs = keras.Input((9, 7, 3))
    x = layers.Conv2D(3, 3)(inputs)
    x = MixedAdd()([x, x * x])
    assert_equal_to_keras(keras.Model(inputs, layers.Conv2D(2, 1)(Pooled()(x))), split("2x2"))


@pytest.mark.parametrize("layer", [Intercepting(), MixedAdd()])
def test_mixins_and_intercepted_attributes_are_overrides(layer):
    assert find_lowering(layer) is None


def test_a_harmless_subclass_keeps_the_rule_of_its_parent():
    class Own(layers.Conv2D):
        """A layer whose `call` has another signature."""

        def __init__(self, width=4, **kwargs):
            super().__init__(width, 3, padding="same", **kwargs)
            self.width = width

        def build(self, shape):
            super().build(shape)

        def describe(self):
            return f"of width {self.width}"

        @property
        def twice(self):
            return 2 * self.width

        def get_config(self):
            return {"width": self.width}

        def compute_output_shape(self, shape):
            return super().compute_output_shape(shape)

    assert find_lowering(Own()) is find_lowering(layers.Conv2D(4, 3))


@pytest.mark.parametrize("name", ["call", "convolution_op"])
def test_a_method_of_the_layer_itself_is_an_override(name):
    layer = layers.Conv2D(4, 3, use_bias=False)
    model = model_of(layer)
    original = getattr(layer, name)
    setattr(layer, name, lambda *args: 2.0 * original(*args))
    assert find_lowering(layer) is None
    assert_equal_to_keras(model, split("2x2"))


def test_models_with_a_call_of_their_own_are_not_walked_as_graphs():
    class Twice(keras.Model):
        def __call__(self, inputs, *args, **kwargs):
            return 2.0 * super().__call__(inputs, *args, **kwargs)

    inputs = keras.Input((8, 8, 3))
    for make in (lambda: Twice(inputs, layers.Conv2D(2, 3)(inputs)), lambda: model_of(Twice(inputs, inputs + 1.0))):
        with pytest.raises(ks.UnsupportedLayer, match=r"Twice overrides `__call__`"):
            ks.partition(make(), split("2x2"))


def test_a_call_set_on_a_functional_model_is_traced():
    model = model_of(layers.ReLU())
    original = model.call
    model.call = lambda inputs, training=None, mask=None: 2.0 * original(inputs, training=training)
    x = np.ones((1, 8, 8, 3), "float32")
    np.testing.assert_allclose(ks.partition(model, split("2x2")).predict(x, verbose=0), model(x), rtol=1e-5)


def test_the_activity_of_a_replicated_layer_counts_once():
    inputs = keras.Input((3, 8, 8, 2))
    model = keras.Model(inputs, layers.ConvLSTM2D(2, 3, padding="same", activity_regularizer="l2")(inputs))
    x = np.random.default_rng(0).normal(size=(2, 3, 8, 8, 2)).astype("float32")
    model.compile(loss="mse")
    with pytest.warns(UserWarning, match="whole tensors"):
        spatial = ks.partition(model, split("2x2"), unsupported="replicate")
    y = np.zeros((2, 8, 8, 2))
    np.testing.assert_allclose(spatial.evaluate(x, y, verbose=0), model.evaluate(x, y, verbose=0), rtol=1e-5)
