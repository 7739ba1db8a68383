"""A custom layer with a lowering rule registered by `ks.register_lowering`, as in docs/layers.md."""

import keras
import pytest
import tensorflow as tf
from equality import assert_equal_to_keras, split

import keras_spatial as ks


class Laplacian(keras.layers.Layer):
    """The sum of a voxel's four neighbours minus four times the voxel, times a gain for each channel."""

    def build(self, shape):
        self.gain = self.add_weight(shape=(shape[-1],), initializer="uniform", name="gain")

    def call(self, x):
        padded = tf.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
        return _laplacian(padded, self.gain)


def _laplacian(x, gain):
    neighbours = x[:, 2:, 1:-1] + x[:, :-2, 1:-1] + x[:, 1:-1, 2:] + x[:, 1:-1, :-2]
    return (neighbours - 4.0 * x[:, 1:-1, 1:-1]) * gain


class Standardized(keras.layers.Layer):
    """Images of mean 0 over all voxels and channels."""

    def call(self, x):
        return x - tf.reduce_mean(x, axis=[1, 2, 3], keepdims=True)


@pytest.fixture(scope="module", autouse=True)
def lowerings():
    @ks.register_lowering(Laplacian)
    def lower_laplacian(layer, trace, x):
        halo = {1: (1, 1), 2: (1, 1)}
        return trace.windowed(_laplacian, x, halo, x.axes, weights=[layer.gain], name=layer.name)

    @ks.register_lowering(Standardized)
    def lower_standardized(layer, trace, x):
        mean_axes = (x.axes[0], *(axis.whole(1) for axis in x.axes[1:]))
        voxels = x.shape[1] * x.shape[2] * x.shape[3]
        # Elements beyond the image are left out without further code.
        mean = trace.reduced(lambda t: tf.reduce_sum(t, [1, 2, 3], keepdims=True) / voxels, [x], mean_axes)
        return trace.pointwise(tf.subtract, [x, mean], name=layer.name)


@pytest.mark.parametrize("mesh", ["2x2", "4x3"])
@pytest.mark.parametrize("layer", [Laplacian, Standardized])
def test_own_layer_equals_its_call(layer, mesh):
    inputs = keras.Input((9, 7, 3))
    # Built outside the functional API, which cannot trace plain TensorFlow.
    own = layer()
    own.compute_output_spec = lambda x: keras.KerasTensor(x.shape, dtype=x.dtype)
    own.build((None, 9, 7, 3))
    model = keras.Model(inputs, own(keras.layers.Dense(3)(inputs)))
    assert_equal_to_keras(model, split(mesh))


def test_only_layers_and_operations_have_lowerings():
    with pytest.raises(TypeError, match="Only Keras layers"):
        ks.register_lowering(int)
