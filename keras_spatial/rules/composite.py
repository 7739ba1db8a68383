"""Layers made of other layers: their `call` is traced with symbolic inputs, and the trace is lowered in their place."""

import hashlib
import inspect
import re
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, tree

from keras_spatial import keras_private
from keras_spatial.engine.reshard import whole
from keras_spatial.engine.tensors import SpatialTensor
from keras_spatial.engine.trace import Trace
from keras_spatial.layout import Axis
from keras_spatial.rules.table import UnsupportedLayer, register_lowering
from keras_spatial.rules.variables_read import reading_variables


@dataclass(frozen=True)
class Composite:
    """The operations of a layer's `call`.

    Attributes:
        graph: the graph from the flattened tensors among its arguments, followed by the variables, to its outputs.
        variables: the variables with which `call` computes before they meet an input.
    """

    graph: keras.Model
    variables: tuple[keras.Variable, ...] = ()


class _Reads(UnsupportedLayer):
    """A `call` computes with variables before they meet an input."""


def composite_graph(layer: keras.Operation, args: Any, kwargs: Any, training: bool) -> Composite:
    """The computation of `layer.call`, as a functional model of the flattened tensors among its arguments.

    Args:
        layer: a layer without a lowering rule of its own.
        args, kwargs: the layer's arguments; tensors may be anything with `shape` and `dtype`, such as `SpatialTensor`s.
        training: whether it runs in training mode.

    Raises:
        UnsupportedLayer: if `call` does not consist of layers and `keras.ops`.
    """
    if not isinstance(layer, keras.Layer):
        raise UnsupportedLayer("it has no lowering")
    given = tree.flatten((args, kwargs))
    tensors = [t for t in given if is_tensor(t)]
    key = (str(tree.map_structure(lambda _: None, (args, kwargs))), tuple(map(_identity, given)), training)
    known = _GRAPHS.setdefault(layer, {})
    if key not in known:
        # Refusals are kept, too: each attempt would run `call`, which reads variables where only the step may read
        # them. Only the text of an error is kept, because its traceback would keep the layer alive.
        try:
            known[key] = _trace(layer, args, kwargs, tensors, training), [t for t in given if not is_tensor(t)]
        except UnsupportedLayer as error:
            known[key] = str(error), given
    found, _ = known[key]
    if isinstance(found, str):
        raise UnsupportedLayer(found)
    return found


# Graphs by layer, then by arguments, which are kept with them: a model is walked several times before it runs.
_GRAPHS: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def forget_graphs() -> None:
    """Forget the graphs of `call`s, because attributes that they read may have changed."""
    _GRAPHS.clear()


def _identity(argument: Any) -> Any:
    """The key of an argument; a tensor's consists of its shape and dtype."""
    if is_tensor(argument):
        return "tensor", tuple(argument.shape), str(argument.dtype)
    if isinstance(argument, (bool, int, float, complex, str, bytes, type(None))):
        return type(argument).__name__, repr(argument)
    if isinstance(argument, np.ndarray):
        return "array", argument.shape, argument.dtype.str, hashlib.sha256(argument.tobytes()).digest()
    return "object", id(argument)


def function_graph(function: Callable[[Any], Any], x: Any) -> Composite:
    """Trace what a function, such as an activation, does with a tensor, as a functional model.

    Args:
        function: a function from one tensor to another.
        x: anything with `shape` and `dtype`.

    Raises:
        UnsupportedLayer: if it does not consist of `keras.ops`.
    """
    symbol = _symbolic(x)
    name = getattr(function, "__name__", type(function).__name__)
    try:
        return _composite(function, [symbol], (symbol,), {}, re.sub(r"\W+", "", name) or "function")
    except UnsupportedLayer as error:
        raise UnsupportedLayer(f"its function {name!r}: {error}") from None
    except Exception as error:
        raise UnsupportedLayer(
            f"its function {name!r} does not consist only of keras.ops ({_reason(error)})"
        ) from error


def _symbolic(x: Any) -> keras.KerasTensor:
    return keras.Input(batch_shape=tuple(x.shape), dtype=keras.backend.standardize_dtype(x.dtype))


def _reason(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200] or type(error).__name__


def _trace(layer: keras.Layer, args: Any, kwargs: Any, tensors: Sequence, training: bool) -> Composite:
    symbols = [_symbolic(t) for t in tensors]
    remaining = iter(symbols)
    args, kwargs = tree.map_structure(lambda t: next(remaining) if is_tensor(t) else t, (args, kwargs))
    if keras_private.takes_training(layer):
        kwargs = {**kwargs, "training": training}
    try:
        found = _composite(layer.call, symbols, args, kwargs, keras_private.name_of(layer), layer)
    except UnsupportedLayer:
        raise
    except Exception as error:
        raise UnsupportedLayer(f"its call does not consist only of layers and keras.ops ({_reason(error)})") from error
    known = {id(v) for v in (*found.graph.variables, *found.variables)}
    for node in keras_private.nodes_of(found.graph):
        known |= {id(v) for v in tree.flatten((node.arguments.args, node.arguments.kwargs))}
    lost = [v.path for v in layer.trainable_variables if id(v) not in known]
    if lost:
        raise UnsupportedLayer(
            f"its call computes with the variables {lost} before they meet an input, so they do not appear in its graph"
        )
    return found


