"""Padding before convolutions and pooling without padding becomes part of their windows."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from equality import assert_equal_to_keras, split
from keras import layers as L

from keras_spatial.engine.local import LocalOperation
from keras_spatial.network import Network
from keras_spatial.step import Step

EXACT = {"forward": 1e-9, "gradient": 1e-9}


def operations(model, distribution):
    """The local operations of a forward pass."""
    shapes = [tf.TensorSpec((2, *x.shape[1:]), x.dtype) for x in model.inputs]
    step = Step(Network(model, distribution), shapes[0], training=False)
    return [o for o in step.trace.graph.operations if isinstance(o, LocalOperation)]


def pads(model, distribution) -> bool:
    """Whether a padded image is a tensor of its own."""
    return any(o.name.split("/")[-1].startswith("shifted") for o in operations(model, distribution))


def exactly(*chain, shape=(13, 10, 2)):
    """A model in double precision that applies layers one after another."""
    keras.utils.set_random_seed(3)
    x = inputs = keras.Input(shape, dtype="float64")
    for layer in chain:
        x = layer(x)
    return keras.Model(inputs, x)


def conv(*args, **kwargs):
    return L.Conv2D(*args, dtype="float64", bias_initializer="normal", **kwargs)


def padding(*args, cls=L.ZeroPadding2D, **kwargs):
    return cls(*args, dtype="float64", **kwargs)


def ops_pad(widths, value):
    return lambda x: keras.ops.pad(x, widths, constant_values=value)


WINDOWS = {
    "resnet-stem": lambda: [padding(3), conv(3, 7, strides=2)],
    "mobilenet": lambda: [padding(((0, 1), (0, 1))), L.DepthwiseConv2D(3, strides=2, dtype="float64")],
    "maximum": lambda: [padding(1), L.MaxPooling2D(3, strides=2, dtype="float64")],
    "maximum-beyond": lambda: [padding(((0, 3), (0, 2))), L.MaxPooling2D(2, dtype="float64")],
    "average": lambda: [padding(((2, 1), (0, 1))), L.AveragePooling2D(3, strides=2, dtype="float64")],
    "dilated": lambda: [padding(((2, 2), (4, 4))), conv(2, 3, dilation_rate=(2, 4))],
    "separable": lambda: [padding(2), L.SeparableConv2D(3, 5, dtype="float64")],
    "wider-than-the-window": lambda: [padding(((4, 0), (1, 5))), conv(2, 3, strides=2)],
    "lowest-number": lambda: [
        ops_pad([[0, 0], [1, 1], [1, 0], [0, 0]], -np.inf),
        L.MaxPooling2D(3, 2, dtype="float64"),
    ],
    "ones": lambda: [ops_pad([[0, 0], [1, 2], [3, 0], [0, 0]], 1.0), conv(2, 3, strides=2)],
    "between-layers": lambda: [conv(3, 3), padding(1), conv(2, 3), padding(((1, 2), (0, 1))), conv(2, 3)],
}


@pytest.mark.parametrize("mesh", ["2x2", "3x1", "1x1"])
@pytest.mark.parametrize("name", WINDOWS)
def test_padded_windows_equal_keras_exactly(name, mesh):
    model = exactly(*WINDOWS[name]())
    assert not pads(model, split(mesh))
    assert_equal_to_keras(model, split(mesh), **EXACT)


def test_padded_windows_of_volumes_and_sequences_equal_keras_exactly():
    volume = [
        padding(((1, 2), (1, 1), (0, 3)), cls=L.ZeroPadding3D),
        L.Conv3D(2, 3, strides=(2, 1, 2), dtype="float64"),
    ]
    assert_equal_to_keras(exactly(*volume, shape=(7, 6, 5, 2)), split("2x1x2"), **EXACT)
    sequence = [padding((2, 1), cls=L.ZeroPadding1D), L.Conv1D(2, 4, strides=2, dtype="float64")]
    assert_equal_to_keras(exactly(*sequence, shape=(11, 2)), split("3"), **EXACT)


def test_several_windows_may_read_one_padding():
    inputs = keras.Input((13, 10, 2), dtype="float64")
    padded = padding(1)(inputs)
    model = keras.Model(inputs, [conv(2, 3, strides=2)(padded), L.MaxPooling2D(3, 2, dtype="float64")(padded)])
    assert not pads(model, split("2x2"))
    assert_equal_to_keras(model, split("2x2"), **EXACT)


def test_shards_of_a_resnet_stay_even_and_nothing_is_masked():
    """Of 32 pixels, the padded image has 38, and its shards would be too long for the strides that follow."""
    model = exactly(*WINDOWS["resnet-stem"](), *WINDOWS["maximum"](), shape=(32, 32, 3))
    found = operations(model, split("2x2"))
    assert not any(o.edges for o in found if not o.name.split("/")[-1].startswith("max"))
    assert [d.size for d in found[-1].outputs[0].shape.dims] == [2, 8, 8, 3]


@pytest.mark.parametrize("reader", ["output", "other layer", "same padding", "called twice", "padded channels"])
def test_padding_that_something_else_reads_stays(reader):
    inputs = keras.Input((12, 8, 2), dtype="float64")
    widths = [[0, 0], [1, 1], [1, 1], [0, 1]]
    padded = keras.ops.pad(inputs, widths) if reader == "padded channels" else padding(1)(inputs)
    window = conv(2, 3, padding="same" if reader == "same padding" else "valid")
    outputs = [window(padded)]
    if reader == "output":
        outputs.append(padded)
    elif reader == "other layer":
        outputs.append(L.ReLU(dtype="float64")(padded))
    elif reader == "called twice":
        outputs.append(window(L.ReLU(dtype="float64")(inputs)))
    model = keras.Model(inputs, outputs)
    assert pads(model, split("2x2"))
    assert_equal_to_keras(model, split("2x2"), **EXACT)
