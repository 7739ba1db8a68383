"""Convolutions on sizes that the mesh divides, so that no shard reaches beyond the image."""

import keras
import pytest
from equality import assert_equal_to_keras, split
from keras import layers as L

CONVOLUTIONS = {
    "3": lambda: L.Conv3D(3, 3, padding="same"),
    "5": lambda: L.Conv3D(2, 5, padding="same"),
    "even": lambda: L.Conv3D(3, (2, 4, 3), padding="same"),
    "flat": lambda: L.Conv3D(3, (3, 1, 3), padding="same"),
    "strided": lambda: L.Conv3D(3, 3, strides=2, padding="same"),
    "strided-unevenly": lambda: L.Conv3D(3, (5, 3, 4), strides=(2, 1, 2), padding="same"),
    "dilated": lambda: L.Conv3D(3, 3, dilation_rate=(2, 1, 2), padding="same"),
    "grouped": lambda: L.Conv3D(4, 3, groups=2, padding="same"),
}


@pytest.mark.parametrize("mesh", ["2x1", "1x2", "2x2", "2x2x2"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution_equals_keras(name, mesh):
    keras.utils.set_random_seed(7)
    inputs = keras.Input((12, 8, 8, 2))
    model = keras.Model(inputs, CONVOLUTIONS[name]()(inputs))
    assert_equal_to_keras(model, split(mesh), batch=2)


@pytest.mark.parametrize("layer", [L.DepthwiseConv2D(3, padding="same"), L.SeparableConv2D(3, 5, padding="same")])
def test_other_convolutions_equal_keras(layer):
    inputs = keras.Input((12, 8, 4))
    assert_equal_to_keras(keras.Model(inputs, layer(inputs)), split("3x2"))
