"""What all CPU devices of a process would compute from the same small tensors is computed once."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from equality import assert_equal_to_keras, split
from keras import layers as L

from keras_spatial.mesh_tensorflow import mtf
from keras_spatial.runtimes.placement import Placement

CPUS, GPUS = ([f"/{kind}:{i}" for i in range(4)] for kind in ("CPU", "GPU"))


def applications(devices, *arguments) -> int:
    """How often a function is applied on a 2x2 mesh that has these arguments on its devices."""
    seen = []

    def scaled(x, factor):
        seen.append(x)
        return (x * factor, factor)

    shape = mtf.Shape([mtf.Dimension("rows", 2), mtf.Dimension("columns", 2)])
    mesh = Placement(shape, mtf.LayoutRules([]), devices)
    _, factors = mesh.slicewise(scaled, *[mesh.LaidOutTensor(list(column)) for column in zip(*arguments, strict=True)])
    assert factors.tensor_list == [factor for _, factor in arguments]
    return len(seen)


@pytest.mark.parametrize("devices", [CPUS, GPUS], ids=["cpu", "gpu"])
def test_devices_with_the_same_small_arguments_share_one_application(devices):
    each = devices is GPUS  # A copy to another GPU costs more than the computation.
    with tf.Graph().as_default():
        one, other = tf.ones(3), tf.ones(3)
        assert applications(devices, *[(one, 2.0)] * 4) == (4 if each else 1)
        assert applications(devices, *[(one, 2.0), (other, 2.0)] * 2) == (4 if each else 2)
        assert applications(devices, *[(one, 2.0), (one, 3.0)] * 2) == (4 if each else 2)
        assert applications(devices, *[(one, n) for n in (2.0, 3.0, 4.0, 5.0)]) == 4


def test_functions_of_nothing_and_of_what_cannot_be_compared_run_on_each_device():
    shape = mtf.Shape([mtf.Dimension("rows", 2), mtf.Dimension("columns", 2)])
    mesh = Placement(shape, mtf.LayoutRules([]), CPUS)
    with tf.Graph().as_default():
        assert len(mesh.slicewise(lambda: tf.constant(1.0)).tensor_list) == 4
        assert len(mesh.slicewise(tf.identity, np.ones(3)).tensor_list) == 4


def test_large_tensors_are_left_to_each_device():
    with tf.Graph().as_default():
        assert applications(CPUS, *[(tf.ones([1 << 13]), 2.0)] * 4) == 4


@pytest.mark.parametrize("mesh", ["2x2", "4x1"])
def test_a_classifier_is_that_of_keras(mesh):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 2))
    x = L.GlobalAveragePooling2D()(L.Conv2D(4, 3, padding="same")(inputs))
    model = keras.Model(inputs, L.Dense(3, activation="softmax")(L.Dense(5, activation="gelu")(x)))
    assert_equal_to_keras(model, split(mesh), training=True)
