"""Functions of the package are the same if the same code made them from the same values."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_spatial.engine.edges import Edge
from keras_spatial.engine.graph import as_tuple
from keras_spatial.engine.identity import identity_of


def of_the_package(source):
    """A function that is made as if by a module of the package."""
    namespace = {"__name__": "keras_spatial.rules.example"}
    exec(source, namespace)
    return namespace["make"]


MAKE = of_the_package("def make(value, default):\n    return lambda x, d=default: (x, value)")

SAME = {
    "number": lambda: 2.0,
    "tuple": lambda: (1, "same", None, tf.float32),
    "mapping": lambda: {1: (2, 3)},
    "array": lambda: np.arange(3.0),
    "edge": lambda: Edge(0, 1, 0, 8, 15, fill=0.0),
    "function": lambda: MAKE(3, 4),
    "partial": lambda: functools.partial(MAKE(3, 4), d=1),
    "function-of-keras": lambda: keras.activations.relu,
    "layer": lambda: keras.layers.ReLU(6.0),
    "method-of-a-layer": lambda: keras.layers.ReLU(6.0).call,
}
OTHERS = {
    "of-another-type": (1, 1.0),
    "boolean": (1, True),
    "sign-of-zero": (0.0, -0.0),
    "list": ((1, 2), [1, 2]),
    "array": (np.zeros(2), np.zeros((1, 2))),
    "layer": (keras.layers.ReLU(6.0), keras.layers.ReLU(5.0)),
    "edge": (Edge(0, 1, 0, 8, 15), Edge(0, 1, 0, 8, 16)),
    "function": (as_tuple, identity_of),
}


@pytest.mark.parametrize("kind", SAME)
def test_functions_that_close_over_the_same_are_the_same(kind):
    first, second = MAKE(SAME[kind](), 0), MAKE(SAME[kind](), 0)
    assert identity_of(first) is not None
    assert identity_of(first) == identity_of(second)
    assert hash(identity_of(first)) == hash(identity_of(second))


@pytest.mark.parametrize("kind", OTHERS)
def test_functions_that_close_over_something_else_differ(kind):
    first, second = OTHERS[kind]
    assert identity_of(MAKE(first, 0)) != identity_of(MAKE(second, 0))
    assert identity_of(MAKE(0, first)) != identity_of(MAKE(0, second))


class Own(keras.layers.ReLU):
    pass


def scaled(by):
    """Functions with the same name, which is all that a layer's settings say about them."""

    def activation(x):
        return by * x

    return activation


UNKNOWN = {
    "layer with a function of a user": keras.layers.Activation(scaled(2.0)),
    "layer around a layer of a user": keras.layers.TimeDistributed(Own()),
    "tensor": tf.constant(1.0),
    "variable": tf.Variable(1.0),
    "object": object(),
    "layer of a user": Own(),
    "function of a user": lambda x: x,
    "method": {1, 2}.union,
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_nothing_is_known_of_what_may_change(kind):
    assert identity_of(MAKE(UNKNOWN[kind], 0)) is None


def test_a_function_that_contains_itself_is_unknown():
    make = of_the_package("def make():\n    def again(n):\n        return again(n)\n    return again")
    assert identity_of(make()) is None
