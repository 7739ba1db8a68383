"""Dropout and noise: stateless random numbers, seeded by the layer's own Keras seed and the slice's place."""

import tensorflow as tf
from keras import layers

from keras_spatial.lowering.table import register_lowering
from keras_spatial.lowering.tensors import Axis, SpatialTensor
from keras_spatial.lowering.trace import Trace


@register_lowering(layers.Dropout)
def dropout(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    if layer.noise_shape is None:
        return _dropout(layer, trace, x, x.axes)
    shape = [axis.size if size is None else size for size, axis in zip(layer.noise_shape, x.axes, strict=True)]
    axes = tuple(axis if size == axis.size else axis.whole(1) for size, axis in zip(shape, x.axes, strict=True))
    return _dropout(layer, trace, x, axes)


@register_lowering(layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D)
def spatial_dropout(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return _dropout(layer, trace, x, (x.axes[0], *(a.whole(1) for a in x.image_axes), x.axes[-1]))


def _dropout(layer, trace: Trace, x: SpatialTensor, axes: tuple[Axis, ...]) -> SpatialTensor:
    if not trace.training or layer.rate == 0:
        return x
    keep = 1.0 - layer.rate

    def mask(uniform: tf.Tensor) -> tf.Tensor:
        return tf.cast(uniform < keep, x.dtype) / tf.cast(keep, x.dtype)

    masks = trace.random(layer.seed_generator, axes, tf.random.stateless_uniform, mask, x.dtype)
    return trace.pointwise(lambda t, m: t * m, [x, masks], name=layer.name)
