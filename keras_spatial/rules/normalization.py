"""Normalization: statistics over the whole image and batch by all-reduce, followed by a pointwise operation."""

from collections.abc import Sequence

import tensorflow as tf
from keras import backend, layers, ops

from keras_spatial.engine.reshard import permuted
from keras_spatial.engine.statistics import Normalization
from keras_spatial.engine.tensors import SpatialTensor
from keras_spatial.engine.trace import Trace
from keras_spatial.layout import Axis
from keras_spatial.rules.reductions import mean, moments, normalized_axes, number_of_elements, total
from keras_spatial.rules.table import register_lowering


@register_lowering(layers.BatchNormalization)
def batch_normalization(layer, trace: Trace, x: SpatialTensor, mask=None) -> SpatialTensor:
    if mask is not None:
        raise ValueError(f"Layer '{layer.name}': batch normalization with a mask is not partitioned.")
    if getattr(layer, "renorm", False):
        raise ValueError(f"Layer '{layer.name}': batch renormalization cannot be partitioned. Received: renorm=True")
    return _with_channels_last(trace, x, layer.axis, lambda t: _batch_normalization(layer, trace, t))


def _batch_normalization(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    if trace.training and layer.trainable:
        return _with_batch_moments(layer, trace, x)
    dtype = tf.as_dtype(backend.result_type(x.dtype.name, "float32"))
    weights = [layer.moving_mean, layer.moving_variance]
    weights += ([layer.gamma] if layer.scale else []) + ([layer.beta] if layer.center else [])

    def normalize(t: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
        mean, variance, *rest = (tf.cast(w, dtype) for w in weights)
        values = iter(rest)
        gamma = next(values) if layer.scale else None
        beta = next(values) if layer.center else None
        y = ops.batch_normalization(tf.cast(t, dtype), mean, variance, -1, beta, gamma, layer.epsilon)
        return tf.cast(y, layer.compute_dtype)

    return trace.pointwise(normalize, [x], weights=weights, dtype=layer.compute_dtype, name=layer.name)


def _with_batch_moments(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    operation = Normalization(
        x.value,
        trace.weight(layer.gamma) if layer.scale else None,
        trace.weight(layer.beta) if layer.center else None,
        edges=trace.edges([x], [x.axes[-1:]], layer.name),
        count=number_of_elements(x, range(x.ndim - 1)),
        epsilon=layer.epsilon,
        dtype=tf.as_dtype(layer.compute_dtype),
        name=layer.name,
    )
    y, mean, variance = operation.outputs
    _update(trace, layer.moving_mean, SpatialTensor(mean, (x.axes[-1],)), layer.momentum)
    _update(trace, layer.moving_variance, SpatialTensor(variance, (x.axes[-1],)), layer.momentum)
    return SpatialTensor(y, x.axes)


@register_lowering(layers.GroupNormalization)
def group_normalization(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return _with_channels_last(trace, x, layer.axis, lambda t: _group_normalization(layer, trace, t))


def _group_normalization(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    dtype = tf.as_dtype(backend.result_type(x.dtype.name, "float32"))
    channels, groups = x.shape[-1], layer.groups
    lengths = [axis.length for axis in x.axes[:-1]]
    grouped_axes = (*x.axes[:-1], Axis("groups", groups), Axis("members", channels // groups))
    grouped = trace.reduced(
        lambda t: tf.reshape(tf.cast(t, dtype), [*lengths, groups, channels // groups]),
        [x],
        grouped_axes,
        dtype=dtype,
        name="groups",
    )
    center, variance = moments(trace, grouped, [*range(1, x.ndim - 1), x.ndim], keepdims=True)
    weights = ([layer.gamma] if layer.scale else []) + ([layer.beta] if layer.center else [])

    def normalize(t: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
        values = iter(tf.reshape(tf.cast(w, t.dtype), [groups, channels // groups]) for w in weights)
        inverse = tf.math.rsqrt(variance + layer.epsilon)
        inverse = inverse * next(values) if layer.scale else inverse
        shift = -mean * inverse
        shift = shift + next(values) if layer.center else shift
        return tf.cast(tf.reshape(t * inverse + shift, [*lengths, channels]), layer.compute_dtype)

    outputs = [(x.axes, layer.compute_dtype)]
    return trace.local(normalize, [grouped, center, variance], outputs, weights=weights, name=layer.name)[0]


@register_lowering(layers.LayerNormalization)
def layer_normalization(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    y = normalized_over(
        trace, x, layer.axis, layer.gamma, layer.beta, layer.epsilon, rms_scaling=layer.rms_scaling, name=layer.name
    )
    return trace.cast(y, layer.compute_dtype)


@register_lowering(layers.RMSNormalization)
def rms_normalization(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    over = normalized_axes(layer.axis, x.ndim)
    y = trace.cast(x, backend.result_type(x.dtype.name, "float32"))
    squares = mean(trace, trace.pointwise(tf.square, [y], name="squares"), over, keepdims=True)
    y = trace.pointwise(lambda t, s: t * tf.math.rsqrt(s + layer.epsilon), [y, squares], name=layer.name)
    scale = weight_along(trace, layer.scale, x, over)
    return trace.cast(trace.pointwise(lambda t, w: t * tf.cast(w, t.dtype), [y, scale], name="scale"), x.dtype)


@register_lowering(layers.UnitNormalization)
def unit_normalization(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    squares = trace.pointwise(tf.square, [x], name="squares")
    sums = total(trace, squares, normalized_axes(layer.axis, x.ndim), keepdims=True)
    return trace.pointwise(lambda t, s: t * tf.math.rsqrt(tf.maximum(s, 1e-12)), [x, sums], name=layer.name)


def normalized_over(
    trace: Trace, x: SpatialTensor, axis, gamma, beta, epsilon: float, *, rms_scaling: bool = False, name: str
) -> SpatialTensor:
    """`keras.ops.layer_normalization` over any axes."""
    over = normalized_axes(axis, x.ndim)
    dtype = x.dtype
    x = trace.cast(x, backend.result_type(dtype.name, "float32"))
    center, variance = moments(trace, x, over, keepdims=True)

    def scale(t: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
        return (t if rms_scaling else t - mean) * tf.math.rsqrt(variance + epsilon)

    y = trace.pointwise(scale, [x, center, variance], name=name)
    if gamma is not None:
        y = trace.pointwise(
            lambda t, w: t * tf.cast(w, t.dtype), [y, weight_along(trace, gamma, x, over)], name=f"{name}_gamma"
        )
    if beta is not None:
        y = trace.pointwise(
            lambda t, w: t + tf.cast(w, t.dtype), [y, weight_along(trace, beta, x, over)], name=f"{name}_beta"
        )
    return trace.cast(y, dtype)


def weight_along(trace: Trace, variable, x: SpatialTensor, over: Sequence[int]) -> SpatialTensor:
    """A variable with one dimension for each of some axes of a tensor, sharded like it and ready to broadcast."""
    sizes = [axis.size if i in over else 1 for i, axis in enumerate(x.axes)]
    axes = [Axis(f"axis{i}", size) for i, size in enumerate(sizes)]
    weight = SpatialTensor(trace.weight(variable), tuple(Axis(f"weight{i}", n) for i, n in enumerate(variable.shape)))
    whole = trace.reduced(lambda w: tf.reshape(w, sizes), [weight], axes, name="weight")
    return trace.reshard(whole, [x.axes[i] if i in over else axis for i, axis in enumerate(axes)])


def _with_channels_last(trace: Trace, x: SpatialTensor, axis: int, normalize) -> SpatialTensor:
    """Apply a rule for channels-last tensors with another axis in the place of the channels.

    Raises:
        ValueError: if there are several such axes.
    """
    if not isinstance(axis, int):
        raise ValueError(f"A partitioned normalization needs a single axis of channels. Received: axis={axis}")
    axis %= x.ndim
    others = [i for i in range(x.ndim) if i != axis]
    y = normalize(permuted(trace, trace.whole(x, [axis]), [*others, axis]))
    back = [*range(axis), x.ndim - 1, *range(axis, x.ndim - 1)]
    return trace.reshard(permuted(trace, y, back), x.axes)


def _update(trace: Trace, variable, value: SpatialTensor, momentum: float) -> None:
    def blend(old: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
        return tf.cast(old, new.dtype) * momentum + new * (1.0 - momentum)

    trace.update(variable, value, blend)