def _composite(
    function: Callable, symbols: list, args: Any, kwargs: Any, name: str, layer: keras.Layer | None = None
) -> Composite:
    try:
        return Composite(_graph(function, symbols, args, kwargs, name, layer))
    except _Reads as refused:
        # Variables that meet no input become inputs of the graph, which the step reads.
        try:
            with (
                tf.init_scope(),
                keras_private.symbolic_calls(),
                reading_variables() as reads,
                keras_private.symbolic_variables() as state,
            ):
                outputs = function(*args, **kwargs)
        except Exception as error:
            raise UnsupportedLayer(str(refused)) from error
        if state.assigned or any(not isinstance(v, keras.Variable) for v in reads.variables) or reads.operations:
            raise UnsupportedLayer(str(refused)) from None
        with tf.init_scope():
            inputs = [*symbols, *(symbol for _, symbol in state.read)]
            graph = keras.Model(inputs, outputs, name=name)
        return Composite(graph, tuple(variable for variable, _ in state.read))


def trace_call(layer: keras.Layer, inputs: Any, training: bool | None = None) -> keras.Model:
    """The computation of a layer's or model's `call`, as a functional model that shares its layers and variables.

    Args:
        layer: a model, or a layer made of other layers and `keras.ops`.
        inputs: anything with `shape` and `dtype`, in the structure of the layer's first argument.
        training: the mode that is passed to a `call` that takes `training`.

    Raises:
        ValueError: if `inputs` is None.
    """
    if inputs is None:
        raise ValueError(
            f"Model '{layer.name}' of class {type(layer).__name__} must know its input shape to be partitioned: "
            "ks.partition(model, distribution, input_shape=...)."
        )
    symbols = tree.map_structure(_symbolic, inputs)
    arguments = {"training": training} if "training" in inspect.signature(layer.call).parameters else {}
    return _graph_of(layer, symbols, (symbols,), arguments)


_ADDS_A_LOSS = (
    "its call adds to the loss with `add_loss`, which does not appear in a graph of layers; with "
    'unsupported="replicate" such a layer runs unchanged on whole tensors'
)


def _graph_of(layer: keras.Layer, symbols: Any, args: Any, kwargs: Any) -> keras.Model:
    return _graph(layer.call, symbols, args, kwargs, keras_private.name_of(layer), layer)


def _graph(
    function: Callable, symbols: Any, args: Any, kwargs: Any, name: str, layer: keras.Layer | None = None
) -> keras.Model:
    # Outside the step's graph sizes are numbers, also for `call`s that compute with them; inside it they would be
    # tensors.
    with tf.init_scope():
        with (
            keras_private.symbolic_calls(),
            keras.StatelessScope(collect_losses=True) as scope,
            reading_variables() as reads,
        ):
            try:
                outputs = function(*args, **kwargs)
            except ValueError as error:
                if "add_loss()" not in str(error):
                    raise
                raise UnsupportedLayer(_ADDS_A_LOSS) from error
        if scope.losses:
            raise UnsupportedLayer(_ADDS_A_LOSS)
        changed = [] if layer is None else keras_private.changed_in(scope, layer)
        if changed:
            raise UnsupportedLayer(
                f"its call assigns the variables {changed} itself, which does not appear in its graph"
            )
        if reads:
            raise _Reads(
                f"its call computes with {reads} before it meets an input, so the value would be fixed once and for all"
            )
        return keras.Model(symbols, outputs, name=name)


def is_tensor(value: Any) -> bool:
    return isinstance(value, (SpatialTensor, keras.KerasTensor))


@register_lowering(layers.TimeDistributed)
def time_distributed(layer, trace: Trace, x: SpatialTensor, mask=None) -> SpatialTensor:
    """Fold cases and time steps into the batch of the layer inside."""
    if mask is not None:
        raise ValueError(f"Layer '{layer.name}': TimeDistributed with a mask cannot be partitioned.")
    x = whole(trace, x, [1])
    batch, time = x.axes[:2]
    folded = Axis(batch.name, batch.size * time.size, batch.shards, batch.length * time.size)
    x = _local_reshape(trace, x, (folded, *x.axes[2:]))
    y = trace.inner(layer.layer, x)
    return _local_reshape(trace, y, (batch, time, *y.axes[1:]))


def _local_reshape(trace: Trace, x: SpatialTensor, axes: tuple[Axis, ...]) -> SpatialTensor:
    lengths = [axis.length for axis in axes]
    return trace.reduced(lambda t: tf.reshape(t, lengths), [x], axes, name="folded")


@register_lowering(layers.SpectralNormalization)
def spectral_normalization(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    """Only the kernel is normalized, and weights are replicated, so nothing here is sharded."""
    if trace.training and not trace.planning:
        # As in Keras, the kernel is replaced, and the gradient is that of the new kernel.
        old_kernel, old_vector = trace.value_of(layer.kernel), trace.value_of(layer.vector_u)
        with keras.StatelessScope(state_mapping=[(layer.kernel, old_kernel), (layer.vector_u, old_vector)]):
            vector, kernel = layer.normalized_weights()
        zero = tf.reduce_all(tf.equal(old_kernel, 0))
        vector = tf.where(zero, old_vector, vector)
        kernel = tf.where(zero, old_kernel, kernel)
        trace.assignments += [(layer.vector_u, vector), (layer.kernel, kernel)]
        trace.replace_weight(layer.kernel, kernel)
    y = trace.inner(layer.layer, x)
    return trace.cast(y, x.dtype)
