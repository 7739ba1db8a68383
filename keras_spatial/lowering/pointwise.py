"""Layers that act on each voxel by itself: activations, arithmetic, merging, dropout on voxels, dense on channels."""

from collections.abc import Callable

import keras
import tensorflow as tf
from keras import layers, ops

from keras_spatial.lowering.table import register_lowering
from keras_spatial.lowering.tensors import Axis, SpatialTensor
from keras_spatial.lowering.trace import Trace
from keras_spatial.lowering.weights import kernel_value, kernel_variables


def apply_activation(trace: Trace, activation: Callable | None, x: SpatialTensor) -> SpatialTensor:
    """An activation function such as `keras.activations.relu`, on each slice.

    Raises:
        ValueError: if the activation mixes image axes, as a softmax over one does.
    """
    if activation is None or activation is keras.activations.linear:
        return x
    if isinstance(activation, keras.Layer):
        return trace_layer(trace, activation, x)
    return trace.pointwise(activation, [x], name=getattr(activation, "__name__", "activation"))


def trace_layer(trace: Trace, layer: keras.Layer, *inputs: SpatialTensor) -> SpatialTensor:
    from keras_spatial.lowering.walk import lower_operation

    return lower_operation(layer, trace, *inputs)


@register_lowering(layers.Activation)
def activation(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return apply_activation(trace, layer.activation, x)


@register_lowering(layers.ReLU, layers.LeakyReLU, layers.ELU)
def activation_layer(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return trace.pointwise(layer.call, [x], name=layer.name)


@register_lowering(layers.Softmax)
def softmax(layer, trace: Trace, x: SpatialTensor, mask=None) -> SpatialTensor:
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    split = [x.axes[a].name for a in axes if x.axes[a].split]
    if split:
        raise ValueError(
            f"Layer '{layer.name}' takes its softmax over the split axis {split}. Leave that axis whole in the layout, "
            f"or use axis=-1. Received: axis={layer.axis}"
        )
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
    return trace.pointwise(lambda *ts: layer._merge_function(list(ts)), xs, name=layer.name)


@register_lowering(layers.Concatenate)
def concatenate(layer, trace: Trace, xs: list[SpatialTensor]) -> SpatialTensor:
    axis = layer.axis % xs[0].ndim
    if xs[0].axes[axis].split:
        raise ValueError(
            f"Layer '{layer.name}' concatenates along the split axis '{xs[0].axes[axis].name}'. Concatenate channels "
            f"(axis=-1), or leave that axis whole in the layout. Received: axis={layer.axis}"
        )
    xs = [trace.cast(x, layer.compute_dtype) for x in xs]
    axes = list(xs[0].axes)
    axes[axis] = Axis(axes[axis].name, sum(x.shape[axis] for x in xs))
    return trace.reduced(lambda *ts: tf.concat(ts, axis), xs, axes, name=layer.name)


@register_lowering(layers.Dense)
def dense(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    x = trace.cast(x, layer.compute_dtype)
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
