"""Normalization: statistics over the whole image and batch by all-reduce, then an ordinary pointwise operation."""

import tensorflow as tf
from keras import backend, layers, ops

from keras_spatial.lowering.table import register_lowering
from keras_spatial.lowering.tensors import SpatialTensor
from keras_spatial.lowering.trace import Trace


@register_lowering(layers.BatchNormalization)
def batch_normalization(layer, trace: Trace, x: SpatialTensor, mask=None) -> SpatialTensor:
    if layer.axis % x.ndim != x.ndim - 1 or getattr(layer, "renorm", False):
        raise ValueError(
            f"Layer '{layer.name}': a partitioned BatchNormalization normalizes each channel of channels-last images "
            f"(axis=-1), without renorm. Received: axis={layer.axis}, renorm={getattr(layer, 'renorm', False)}"
        )
    input_dtype = layer.compute_dtype
    x = trace.cast(x, backend.result_type(x.dtype.name, "float32"))
    channels = (x.axes[-1],)
    if trace.training and layer.trainable:
        mean, variance = moments(trace, x, list(range(x.ndim - 1)), channels)
        _update(trace, layer.moving_mean, mean, layer.momentum)
        _update(trace, layer.moving_variance, variance, layer.momentum)
    else:
        mean = SpatialTensor(trace.weight(layer.moving_mean), channels)
        variance = SpatialTensor(trace.weight(layer.moving_variance), channels)

    weights = ([layer.gamma] if layer.scale else []) + ([layer.beta] if layer.center else [])

    def normalize(t: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
        values = iter(tf.cast(w, t.dtype) for w in weights)
        gamma = next(values) if layer.scale else None
        beta = next(values) if layer.center else None
        mean, variance = tf.cast(mean, t.dtype), tf.cast(variance, t.dtype)
        y = ops.batch_normalization(t, mean, variance, -1, beta, gamma, layer.epsilon)
        return tf.cast(y, input_dtype)

    (y,) = trace.local(normalize, [x, mean, variance], [(x.axes, input_dtype)], weights=weights, name=layer.name)
    return y


def moments(
    trace: Trace, x: SpatialTensor, over: list[int], axes, keepdims: bool = False
) -> tuple[SpatialTensor, SpatialTensor]:
    """Mean and biased variance over some axes of the whole image, as `tf.nn.moments` computes them: in two passes.

    Args:
        trace: the trace under way.
        x: the tensor.
        over: the tensor axes that are averaged.
        axes: axes of the results.
        keepdims: whether the results keep the averaged axes, with size 1.
    """
    count = 1
    for i in over:
        count *= x.axes[i].size
    inside = trace.inside(x)
    masks = [] if inside is None else [inside]

    def mean_part(t: tf.Tensor, *mask: tf.Tensor) -> tf.Tensor:
        return _masked_sum(t, mask, over, keepdims) / tf.cast(count, t.dtype)

    def variance_part(t: tf.Tensor, mean: tf.Tensor, *mask: tf.Tensor) -> tf.Tensor:
        # The derivative of the variance by the mean is zero.
        squares = tf.math.squared_difference(t, tf.stop_gradient(mean))
        return _masked_sum(squares, mask, over, keepdims) / tf.cast(count, t.dtype)

    mean = trace.reduced(mean_part, [x, *masks], axes, name="mean")
    if not keepdims and len(axes) != 1:
        raise AssertionError("Means over some axes broadcast against the tensor only with keepdims.")
    variance = trace.reduced(variance_part, [x, mean, *masks], axes, name="variance")
    return mean, variance


def _masked_sum(t: tf.Tensor, mask: tuple[tf.Tensor, ...], over: list[int], keepdims: bool) -> tf.Tensor:
    if mask:
        t = tf.where(tf.cast(mask[0], tf.bool), t, tf.zeros_like(t))
    return tf.reduce_sum(t, over, keepdims=keepdims)


def _update(trace: Trace, variable, value: SpatialTensor, momentum: float) -> None:
    def blend(old: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
        return tf.cast(old, new.dtype) * momentum + new * (1.0 - momentum)

    old = SpatialTensor(trace.weight(variable), value.axes)
    trace.update(variable, trace.reduced(blend, [old, value], value.axes, dtype=value.dtype, name="moving_average"))
