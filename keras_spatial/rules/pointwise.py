"""Layers that act on each voxel independently: activations, arithmetic, merging, dense layers on the channels."""

from collections.abc import Callable

import keras
import tensorflow as tf
from keras import layers, ops

from keras_spatial.engine.tensors import SpatialTensor
from keras_spatial.engine.trace import Trace
from keras_spatial.keras_private import merge_function
from keras_spatial.rules import reductions
from keras_spatial.rules.reshaping import concatenated
from keras_spatial.rules.table import register_lowering
from keras_spatial.rules.weights import kernel_value, kernel_variables


def apply_activation(trace: Trace, activation: Callable | None, x: SpatialTensor) -> SpatialTensor:
    """Apply an activation function, such as `keras.activations.relu`, to each shard."""
    if activation is None or activation is keras.activations.linear:
        return x
    if isinstance(activation, keras.Layer):
        return trace.inner(activation, x)
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
    """Whether an activation is linear on either side of zero and keeps signs: its result then determines its slope."""
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
    return trace.pointwise(lambda *ts: merge_function(layer)(list(ts)), xs, name=layer.name)


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
