"""A convolution, its bias and its activation are one kernel on every shard, as TensorFlow makes them in plain Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from equality import split
from keras import layers as L
from tensorflow.tsl.profiler.protobuf import xplane_pb2

import keras_spatial as ks


def kernels_of(model, images, folder) -> set[str]:
    """The types of the operations that a prediction runs."""
    model.predict_on_batch(images)
    tf.profiler.experimental.start(str(folder))
    model.predict_on_batch(images)
    tf.profiler.experimental.stop()
    space = xplane_pb2.XSpace()
    space.ParseFromString(next(folder.rglob("*.xplane.pb")).read_bytes())
    return {metadata.name.rpartition(":")[2] for plane in space.planes for metadata in plane.event_metadata.values()}


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("layer", [L.Conv2D, L.Conv3D])
def test_a_bias_and_a_relu_are_part_of_their_convolution(layer, activation, tmp_path):
    rank = 2 if layer is L.Conv2D else 3
    inputs = keras.Input((8,) * rank + (2,))
    plain = keras.Model(inputs, layer(3, 3, padding="same", activation=activation)(inputs))
    images = np.random.default_rng(0).normal(size=(1, *inputs.shape[1:])).astype("float32")
    expected = kernels_of(plain, images, tmp_path / "keras")
    found = kernels_of(ks.partition(plain, split("2x2")), images, tmp_path / "partitioned")
    fused = {kind for kind in expected if "Conv" in kind}
    assert fused
    assert {kind for kind in found if "Conv" in kind} == fused
    assert not found & {"BiasAdd", "Relu", "AddV2"}
