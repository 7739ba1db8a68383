"""Layers made of other layers: what their `call` does with symbolic inputs is lowered in their place."""

import weakref
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import layers, tree

from keras_spatial.lowering.relayout import whole
from keras_spatial.lowering.table import UnsupportedLayer, register_lowering
from keras_spatial.lowering.tensors import Axis, SpatialTensor
from keras_spatial.lowering.trace import Trace


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
        known[key] = _trace(layer, args, kwargs, tensors, training)
    return known[key]


# Graphs of layers by layer, then by the shapes of their inputs: a model is walked several times before it runs.
_GRAPHS: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def _without_tensors(args: Any, kwargs: Any) -> Any:
    return tree.map_structure(lambda t: "tensor" if is_tensor(t) else t, (args, kwargs))


def _trace(layer: keras.Layer, args: Any, kwargs: Any, tensors: Sequence, training: bool) -> keras.Model:
    symbols = [keras.Input(batch_shape=tuple(t.shape), dtype=keras.backend.standardize_dtype(t.dtype)) for t in tensors]
    remaining = iter(symbols)
    args, kwargs = tree.map_structure(lambda t: next(remaining) if is_tensor(t) else t, (args, kwargs))
    if layer._call_has_training_arg:
        kwargs = {**kwargs, "training": training}
    try:
        outputs = layer.call(*args, **kwargs)
        graph = keras.Model(symbols, outputs, name=layer.name)
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise UnsupportedLayer(f"its call is not made of layers and keras.ops alone ({reason})") from error
    known = {id(v) for v in graph.variables}
    for node in (node for nodes in graph._nodes_by_depth.values() for node in nodes):
        known |= {id(v) for v in tree.flatten((node.arguments.args, node.arguments.kwargs))}
    lost = [v.path for v in layer.trainable_variables if id(v) not in known]
    if lost:
        raise UnsupportedLayer(
            f"its call computes with the variables {lost} before they meet an input, which hides them from the walk"
        )
    return graph


def is_tensor(value: Any) -> bool:
    return isinstance(value, (SpatialTensor, keras.KerasTensor))


@register_lowering(layers.TimeDistributed)
def time_distributed(layer, trace: Trace, x: SpatialTensor, mask=None) -> SpatialTensor:
    """Cases and time steps together are the batch of the layer inside."""
    from keras_spatial.lowering.walk import lower_operation

    if mask is not None:
        raise ValueError(f"Layer '{layer.name}': TimeDistributed with a mask is not partitioned.")
    x = whole(trace, x, [1])
    batch, time = x.axes[:2]
    folded = Axis(batch.name, batch.size * time.size, batch.blocks, batch.length * time.size)
    x = _local_reshape(trace, x, (folded, *x.axes[2:]))
    y = lower_operation(layer.layer, trace, x)
    return _local_reshape(trace, y, (batch, time, *y.axes[1:]))


def _local_reshape(trace: Trace, x: SpatialTensor, axes: tuple[Axis, ...]) -> SpatialTensor:
    lengths = [axis.length for axis in axes]
    return trace.reduced(lambda t: tf.reshape(t, lengths), [x], axes, name="folded")


@register_lowering(layers.SpectralNormalization)
def spectral_normalization(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    """The kernel alone is normalized, and weights are whole on every device: nothing here is spread over the mesh."""
    from keras_spatial.lowering.walk import lower_operation

    if trace.training and not trace.planning:
        # As Keras does it: the kernel is replaced, and its gradient is that of the new one.
        zero = tf.reduce_all(tf.equal(layer.kernel.value, 0))
        vector, kernel = layer.normalized_weights()
        vector = tf.where(zero, layer.vector_u.value, vector)
        kernel = tf.where(zero, layer.kernel.value, kernel)
        layer.vector_u.assign(vector)
        layer.kernel.assign(kernel)
        trace.replace_weight(layer.kernel, kernel)
    y = lower_operation(layer.layer, trace, x)
    return trace.cast(y, x.dtype)
