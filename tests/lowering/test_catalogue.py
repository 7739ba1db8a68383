"""Every layer of the catalogue, partitioned, against plain Keras: outputs, input and weight gradients, state."""

import keras
import pytest
from equality import assert_equal_to_keras, split
from keras import layers as L  # noqa: N812

MESHES = ["1x1", "2x1", "1x3", "2x2", "4x2"]

# Image size, then layers by name. Sizes are chosen so that no mesh divides them all.
IMAGE_2D = (17, 12, 3)
IMAGE_3D = (9, 8, 5, 2)

LAYERS_2D = {
    "conv": lambda: L.Conv2D(4, 3, padding="same", activation="relu"),
    "conv-valid": lambda: L.Conv2D(4, 3, padding="valid"),
    "conv-even-kernel": lambda: L.Conv2D(4, (4, 2), padding="same"),
    "conv-wide-kernel": lambda: L.Conv2D(2, (9, 7), padding="same"),
    "conv-strided": lambda: L.Conv2D(4, 3, strides=2, padding="same"),
    "conv-strided-valid": lambda: L.Conv2D(4, 3, strides=2, padding="valid"),
    "conv-stride-3": lambda: L.Conv2D(4, 5, strides=(3, 2), padding="same"),
    "conv-stride-over-kernel": lambda: L.Conv2D(4, 1, strides=2, padding="same"),
    "conv-dilated": lambda: L.Conv2D(4, 3, dilation_rate=2, padding="same"),
    "conv-grouped": lambda: L.Conv2D(6, 3, groups=3, padding="same"),
    "conv-pointwise": lambda: L.Conv2D(5, 1, use_bias=False),
    "depthwise": lambda: L.DepthwiseConv2D(3, padding="same", depth_multiplier=2),
    "depthwise-strided": lambda: L.DepthwiseConv2D(3, strides=2, padding="same"),
    "separable": lambda: L.SeparableConv2D(4, 3, padding="same"),
    "transposed-2-2": lambda: L.Conv2DTranspose(4, 2, strides=2, padding="same"),
    "transposed-3-2": lambda: L.Conv2DTranspose(4, 3, strides=2, padding="same"),
    "transposed-4-2": lambda: L.Conv2DTranspose(4, 4, strides=2, padding="same"),
    "transposed-5-3": lambda: L.Conv2DTranspose(2, 5, strides=3, padding="same"),
    "transposed-1-2": lambda: L.Conv2DTranspose(2, 1, strides=2, padding="same"),
    "transposed-3-1": lambda: L.Conv2DTranspose(4, 3, strides=1, padding="same"),
    "transposed-valid": lambda: L.Conv2DTranspose(4, 3, strides=2, padding="valid"),
    "transposed-output-padding": lambda: L.Conv2DTranspose(4, 3, strides=2, padding="same", output_padding=1),
    "max-pool": lambda: L.MaxPooling2D(2),
    "max-pool-same": lambda: L.MaxPooling2D(2, padding="same"),
    "max-pool-overlapping": lambda: L.MaxPooling2D(3, strides=2, padding="same"),
    "max-pool-overlapping-valid": lambda: L.MaxPooling2D(3, strides=1, padding="valid"),
    "average-pool": lambda: L.AveragePooling2D(2),
    "average-pool-same": lambda: L.AveragePooling2D(2, padding="same"),
    "average-pool-overlapping": lambda: L.AveragePooling2D(3, strides=2, padding="same"),
    "average-pool-overlapping-valid": lambda: L.AveragePooling2D(3, strides=2, padding="valid"),
    "up-sampling": lambda: L.UpSampling2D((2, 3)),
    "global-average": lambda: L.GlobalAveragePooling2D(),
    "global-average-keepdims": lambda: L.GlobalAveragePooling2D(keepdims=True),
    "global-max": lambda: L.GlobalMaxPooling2D(),
    "batch-norm": lambda: L.BatchNormalization(),
    "batch-norm-no-scale": lambda: L.BatchNormalization(scale=False, momentum=0.9),
    "relu": lambda: L.ReLU(max_value=1.0, negative_slope=0.1),
    "leaky-relu": lambda: L.LeakyReLU(0.1),
    "prelu": lambda: L.PReLU(alpha_initializer="uniform"),
    "prelu-shared": lambda: L.PReLU(alpha_initializer="uniform", shared_axes=[1, 2]),
    "softmax": lambda: L.Softmax(),
    "activation": lambda: L.Activation("gelu"),
    "dense": lambda: L.Dense(4, activation="tanh"),
}

