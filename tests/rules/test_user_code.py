"""Layers, activations and constants that users write: equal to Keras, or refused by name; never a guess."""

import functools
import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import keras_spatial as ks

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.random((4, 8, 8, 3), "float32") + 0.1


def mesh(shape="rows:2, columns:2"):
    return ks.SpatialParallel(ks.device_mesh(shape), "x:rows, y:columns")


def trained(model, images):
    """A model's outputs before a step of training on them, and its weights after it."""
    outputs = model.predict(images, verbose=0)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.train_on_batch(images, np.ones_like(outputs))
    return [outputs, *model.get_weights()]


def assert_equal(function, images=IMAGES, shape="rows:2, columns:2", **options):
    """Assert that a network with this function computes the same as in Keras."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(images.shape[1:])
    model = keras.Model(inputs, function(layers.Conv2D(2, 1, kernel_initializer="ones")(inputs)))
    weights = model.get_weights()
    expected = trained(model, images)
    model.set_weights(weights)
    found = trained(ks.partition(model, mesh(shape), **options), images)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


ACTIVATIONS = {
    "over the image": lambda t: t / ops.max(ops.abs(t)),
    "mean over axes": lambda t: t - ops.mean(t, axis=(1, 2), keepdims=True),
    "softmax over an image axis": functools.partial(keras.activations.softmax, axis=1),
    "of the image's size": lambda t: t * t.shape[1] / 10,
    "by voxel": lambda t: ops.square(ops.relu(t)),
    "of TensorFlow": tf.nn.silu,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_of_ones_own_is_lowered_operation_by_operation(name):
    assert_equal(layers.Activation(ACTIVATIONS[name]))


def test_an_activation_in_raw_tensorflow_is_refused_by_name_or_replicated():
    def mine(t):
        return t - tf.reduce_mean(t, (1, 2), keepdims=True)

    with pytest.raises(ks.UnsupportedLayer, match=r"its function 'mine' does not consist only of keras\.ops"):
        assert_equal(layers.Activation(mine))
    with pytest.warns(UserWarning, match="mine"):
        assert_equal(layers.Activation(mine), unsupported="replicate")


@pytest.mark.parametrize(
    "function",
    [
        layers.Activation(ops.log),
        lambda t: ops.power(t, 0.3),
        lambda t: ops.arctan2(t, 2 * t),
        lambda t: ops.logaddexp(t, -t),
        layers.Activation(lambda t: ops.sqrt(t) + ops.rsqrt(t)),
    ],
)
def test_singular_functions_leave_gradients_finite_where_shards_are_padded(function):
    assert_equal(function, IMAGES[:, :5, :7], "rows:4, columns:2")


@pytest.mark.parametrize(
    "function",
    [
        lambda t: t + ops.mean(t, axis=(1, 2), keepdims=True),
        lambda t: t + ops.mean(t, axis=1, keepdims=True),
        lambda t: layers.Add()([t, layers.GlobalAveragePooling2D(keepdims=True)(t)]),
        lambda t: layers.Average()([t, layers.GlobalAveragePooling2D(keepdims=True)(t)]),
    ],
)
def test_what_has_the_size_of_a_shard_is_no_bias(function):
    """A shard has four of the eight rows, and there are four cases, which Keras's sum would take for channels."""
    assert_equal(function)


@pytest.mark.parametrize("add", [lambda a, b: a + b, lambda a, b: layers.Add()([a, b])])
def test_a_sum_that_keras_takes_for_a_bias_is_refused(add):
    """The second tensor belongs to the columns; Keras adds it along the rows, of which there are as many."""
    with pytest.raises(ks.UnsupportedLayer, match="treats the second tensor of this sum as a bias along axis 1"):
        assert_equal(lambda t: add(t, ops.mean(t, axis=(0, 1, 3), keepdims=True)))


def test_limits_that_differ_from_voxel_to_voxel_are_refused():
    with pytest.raises(ks.UnsupportedLayer, match=r"Clip with an array as \['x_max'\] is not partitioned"):
        assert_equal(lambda t: ops.clip(t, 0.0, np.linspace(0, 1, 16, dtype="float32").reshape(8, 2)))
    assert_equal(lambda t: ops.clip(t, 0.1, 0.9))


