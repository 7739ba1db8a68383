"""Images that are enlarged by whole factors: each shard by TensorFlow's own operation, with a halo of one voxel."""

import keras
import pytest
import tensorflow as tf
from equality import assert_equal_to_keras, split
from keras import layers as L

from keras_spatial.network import Network
from keras_spatial.step import Step


def enlarging(size, factors, dtype="float32"):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((*size, 2), dtype=dtype)
    x = L.Conv2D(3, 3, padding="same", dtype=dtype)(inputs)
    x = L.UpSampling2D(factors, interpolation="bilinear", dtype=dtype)(x)
    return keras.Model(inputs, L.Conv2D(2, 3, padding="same", dtype=dtype)(x))


def names(model, mesh) -> list[str]:
    step = Step(
        Network(model, split(mesh)), tf.zeros((1, *model.input_shape[1:]), model.inputs[0].dtype), training=False
    )
    return [o.name.split("/")[-1].rstrip("_0123456789") for o in step.trace.graph.operations]


@pytest.mark.parametrize("mesh", ["1x1", "2x2", "4x1", "1x3"])
@pytest.mark.parametrize("factors", [(2, 2), (3, 2), (1, 4), (8, 8)])
def test_an_enlarged_image_and_its_gradients_are_those_of_keras(mesh, factors):
    model = enlarging((8, 12), factors)
    assert "resized" in names(model, mesh)
    assert_equal_to_keras(model, split(mesh))


def test_shards_of_one_voxel_take_their_neighbours():
    model = enlarging((4, 4), (2, 2))
    assert "resized" in names(model, "4x2")
    assert_equal_to_keras(model, split("4x2"))


@pytest.mark.parametrize(
    ("size", "dtype"), [((9, 8), "float32"), ((8, 8), "float64")], ids=["shards-beyond-the-image", "double-precision"]
)
def test_what_tensorflow_cannot_enlarge_exactly_is_mapped_axis_by_axis(size, dtype):
    model = enlarging(size, (2, 2), dtype)
    found = names(model, "2x2")
    assert "resized" not in found
    assert "mapped" in found
    assert_equal_to_keras(model, split("2x2"))
