"""Reads of variables and state are noticed while code is traced with symbolic tensors."""

import keras
import pytest
import tensorflow as tf
from keras import ops

from keras_spatial.rules.variables_read import reading_variables

VARIABLE = keras.Variable(2.0, name="annealed")
PLAIN = tf.Variable(tf.constant(2.0), name="plain", trainable=False)
SEEDS = keras.random.SeedGenerator(0)

READS = {
    "difference-with-a-number": (lambda x: x * (1.0 - VARIABLE), "annealed"),
    "value": (lambda x: x * VARIABLE.value, "annealed"),
    "tensorflow": (lambda x: x * tf.exp(VARIABLE), "annealed"),
    "numpy": (lambda x: x * VARIABLE.numpy(), "annealed"),
    "function": (lambda x: x * ops.exp(VARIABLE), "annealed"),
    "number": (lambda x: x * float(VARIABLE), "annealed"),
    "condition": (lambda x: x if VARIABLE > 1 else -x, "annealed"),
    "plain-variable": (lambda x: x * tf.exp(PLAIN), "plain"),
    "plain-variable-as-operand": (lambda x: x * (1.0 - PLAIN), "plain"),
    "tensorflow-noise": (lambda x: x + tf.random.normal((4, 1)), "RandomStandardNormal"),
    "keras-noise": (lambda x: x + keras.random.normal((4, 1)), "seed_generator_state"),
    "seeded-noise": (lambda x: x + keras.random.normal((4, 1), seed=SEEDS), "seed_generator_state"),
}


@pytest.mark.parametrize("name", READS)
def test_a_read_is_noticed(name):
    call, what = READS[name]
    with reading_variables() as reads:
        call(keras.Input((4, 1)))
    assert reads
    assert what in str(reads)


class Own(keras.layers.Layer):
    """A layer whose `call` Keras runs in a graph to find the shape."""

    def build(self, shape):
        self.gain = self.add_weight(shape=())

    def call(self, x):
        return x * tf.exp(self.gain) + tf.random.normal((4, 1))


NONE = {
    "operand": lambda x: ops.multiply(x, VARIABLE),
    "tensor": lambda x: x * ops.convert_to_tensor(VARIABLE),
    "second-operand": lambda x: x - VARIABLE,
    "layer": keras.layers.Dense(2),
    "own-layer": Own(),
    "dropout": lambda x: keras.layers.Dropout(0.5)(x, training=True),
    "constants": lambda x: x * tf.exp(tf.range(4.0))[:, None] + keras.random.normal((4, 1), seed=3),
}


@pytest.mark.parametrize("name", NONE)
def test_operands_shapes_and_new_layers_are_no_reads(name):
    with reading_variables() as reads:
        NONE[name](keras.Input((4, 1)))
    assert not reads, str(reads)


def test_afterwards_everything_is_as_before():
    before = keras.Variable.value
    with pytest.raises(RuntimeError), reading_variables():
        raise RuntimeError
    with reading_variables() as reads:
        pass
    VARIABLE.numpy()
    tf.random.normal((1,))
    assert keras.Variable.value is before
    assert not reads
