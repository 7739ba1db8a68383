"""Dropout and noise: stateless random numbers, seeded by the layer's own Keras seed and the shard's coordinates."""

import math

import keras
import tensorflow as tf
from keras import layers

from keras_spatial.engine.tensors import SpatialTensor
from keras_spatial.engine.trace import Trace
from keras_spatial.layout import Axis
from keras_spatial.rules.table import register_lowering
from keras_spatial.runtimes.functions import scalar


@register_lowering(layers.Dropout)
def dropout(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return _dropout(layer, trace, x, _noise_axes(layer, x))


@register_lowering(layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D)
def spatial_dropout(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    if getattr(layer, "data_format", "channels_last") == "channels_first":
        return _dropout(layer, trace, x, (*x.axes[:2], *(a.whole(1) for a in x.axes[2:])))
    return _dropout(layer, trace, x, (x.axes[0], *(a.whole(1) for a in x.image_axes), x.axes[-1]))


@register_lowering(layers.GaussianNoise)
def gaussian_noise(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    if not trace.training or layer.stddev == 0:
        return x
    noise = trace.random(
        layer.seed_generator,
        x.axes,
        tf.random.stateless_normal,
        lambda normal: tf.cast(normal * layer.stddev, x.dtype),
        x.dtype,
    )
    return trace.pointwise(tf.add, [x, noise], name=layer.name)


@register_lowering(layers.GaussianDropout)
def gaussian_dropout(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    if not trace.training or layer.rate == 0:
        return x
    deviation = math.sqrt(layer.rate / (1.0 - layer.rate))
    factors = trace.random(
        layer.seed_generator,
        x.axes,
        tf.random.stateless_normal,
        lambda normal: tf.cast(1.0 + normal * deviation, x.dtype),
        x.dtype,
    )
    return trace.pointwise(tf.multiply, [x, factors], name=layer.name)


# The value of a dropped unit in a self-normalizing network: -scale * alpha of SELU (Klambauer et al., "Self-Normalizing
# Neural Networks", 2017).
_SELU_LIMIT = -1.0507009873554804934193349852946 * 1.6732632423543772848170429916717


@register_lowering(layers.AlphaDropout)
def alpha_dropout(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    if not trace.training or layer.rate == 0:
        return x
    rate = layer.rate
    gain = 1.0 / math.sqrt((1.0 - rate) * (1.0 + rate * _SELU_LIMIT**2))
    axes = _noise_axes(layer, x)
    kept = trace.random(
        layer.seed_generator,
        axes,
        tf.random.stateless_uniform,
        lambda uniform: tf.cast(uniform >= rate, x.dtype),
        x.dtype,
    )

    def drop(t: tf.Tensor, kept: tf.Tensor) -> tf.Tensor:
        return gain * (t * kept + _SELU_LIMIT * (1.0 - kept)) - gain * _SELU_LIMIT * rate

    return trace.pointwise(drop, [x, kept], name=layer.name)


@register_lowering(layers.ActivityRegularization)
def activity_regularization(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return x  # The walk adds the loss, as for every layer with an activity regularizer.


def check_activity_regularizer(layer) -> None:
    """Refuse what is not one of Keras's own regularizers, which are sums over elements.

    Raises:
        ValueError: if a layer's `activity_regularizer` is another one.
    """
    regularizer = layer.activity_regularizer
    if type(regularizer) not in (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2):
        raise ValueError(
            f"Layer '{layer.name}': an activity regularizer must be keras.regularizers.L1, L2 or L1L2 to be summed "
            f"over the mesh. Received: {regularizer!r}"
        )


def add_activity_loss(layer, trace: Trace, y: SpatialTensor) -> None:
    """What a layer's `activity_regularizer` adds to the loss: a sum over the output, divided by the batch size."""
    regularizer = layer.activity_regularizer
    dtype = tf.float64 if y.dtype == tf.float64 else tf.float32

    def part(t: tf.Tensor) -> tf.Tensor:
        return tf.cast(regularizer(t), dtype) / y.shape[0]

    trace.losses.append(trace.reduced(part, [y], (), dtype=dtype, name=f"{layer.name}_activity"))


def _noise_axes(layer, x: SpatialTensor) -> tuple[Axis, ...]:
    if layer.noise_shape is None:
        return x.axes
    shape = [axis.size if size is None else size for size, axis in zip(layer.noise_shape, x.axes, strict=True)]
    return tuple(axis if size == axis.size else axis.whole(1) for size, axis in zip(shape, x.axes, strict=True))


def _dropout(layer, trace: Trace, x: SpatialTensor, axes: tuple[Axis, ...]) -> SpatialTensor:
    if not trace.training or layer.rate == 0:
        return x
    keep = 1.0 - layer.rate

    def mask(uniform: tf.Tensor) -> tf.Tensor:
        return tf.cast(uniform < keep, x.dtype) / scalar(keep, x.dtype)

    masks = trace.random(layer.seed_generator, axes, tf.random.stateless_uniform, mask, x.dtype)
    return trace.pointwise(lambda t, m: t * m, [x, masks], name=layer.name)