LAYERS_3D = {
    "conv": lambda: L.Conv3D(3, 3, padding="same", activation="relu"),
    "conv-strided": lambda: L.Conv3D(3, 3, strides=2, padding="same"),
    "conv-dilated": lambda: L.Conv3D(3, 3, dilation_rate=2, padding="same"),
    "conv-grouped": lambda: L.Conv3D(4, 3, groups=2, padding="same"),
    "transposed-2-2": lambda: L.Conv3DTranspose(3, 2, strides=2, padding="same"),
    "transposed-3-2": lambda: L.Conv3DTranspose(3, 3, strides=2, padding="same"),
    "max-pool": lambda: L.MaxPooling3D(2),
    "max-pool-overlapping": lambda: L.MaxPooling3D(3, strides=2, padding="same"),
    "average-pool": lambda: L.AveragePooling3D(2, padding="same"),
    "up-sampling": lambda: L.UpSampling3D(2),
    "global-average": lambda: L.GlobalAveragePooling3D(),
    "global-max": lambda: L.GlobalMaxPooling3D(),
    "batch-norm": lambda: L.BatchNormalization(),
    "prelu-shared": lambda: L.PReLU(alpha_initializer="uniform", shared_axes=[1, 2, 3]),
}

LAYERS_1D = {
    "conv": lambda: L.Conv1D(4, 3, padding="same"),
    "conv-causal": lambda: L.Conv1D(4, 3, padding="causal", dilation_rate=2),
    "depthwise": lambda: L.DepthwiseConv1D(3, padding="same"),
    "separable": lambda: L.SeparableConv1D(4, 3, padding="same"),
    "transposed": lambda: L.Conv1DTranspose(4, 3, strides=2, padding="same"),
    "max-pool": lambda: L.MaxPooling1D(3, strides=2, padding="same"),
    "average-pool": lambda: L.AveragePooling1D(2),
    "up-sampling": lambda: L.UpSampling1D(2),
    "global-max": lambda: L.GlobalMaxPooling1D(),
}


def model_of(layer, shape) -> keras.Model:
    """One layer between two pointwise ones, so that it meets values and gradients that nothing cancels."""
    keras.utils.set_random_seed(7)
    inputs = keras.Input(shape)
    x = L.Dense(shape[-1], use_bias=False)(inputs)
    outputs = layer(x)
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", LAYERS_2D)
def test_2d_layer_equals_keras(name, mesh):
    model = model_of(LAYERS_2D[name](), IMAGE_2D)
    assert_equal_to_keras(model, split(mesh), training="norm" in name)


@pytest.mark.parametrize("mesh", ["2x1", "2x3", "2x2x2"])
@pytest.mark.parametrize("name", LAYERS_3D)
def test_3d_layer_equals_keras(name, mesh):
    model = model_of(LAYERS_3D[name](), IMAGE_3D)
    assert_equal_to_keras(model, split(mesh), training="norm" in name)


@pytest.mark.parametrize("name", LAYERS_1D)
def test_1d_layer_equals_keras(name):
    assert_equal_to_keras(model_of(LAYERS_1D[name](), (13, 3)), split("4"))


@pytest.mark.parametrize("name", ["conv-strided", "transposed-3-2", "max-pool-overlapping", "batch-norm", "global-max"])
@pytest.mark.parametrize("layout", ["batch:cores", "batch:cores, x:rows", "batch:cores, y:rows"])
def test_layer_with_batch_axis_equals_keras(name, layout):
    model = model_of(LAYERS_2D[name](), IMAGE_2D)
    # Three cases on two cores: one core has a case that does not count.
    assert_equal_to_keras(model, split("cores:2, rows:2", layout), batch=3, training="norm" in name)
