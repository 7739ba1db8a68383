"""Layers that act on each voxel independently: activations, arithmetic, merging, dense layers on the channels."""

import functools
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from keras_spatial.engine.tensors import SpatialTensor
from keras_spatial.engine.trace import Trace
from keras_spatial.keras_private import merge_function
from keras_spatial.rules import reductions
from keras_spatial.rules.broadcasting import check_sum
from keras_spatial.rules.composite import function_graph
from keras_spatial.rules.reshaping import concatenated
from keras_spatial.rules.table import register_lowering
from keras_spatial.rules.walk import lower_graph
from keras_spatial.rules.weights import kernel_value, kernel_variables, variable_tensor

_KERAS = [getattr(keras.activations, name) for name in dir(keras.activations) if name not in ("get", "deserialize")]
_TENSORFLOW = [
    *(tf.nn.relu, tf.nn.relu6, tf.nn.elu, tf.nn.selu, tf.nn.gelu, tf.nn.silu, tf.nn.swish, tf.nn.leaky_relu),
    *(tf.nn.sigmoid, tf.nn.tanh, tf.nn.softplus, tf.nn.softsign, tf.nn.softmax, tf.nn.log_softmax, tf.identity),
    *(tf.math.sigmoid, tf.math.tanh, tf.math.softplus, tf.math.abs, tf.math.sin, tf.math.cos, tf.math.square),
]
# By `id`, because not every callable is hashable.
_POINTWISE = {id(function) for function in (*_KERAS, *_TENSORFLOW)}


def apply_activation(trace: Trace, activation: Callable | None, x: SpatialTensor) -> SpatialTensor:
    """Apply an activation function. Those of Keras and TensorFlow run on each shard; any other function is traced and
    lowered operation by operation.

    Raises:
        UnsupportedLayer: if another function does not consist only of `keras.ops`.
    """
    if activation is None or activation is keras.activations.linear:
        return x
    if isinstance(activation, keras.Layer):
        return trace.inner(activation, x)
    if id(activation) not in _POINTWISE:
        found = function_graph(activation, x)
        return lower_graph(found.graph, trace, [x, *(variable_tensor(trace, v) for v in found.variables)])
    at_output = activation in (keras.activations.relu, keras.activations.leaky_relu)
    name = getattr(activation, "__name__", "activation").strip("<>")  # TensorFlow refuses a scope named "<lambda>".
    channels = None
    if activation is keras.activations.glu:
        x, channels = trace.whole(x, [x.ndim - 1]), x.shape[-1] // 2
    return trace.pointwise(activation, [x], channels=channels, derivative_at_output=at_output, name=name)


@register_lowering(layers.Activation)
def activation(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return apply_activation(trace, layer.activation, x)


@register_lowering(layers.ReLU, layers.LeakyReLU, layers.ELU)
def activation_layer(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return trace.pointwise(layer.call, [x], derivative_at_output=_keeps_signs(layer), name=layer.name)


def _keeps_signs(layer: keras.Layer) -> bool:
    """Whether an activation is linear on either side of zero and keeps signs, so its result determines its slope."""
    if isinstance(layer, layers.LeakyReLU):
        return layer.negative_slope >= 0
    return (
        isinstance(layer, layers.ReLU) and layer.max_value is None and not layer.threshold and layer.negative_slope >= 0
    )


@register_lowering(layers.Softmax)
def softmax(layer, trace: Trace, x: SpatialTensor, mask=None) -> SpatialTensor:
    if mask is not None:
        raise ValueError(f"Layer '{layer.name}': a softmax with a mask cannot be partitioned. Received: mask={mask!r}")
    over = reductions.normalized_axes(layer.axis, x.ndim)
    if any(x.axes[i].sharded for i in over):
        return reductions.softmax(trace, x, over, name=layer.name)
    return trace.pointwise(layer.call, [x], name=layer.name)


@register_lowering(layers.PReLU)
def parametric_relu(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    shared = tuple(layer.shared_axes or ())
    alpha_axes = tuple(axis.whole(1) if i in shared else axis for i, axis in enumerate(x.axes) if i > 0)
    alpha = trace.image_weight(layer.alpha, alpha_axes)
    return trace.pointwise(
        lambda t, a: tf.nn.relu(t) - tf.cast(a, t.dtype) * tf.nn.relu(-t), [x, alpha], name=layer.name
    )


@register_lowering(layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum)
def merge(layer, trace: Trace, xs: list[SpatialTensor]) -> SpatialTensor:
    xs = [trace.cast(x, layer.compute_dtype) for x in xs]
    if type(layer) in (layers.Add, layers.Average):
        return _sum(trace, xs, len(xs) if isinstance(layer, layers.Average) else 1, layer.name)
    return trace.pointwise(lambda *ts: merge_function(layer)(list(ts)), xs, name=layer.name)


def _sum(trace: Trace, xs: list[SpatialTensor], divisor: int, name: str) -> SpatialTensor:
    """A sum by broadcasting. Keras's own may treat an operand as a bias because of the size of a shard."""
    shape = tuple(xs[0].shape)
    for x in xs[1:]:
        check_sum(shape, x.shape)
        shape = np.broadcast_shapes(shape, tuple(x.shape))

    def on_shards(*ts: tf.Tensor) -> tf.Tensor:
        total = functools.reduce(tf.add, ts)
        return total if divisor == 1 else total / divisor

    return trace.pointwise(on_shards, xs, name=name)


@register_lowering(layers.Concatenate)
def concatenate(layer, trace: Trace, xs: list[SpatialTensor]) -> SpatialTensor:
    return concatenated(trace, [trace.cast(x, layer.compute_dtype) for x in xs], layer.axis, layer.name)


@register_lowering(layers.Dense)
def dense(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    x = trace.whole(trace.cast(x, layer.compute_dtype), [x.ndim - 1])
    y = trace.pointwise(
        lambda t, *kernel: ops.matmul(t, kernel_value(layer, kernel, t.dtype)),
        [x],
        weights=kernel_variables(layer),
        channels=layer.units,
        name=layer.name,
    )
    if layer.use_bias:
        y = trace.pointwise(lambda t, bias: t + tf.cast(bias, t.dtype), [y], weights=[layer.bias], name="bias")
    return apply_activation(trace, layer.activation, y)


@register_lowering(layers.Identity, layers.InputLayer)
def identity(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return x
