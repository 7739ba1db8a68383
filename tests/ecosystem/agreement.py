"""Compare a network on a mesh with plain Keras, in float64, using only the public interface.

It does what a user would do: `ks.partition`, and then a call of the model under a `tf.GradientTape`.
"""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
from equality import assert_close, split
from keras import tree

import keras_spatial as ks
from ecosystem.cases import Network

# Tolerances relative to the largest entry of an array: in float64, and if TensorFlow itself rounds to float32.
EXACT, ROUNDED = 1e-9, 1e-5


@contextlib.contextmanager
def double_precision(by_policy: bool = False) -> Iterator[None]:
    """Let Keras make and compute everything in float64 inside a `with` block.

    Heads that ask for float32, as those of segmenters do, would round float64 results, so they get float64 too.
    TensorFlow has no 3D maximum pooling in float64, so it is replaced by pooling along two axes and then the third.
    """
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    if not by_policy:
        keras.config.set_floatx("float64")
    make, max_pool = keras.layers.Layer.__init__, tf.nn.max_pool

    def make_double(self: keras.layers.Layer, *args: Any, dtype: Any = None, **kwargs: Any) -> None:
        make(self, *args, dtype="float64" if dtype == "float32" else dtype, **kwargs)

    def max_pool_double(x: tf.Tensor, size: Any, strides: Any, padding: str, data_format: Any = None) -> tf.Tensor:
        if x.dtype != tf.float64 or x.shape.rank != 5:
            return max_pool(x, size, strides, padding, data_format)
        size, strides = (value if isinstance(value, (tuple, list)) else [value] * 3 for value in (size, strides))
        b, n, *rest = x.shape
        y = max_pool(tf.reshape(x, [b * n, *rest]), size[1:], strides[1:], padding)
        _, h, w, c = y.shape
        z = max_pool(tf.reshape(y, [b, n, h * w, c]), [size[0], 1], [strides[0], 1], padding)
        return tf.reshape(z, [b, z.shape[1], h, w, c])

    with (
        mock.patch.object(keras.layers.Layer, "__init__", make_double),
        mock.patch.object(tf.nn, "max_pool", max_pool_double),
    ):
        try:
            yield
        finally:
            keras.config.set_floatx(floatx)
            keras.config.set_dtype_policy(policy)


def build(network: Network) -> keras.Model:
    """The network with random weights that are not zero."""
    keras.utils.set_random_seed(3)
    model = network.make()
    generator = np.random.default_rng(4)
    for variable in model.trainable_variables:
        value = variable.numpy()
        if not value.any():  # With a bias or scale of zero, many errors would not show.
            variable.assign(generator.normal(size=value.shape, scale=0.1))
    return model


def random_inputs(model: keras.Model, shapes: Any) -> Any:
    """Random inputs of the model, such as one image; `shapes` overrides the shapes of the model."""
    generator = np.random.default_rng(5)
    references = model.input
    if shapes is None:
        shapes = tree.map_structure(lambda x: tuple(x.shape[1:]), references)

    def make(reference: keras.KerasTensor, shape: tuple[int, ...]) -> tf.Tensor:
        return tf.constant(generator.normal(size=(1, *shape)), reference.dtype)

    if isinstance(references, dict):
        return {name: make(references[name], shapes[name]) for name in references}
    return make(references, shapes)


def compute(model: keras.Model, inputs: Any, training: bool) -> tuple[list, list, list, list]:
    """A model's outputs, its gradients with respect to inputs and weights, and the state that it leaves behind. The
    state is restored.
    """
    state = [variable.numpy() for variable in model.non_trainable_variables]
    flat = tree.flatten(inputs)
    with tf.GradientTape() as tape:
        tape.watch(flat)
        outputs = tree.flatten(model(inputs, training=training))
        seeded = [tf.reduce_sum(o * seed) for o, seed in zip(outputs, _seeds(outputs), strict=True)]
        loss = tf.add_n([tf.cast(term, "float64") for term in seeded])
    gradients = tape.gradient(loss, [*flat, *[v.value for v in model.trainable_variables]])
    found = (
        [output.numpy() for output in outputs],
        [_array(g) for g in gradients[: len(flat)]],
        [_array(g) for g in gradients[len(flat) :]],
        [variable.numpy() for variable in model.non_trainable_variables],
    )
    for variable, value in zip(model.non_trainable_variables, state, strict=True):
        variable.assign(value)
    return found


def assert_equal_to_keras(network: Network) -> None:
    """Assert that outputs, gradients of inputs and weights, and state are those of plain Keras."""
    with double_precision(network.by_policy):
        model = build(network)
        inputs = random_inputs(model, network.shapes)
        expected = compute(model, inputs, network.training)
        arguments = {"unsupported": "replicate"} if network.replicated else {}
        with warnings.catch_warnings():
            if network.replicated:
                warnings.simplefilter("ignore")
            partitioned = ks.partition(model, split(network.mesh), **arguments)
        actual = compute(partitioned, inputs, network.training)
    names = [v.path for v in model.trainable_variables]
    assert [v.path for v in partitioned.trainable_variables] == names
    state = [v.path for v in model.non_trainable_variables]
    # A gradient that is zero except for rounding (a bias before batch normalization) is compared with the others.
    allowed = ROUNDED if network.rounded else EXACT
    scale = max((np.abs(g).max() for g in expected[2] if g is not None and g.size), default=0.0)
    _compare(actual[0], expected[0], [f"output {i}" for i in range(len(expected[0]))], allowed)
    _compare(actual[1], expected[1], [f"gradient of input {i}" for i in range(len(expected[1]))], allowed)
    _compare(actual[2], expected[2], [f"gradient of {name}" for name in names], allowed, 1e-3 * scale)
    _compare(actual[3], expected[3], [f"state {name}" for name in state], allowed)


def _compare(actual: Sequence, expected: Sequence, names: Sequence[str], tolerance: float, floor: float = 0.0) -> None:
    for a, e, name in zip(actual, expected, names, strict=True):
        assert_close(a, e, tolerance, name, floor)


def _seeds(outputs: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The weights of the outputs in the differentiated sum; all voxels differ, so that errors cannot cancel."""
    generator = np.random.default_rng(6)
    return [tf.constant(generator.normal(size=o.shape), o.dtype) for o in outputs]


def _array(value: Any) -> np.ndarray | None:
    return None if value is None else tf.convert_to_tensor(value).numpy()
