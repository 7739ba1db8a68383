"""Compositions of layers: nested, shared and subclassed models, several inputs and outputs, custom layers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from equality import assert_equal_to_keras, split
from keras import layers as L
from keras import ops

import keras_spatial as ks


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(5)


def nested():
    inner = keras.Sequential([keras.Input((None, None, 3)), L.Conv2D(3, 3, padding="same"), L.ReLU()])
    inputs = keras.Input((10, 7, 3))
    return keras.Model(inputs, inner(inner(inputs)))  # Twice: it is shared, too.


def several_inputs_and_outputs():
    image, other = keras.Input((10, 7, 2), name="image"), keras.Input((10, 7, 3), name="other")
    x = L.Conv2D(4, 3, padding="same")(L.Concatenate()([image, other]))
    outputs = {"mask": L.Conv2D(1, 1)(x), "class": L.Dense(3)(L.GlobalMaxPooling2D()(x))}
    return keras.Model({"image": image, "other": other}, outputs)


def vector_input():
    image, age = keras.Input((10, 7, 2)), keras.Input((4,))
    x = L.Conv2D(3, 3, padding="same")(image)
    return keras.Model([image, age], [x * L.Reshape((1, 1, 3))(L.Dense(3)(age)), x])


def squeeze_and_excitation():
    inputs = keras.Input((10, 7, 4))
    gate = L.GlobalAveragePooling2D()(inputs)
    gate = L.Dense(4, activation="sigmoid")(L.Dense(2, activation="relu")(gate))
    return keras.Model(inputs, inputs * gate[:, None, None, :])


def attention_over_voxels():
    inputs = keras.Input((6, 5, 4))
    tokens = L.Reshape((30, 4))(inputs)
    tokens = tokens + L.MultiHeadAttention(2, 2)(tokens, tokens)
    return keras.Model(inputs, L.Conv2D(3, 3, padding="same")(L.Reshape((6, 5, 4))(tokens)))


def lora():
    layer = L.Conv2D(4, 3, padding="same")
    dense = L.Dense(3)
    inputs = keras.Input((10, 7, 2))
    model = keras.Model(inputs, dense(layer(inputs)))
    layer.enable_lora(2)
    dense.enable_lora(2)
    for variable in (layer.lora_kernel_b, dense.lora_kernel_b):
        variable.assign(np.ones(variable.shape))
    return model


def through_all_scales():
    """Odd sizes pass through strides until there are fewer voxels than shards."""
    inputs = x = keras.Input((19, 13, 2))
    for _ in range(4):
        x = L.Conv2D(3, 3, strides=2, padding="same", activation="relu")(x)
    for _ in range(4):
        x = L.Conv2DTranspose(3, 3, strides=2, padding="same")(x)
    return keras.Model(inputs, x)


class Normalized(L.Layer):
    """A layer made of layers and operations, without its own lowering rule."""

    def __init__(self, filters):
        super().__init__()
        self.convolution = L.Conv2D(filters, 3, padding="same", use_bias=False)

    def build(self, shape):
        self.gain = self.add_weight(shape=(self.convolution.filters,), initializer="uniform")

    def call(self, x, training=False):
        x = self.convolution(x)
        mean = ops.mean(x, axis=[1, 2], keepdims=True)
        return ops.relu((x - mean) * self.gain) if not training else (x - mean) * self.gain


def composite_layer():
    inputs = keras.Input((10, 7, 2))
    return keras.Model(inputs, Normalized(3)(Normalized(4)(inputs)))


MODELS = {
    f.__name__.replace("_", "-"): f
    for f in (
        nested,
        several_inputs_and_outputs,
        vector_input,
        squeeze_and_excitation,
        attention_over_voxels,
        lora,
        through_all_scales,
        composite_layer,
    )
}


@pytest.mark.parametrize("name", MODELS)
def test_model_equals_keras(name):
    model, distribution = MODELS[name](), split("4x2")
    ks.partition(model, distribution)
    assert_equal_to_keras(model, distribution, training=True)


def test_sequential_and_subclassed_models_are_partitioned():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.body = Normalized(3)
            self.head = L.Conv2D(2, 1)

        def call(self, x):
            return self.head(ops.gelu(self.body(x)))

    sequential = keras.Sequential([keras.Input((10, 7, 2)), L.Conv2D(2, 3), L.Flatten(), L.Dense(3)])
    for model, shape in ((Net(), (10, 7, 2)), (sequential, None)):
        spatial = ks.partition(model, split("2x2"), input_shape=shape)
        x = tf.random.stateless_normal((2, 10, 7, 2), (0, 0))
        np.testing.assert_allclose(spatial(x), model(x), rtol=1e-5, atol=1e-5)


class Counting(L.Layer):
    """It changes a variable by itself."""

    def build(self, shape):
        self.calls = self.add_weight(shape=(), trainable=False, initializer="zeros", name="calls")

    def call(self, x):
        self.calls.assign_add(1.0)
        return x


def test_all_layers_that_cannot_be_partitioned_are_named_at_once():
    inner_inputs = keras.Input((8, 8, 2))
    inner = keras.Model(inner_inputs, L.ConvLSTM1D(2, 3, name="memory", return_sequences=True)(inner_inputs))
    inputs = keras.Input((8, 8, 2))
    x = Counting(name="counting")(inner(L.ZeroPadding2D(((0, 0), (1, 1)))(inputs)[:, :, 1:-1]))
    model = keras.Model(inputs, ops.qr(x)[1])
    with pytest.raises(ks.UnsupportedLayer) as error:
        ks.partition(model, split("2x1"))
    message = str(error.value)
    assert "'memory' (ConvLSTM1D)" in message
    assert "'counting' (Counting): its call assigns the variables" in message
    assert "(Qr)" in message
    assert "register_lowering" in message
    assert "Conv2D" not in message


def test_activity_regularization_adds_to_the_loss_as_in_keras():
    def make():
        keras.utils.set_random_seed(2)
        inputs = keras.Input((9, 7, 2))
        x = L.Conv2D(3, 3, padding="same", activity_regularizer=keras.regularizers.L1L2(0.1, 0.2))(inputs)
        model = keras.Model(inputs, L.ActivityRegularization(l2=0.3)(x))
        model.compile("sgd", "mse")
        return model

    generator = np.random.default_rng(0)
    x, y = (generator.normal(size=(4, 9, 7, c)).astype("float32") for c in (2, 3))
    plain, spatial = make(), ks.partition(make(), split("2x2"))
    for _ in range(2):
        expected, actual = plain.train_on_batch(x, y), spatial.train_on_batch(x, y)
        np.testing.assert_allclose(actual, expected, rtol=1e-5)
    for a, e in zip(spatial.weights, plain.weights, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-6)
