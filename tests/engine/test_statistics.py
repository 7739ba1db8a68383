"""Normalization by the statistics of the whole image, compared with float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_spatial as ks
from keras_spatial.engine.statistics import Normalization
from keras_spatial.mesh_tensorflow import mtf

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


def _operations(*shape: int) -> list[str]:
    """The types of the operations of the gradient with respect to a shard of this shape."""
    mesh = mtf.Mesh(mtf.Graph(), "mesh")
    small = mtf.Shape([mtf.Dimension("n", 1), mtf.Dimension("c", shape[-1])])
    x = mtf.import_tf_tensor(mesh, tf.zeros(small.to_integer_list), small)
    operation = Normalization(x, None, None, edges=(), count=1, epsilon=1e-3, dtype=tf.float32, name="normalization")
    shard, vector, sums = (tf.TensorSpec(s) for s in (shape, shape[-1:], (2, *shape[-1:])))
    function = tf.function(lambda *tensors: operation.derivative((), *tensors))
    graph = function.get_concrete_function(vector, vector, shard, sums, shard).graph
    return [operation.type for operation in graph.get_operations()]


@pytest.mark.parametrize(("planes", "fused"), [(511, True), (512, False)])
def test_shards_of_more_elements_than_32_bits_count_are_not_given_to_batch_normalization(planes, fused):
    """TensorFlow's kernel for GPUs takes no more, and these have 2^31."""
    assert ("FusedBatchNormV3" in _operations(1, planes, 512, 512, 16)) == fused