class Fading(layers.Layer):
    """A layer of a progressively growing network, which computes with its variable before that meets an input."""

    def build(self, shape):
        self.alpha = self.add_weight(shape=(), trainable=False, initializer="zeros", name="alpha")

    def call(self, x):
        return (1.0 - self.alpha) * x + self.alpha * ops.square(x)


class Noisy(layers.Layer):
    def call(self, x):
        return x + tf.random.normal((1, 8, 8, 1))


def test_random_numbers_that_would_be_those_of_the_first_trace_are_refused():
    with pytest.raises(ks.UnsupportedLayer, match="the result of TensorFlow's RandomStandardNormal before"):
        assert_equal(Noisy())


class Squared(layers.Layer):
    """A layer that computes with its weight before that meets an input."""

    def build(self, shape):
        self.gain = self.add_weight(shape=(shape[-1],), initializer="ones", name="gain")

    def call(self, x):
        return x * ops.square(self.gain)


@pytest.mark.parametrize("layer", [Squared, Fading])
def test_variables_may_be_computed_with_before_they_meet_an_input(layer):
    assert_equal(layer())


@pytest.mark.parametrize("unsupported", ["raise", "replicate"])
def test_a_variable_that_meets_no_input_is_read_at_each_run(unsupported):
    inputs = keras.Input((8, 8, 3))
    layer = Fading()
    model = keras.Model(inputs, layer(inputs))
    spatial = ks.partition(model, mesh(), unsupported=unsupported)
    for value in (0.0, 1.0):
        layer.alpha.assign(value)
        found, expected = (m.predict(IMAGES, verbose=0) for m in (spatial, model))
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_layer_reads_its_variables_in_its_dtype():
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, Squared(dtype="mixed_bfloat16")(inputs))
    spatial = ks.partition(model, mesh())
    found, expected = (m.predict(IMAGES, verbose=0) for m in (spatial, model))
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


class Scaled(layers.Layer):
    factor = 1.0

    def call(self, x, by=1.0):
        return x * self.factor * by


def test_attributes_count_as_they_are_when_the_model_is_compiled():
    layer = Scaled()
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, layer(inputs))
    spatial = ks.partition(model, mesh())
    for factor in (2.0, 5.0):
        layer.factor = factor
        for m in (model, spatial):
            m.compile(loss="mse")
        found, expected = (m.evaluate(IMAGES, IMAGES, verbose=0) for m in (spatial, model))
        assert found == pytest.approx(expected, rel=1e-5)


def test_arrays_that_differ_in_a_few_numbers_are_different_arguments():
    layer, inputs = Scaled(), keras.Input((64, 64, 1))
    first = np.ones((64, 64, 1), "float32")
    second = first.copy()
    second[30:34] = 7
    model = keras.Model(inputs, [layer(inputs, first), layer(inputs, second)])
    images = RANDOM.random((1, 64, 64, 1), "float32")
    found, expected = (m.predict(images, verbose=0) for m in (ks.partition(model, mesh()), model))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_minima_of_integers(dtype):
    inputs = keras.Input((8, 8, 3), dtype=dtype)
    model = keras.Model(inputs, ops.min(inputs, axis=(1, 2)))
    images = RANDOM.integers(0, 256, (2, 8, 8, 3)).astype(dtype)
    found, expected = (m.predict(images, verbose=0) for m in (ks.partition(model, mesh()), model))
    np.testing.assert_array_equal(found, expected)


def test_a_layer_that_was_refused_is_forgotten():
    layer, inputs = Noisy(), keras.Input((8, 8, 3))
    model = keras.Model(inputs, layer(inputs))
    with pytest.raises(ks.UnsupportedLayer):
        ks.partition(model, mesh())
    known = weakref.ref(layer)
    del layer, inputs, model
    keras.backend.clear_session()
    gc.collect()
    assert known() is None


class ReadsWhatIsThere(ks.Model):
    """A layer whose computation depends on which inputs it gets."""

    def call(self, inputs):
        x = inputs["image"]
        return 2 * x if "mask" in inputs else x


def test_inputs_of_other_names_have_another_graph():
    image = IMAGES[:, :, :, :1]
    model = ReadsWhatIsThere(distribution=mesh())
    for name, factor in (("mask", 2), ("prior", 1)):
        found = model.predict({"image": image, name: image}, verbose=0)
        np.testing.assert_allclose(found, factor * image, rtol=1e-6)
