"""Layers made of other layers: what their `call` does with symbolic inputs is lowered in their place."""

import inspect
import weakref
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import layers, tree

from keras_spatial import keras_private
from keras_spatial.engine.reshard import whole
from keras_spatial.engine.tensors import SpatialTensor
from keras_spatial.engine.trace import Trace
from keras_spatial.layout import Axis
from keras_spatial.rules.table import UnsupportedLayer, register_lowering


def composite_graph(layer: keras.Operation, args: Any, kwargs: Any, training: bool) -> keras.Model:
    """What `layer.call` does, as a functional model of the flattened tensors among its arguments.

    Args:
        layer: a layer without a lowering of its own.
        args, kwargs: its arguments; tensors may be anything with `shape` and `dtype`, among them `SpatialTensor`s.
        training: whether it runs in training mode.

    Raises:
        UnsupportedLayer: if `call` is not made of layers and `keras.ops`, or turns a variable into a tensor by itself,
            which would cut its gradient off.
    """
    if not isinstance(layer, keras.Layer):
        raise UnsupportedLayer("it has no lowering")
    tensors = [t for t in tree.flatten((args, kwargs)) if is_tensor(t)]
    key = (tuple((tuple(t.shape), t.dtype) for t in tensors), repr(_without_tensors(args, kwargs)), training)
    known = _GRAPHS.setdefault(layer, {})
    if key not in known:
        # A refusal is kept too: `call` would read its variables at each attempt, where only the step may read them.
        try:
            known[key] = _trace(layer, args, kwargs, tensors, training)
        except UnsupportedLayer as error:
            known[key] = error
    if isinstance(known[key], UnsupportedLayer):
        raise known[key]
    return known[key]


# Graphs of layers by layer, then by the shapes of their inputs: a model is walked several times before it runs.
_GRAPHS: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def _without_tensors(args: Any, kwargs: Any) -> Any:
    return tree.map_structure(lambda t: "tensor" if is_tensor(t) else t, (args, kwargs))


def _trace(layer: keras.Layer, args: Any, kwargs: Any, tensors: Sequence, training: bool) -> keras.Model:
    symbols = [keras.Input(batch_shape=tuple(t.shape), dtype=keras.backend.standardize_dtype(t.dtype)) for t in tensors]
    remaining = iter(symbols)
    args, kwargs = tree.map_structure(lambda t: next(remaining) if is_tensor(t) else t, (args, kwargs))
    if keras_private.takes_training(layer):
        kwargs = {**kwargs, "training": training}
    try:
        graph = _graph_of(layer, symbols, args, kwargs)
    except UnsupportedLayer:
        raise
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise UnsupportedLayer(f"its call is not made of layers and keras.ops alone ({reason})") from error
    known = {id(v) for v in graph.variables}
    for node in keras_private.nodes_of(graph):
        known |= {id(v) for v in tree.flatten((node.arguments.args, node.arguments.kwargs))}
    lost = [v.path for v in layer.trainable_variables if id(v) not in known]
    if lost:
        raise UnsupportedLayer(
            f"its call computes with the variables {lost} before they meet an input, which hides them from the walk"
        )
    return graph


def trace_call(layer: keras.Layer, inputs: Any, training: bool | None = None) -> keras.Model:
    """What a layer's or model's `call` does, as a functional model that shares its layers and variables.

    Args:
        layer: a model, or a layer made of other layers and `keras.ops`.
        inputs: anything with `shape` and `dtype`, in the structure of the layer's first argument.
        training: passed on if `call` takes it.

    Raises:
        ValueError: if `inputs` is None.
    """
    if inputs is None:
        raise ValueError(
            f"Model '{layer.name}' of class {type(layer).__name__} must know its input shape to be partitioned: "
            "ks.partition(model, distribution, input_shape=...)."
        )

    def symbolic(x: Any):
        return keras.Input(batch_shape=tuple(x.shape), dtype=keras.backend.standardize_dtype(x.dtype))

    symbols = tree.map_structure(symbolic, inputs)
    arguments = {"training": training} if "training" in inspect.signature(layer.call).parameters else {}
    return _graph_of(layer, symbols, (symbols,), arguments)


_ADDS_A_LOSS = (
    "its call adds to the loss with `add_loss`, which no graph of layers shows; a layer that does so runs as it is, "
    'on whole tensors, with unsupported="replicate"'
)


def _graph_of(layer: keras.Layer, symbols: Any, args: Any, kwargs: Any) -> keras.Model:
    # Sizes are numbers here, also to `call`s that compute with them: traced with the step they would be tensors.
    with tf.init_scope():
        with keras_private.symbolic_calls(), keras.StatelessScope(collect_losses=True) as scope:
            try:
                outputs = layer.call(*args, **kwargs)
            except ValueError as error:
                if "add_loss()" not in str(error):
                    raise
                raise UnsupportedLayer(_ADDS_A_LOSS) from error
        if scope.losses:
            raise UnsupportedLayer(_ADDS_A_LOSS)
        changed = keras_private.changed_in(scope, layer)
        if changed:
            raise UnsupportedLayer(f"its call changes the variables {changed} itself, which no graph of layers shows")
        return keras.Model(symbols, outputs, name=keras_private.name_of(layer))


def is_tensor(value: Any) -> bool:
    return isinstance(value, (SpatialTensor, keras.KerasTensor))


@register_lowering(layers.TimeDistributed)
def time_distributed(layer, trace: Trace, x: SpatialTensor, mask=None) -> SpatialTensor:
    """Cases and time steps together are the batch of the layer inside."""
    if mask is not None:
        raise ValueError(f"Layer '{layer.name}': TimeDistributed with a mask is not partitioned.")
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
    """The kernel alone is normalized, and weights are whole on every device: nothing here is spread over the mesh."""
    if trace.training and not trace.planning:
        # As Keras does it: the kernel is replaced, and its gradient is that of the new one.
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
