"""Any configuration, size and mesh equals Keras. Hypothesis draws them, and the draws are the same every time."""

import keras
import numpy as np
import tensorflow as tf
from equality import assert_close, assert_equal_to_keras, partitioned_results, random_inputs, split
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from keras import layers as L

DRAWN = settings(
    max_examples=12, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
sizes = st.integers(1, 14)
meshes = st.sampled_from(["2x1", "1x3", "2x3", "4x2"])
paddings = st.sampled_from(["same", "valid"])


def model_of(shape: tuple[int, ...], *layers: keras.Layer) -> keras.Model:
    keras.utils.set_random_seed(1)
    x = inputs = keras.Input(shape)
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x)


def check(shape: tuple[int, ...], mesh: str, *layers: keras.Layer, training: bool = False) -> None:
    assert_equal_to_keras(model_of(shape, *layers), split(mesh), batch=1, training=training)


@DRAWN
@given(sizes, sizes, st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), paddings, meshes)
def test_convolution(x, y, kernel, stride, dilation, padding, mesh):
    dilation = dilation if stride == 1 else 1
    assume(padding == "same" or min(x, y) > (kernel - 1) * dilation)
    check((x, y, 2), mesh, L.Conv2D(2, kernel, strides=stride, dilation_rate=dilation, padding=padding))


@DRAWN
@given(sizes, sizes, sizes, st.integers(1, 3), st.integers(1, 2), st.sampled_from(["2x2x2", "1x2x3", "3x1x2"]))
def test_convolution_of_volumes_over_three_mesh_axes(x, y, z, kernel, stride, mesh):
    check((x, y, z, 1), mesh, L.Conv3D(2, kernel, strides=stride, padding="same"))


@DRAWN
@given(sizes, sizes, st.integers(1, 5), st.integers(1, 3), paddings, meshes)
def test_transposed_convolution(x, y, kernel, stride, padding, mesh):
    assume(kernel >= stride)  # The other sizes are tested below, because TensorFlow itself is at fault there.
    check((x, y, 2), mesh, L.Conv2DTranspose(2, kernel, strides=stride, padding=padding))


@DRAWN
@given(sizes, sizes, st.integers(1, 2), paddings, meshes)
def test_transposed_convolution_with_a_kernel_smaller_than_its_stride(x, y, kernel, padding, mesh):
    """Plain Keras would corrupt memory here, but the result is known: each voxel is spread alone, followed by zeros."""
    model = model_of((x, y, 2), L.Conv2DTranspose(2, kernel, strides=3, padding=padding, bias_initializer="normal"))
    (image,) = random_inputs(model, 1)
    weights, bias = (v.numpy() for v in model.weights)
    expected = np.zeros((1, 3 * x, 3 * y, 2), "float32")
    for i, j in np.ndindex(kernel, kernel):
        expected[:, i::3, j::3] = np.einsum("bxyi,oi->bxyo", image.numpy(), weights[i, j])
    found = partitioned_results(model, split(mesh), [image], training=False)
    assert_close(found.outputs[0], (expected + bias).astype("float32"), 1e-5, "output")
    gradient = tf.reduce_sum(found.weight_gradients[0]).numpy()
    assert np.isfinite(gradient)


@DRAWN
@given(sizes, sizes, st.integers(1, 3), st.integers(1, 3), paddings, st.booleans(), meshes)
def test_pooling(x, y, size, stride, padding, largest, mesh):
    assume(padding == "same" or min(x, y) >= size)
    pooling = L.MaxPooling2D if largest else L.AveragePooling2D
    check((x, y, 2), mesh, pooling(size, strides=stride, padding=padding))


@DRAWN
@given(sizes, sizes, sizes, sizes, st.sampled_from(["bilinear", "nearest"]), meshes)
def test_resizing(x, y, height, width, interpolation, mesh):
    check((x, y, 2), mesh, L.Conv2D(2, 3, padding="same"), L.Resizing(height, width, interpolation=interpolation))


@DRAWN
@given(sizes, sizes, st.tuples(*[st.integers(0, 6)] * 4), meshes)
def test_padding_then_cropping(x, y, padding, mesh):
    top, bottom, left, right = padding
    layers = [L.ZeroPadding2D(((top, bottom), (left, right))), L.Conv2D(2, 3, padding="same")]
    check((x, y, 2), mesh, *layers, L.Cropping2D(((bottom, top), (right, left))))


@DRAWN
@given(st.integers(2, 14), st.integers(2, 14), st.sampled_from(["batch", "group", "layer", "instance"]), meshes)
def test_normalization_with_an_activation(x, y, kind, mesh):
    make = {
        "batch": L.BatchNormalization,
        "group": lambda: L.GroupNormalization(2),
        "layer": L.LayerNormalization,
        "instance": lambda: L.GroupNormalization(-1),
    }[kind]
    # Without a bias, whose gradient would be zero except for rounding.
    convolution = L.Conv2D(4, 3, padding="same", use_bias=False)
    check((x, y, 4), mesh, convolution, make(), L.LeakyReLU(), training=True)


@DRAWN
@given(
    st.integers(4, 17),
    st.integers(4, 17),
    st.lists(st.sampled_from(["stride", "pool", "conv", "up"]), min_size=2, max_size=4),
    meshes,
)
def test_stacks_of_strides(x, y, kinds, mesh):
    """Odd sizes pass through several strides, and the deepest levels are smaller than the mesh."""
    make = {
        "stride": lambda: L.Conv2D(2, 3, strides=2, padding="same"),
        "pool": lambda: L.MaxPooling2D(2, padding="same"),
        "conv": lambda: L.Conv2D(2, 3, padding="same", activation="relu"),
        "up": lambda: L.Conv2DTranspose(2, 2, strides=2, padding="same"),
    }
    check((x, y, 2), mesh, *(make[kind]() for kind in kinds))
