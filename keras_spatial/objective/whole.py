"""Losses and metrics that every device computes on whole tensors, and the variables that they read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from keras_spatial.engine.tensors import SpatialTensor
from keras_spatial.engine.trace import Trace
from keras_spatial.rules.replication import replicated
from keras_spatial.rules.variables_read import reading_variables


class DrawsRandomNumbers(Exception):
    """A function draws random numbers, so every device would get another result."""


class Whole(keras.Layer):
    """A function as a layer, so that its variables are read again in every step."""

    def __init__(self, function: Callable[..., Any], variables: Sequence[keras.Variable], name: str):
        super().__init__(name=name, autocast=False)
        self.function = function
        self.read = list(variables)

    def call(self, *tensors: tf.Tensor) -> Any:
        return self.function(*tensors)


@dataclass(frozen=True)
class Observed:
    """A function of tensors, and the variables that it reads.

    Attributes:
        function: the function.
        variables: the Keras variables that it reads.
        shapes: the shapes of its results.
    """

    function: Callable[..., Any]
    variables: tuple[keras.Variable, ...]
    shapes: Any

    def __call__(self, *arguments: Any) -> Any:
        """Call the function with tensors; in `arguments` they are followed by the values of its variables."""
        count = len(arguments) - len(self.variables)
        with keras.StatelessScope(zip(self.variables, arguments[count:], strict=True)):
            return self.function(*arguments[:count])


def observed(function: Callable[..., Any], *tensors: Any) -> Observed:
    """Trace a function as Keras would, and record which variables it reads.

    Args:
        function: a function of tensors.
        *tensors: anything with `shape` and `dtype`.

    Raises:
        DrawsRandomNumbers: if it draws random numbers from TensorFlow's own state.
        Exception: the error of Keras, if the function fails in plain Keras too, for example because of the labels'
            shape.
    """
    specs = [tf.TensorSpec(x.shape, x.dtype) for x in tensors]
    with tf.init_scope(), reading_variables() as reads:
        compiled = tf.function(lambda *given: function(*given), autograph=False).get_concrete_function(*specs)
    drawn = [op.type for op in compiled.graph.get_operations() if op.op_def.is_stateful and "Random" in op.type]
    if drawn:
        raise DrawsRandomNumbers(f"it draws random numbers ({drawn[0]}), which every device would draw by itself")
    variables = tuple(v for v in reads.variables if isinstance(v, keras.Variable))
    return Observed(function, variables, compiled.output_shapes)


def on_whole(
    trace: Trace,
    function: Callable[..., Any],
    tensors: Sequence[SpatialTensor],
    variables: Sequence[keras.Variable],
    *,
    name: str,
    reason: str,
) -> Any:
    """Run a function of whole tensors on every device; see `rules.replication`."""
    return replicated(Whole(function, variables, name), trace, tuple(tensors), {}, reason=reason)
