"""Preprocessing inside a model: rescaling, resizing, cropping, and augmentation of whole images."""

from typing import Any

import tensorflow as tf
from keras import backend, layers, tree

from keras_spatial.lowering.formats import in_either_format
from keras_spatial.lowering.operations import as_operand
from keras_spatial.lowering.relayout import shifted
from keras_spatial.lowering.reshaping import resized, sized_axis
from keras_spatial.lowering.table import register_lowering
from keras_spatial.lowering.tensors import Axis, SpatialTensor
from keras_spatial.lowering.trace import Trace


@register_lowering(layers.Rescaling)
def rescaling(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return trace.pointwise(layer.call, [x], dtype=layer.compute_dtype, name=layer.name)


@register_lowering(layers.Normalization)
def normalization(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    x = trace.cast(x, layer.compute_dtype)
    mean, variance = (
        trace.cast(as_operand(trace, tf.convert_to_tensor(t)), x.dtype) for t in (layer.mean, layer.variance)
    )

    def normalize(t: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
        deviation = tf.maximum(tf.sqrt(variance), tf.cast(backend.epsilon(), t.dtype))
        return mean + t * deviation if layer.invert else (t - mean) / deviation

    return trace.pointwise(normalize, [x, mean, variance], name=layer.name)


@register_lowering(layers.Resizing)
@in_either_format
def resizing(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    if layer.crop_to_aspect_ratio or layer.pad_to_aspect_ratio:
        raise ValueError(
            f"Layer '{layer.name}': a partitioned Resizing neither crops nor pads to the aspect ratio. Do so in the "
            f"input pipeline. Received: crop_to_aspect_ratio={layer.crop_to_aspect_ratio}, "
            f"pad_to_aspect_ratio={layer.pad_to_aspect_ratio}"
        )
    x = trace.cast(x, layer.compute_dtype)
    return resized(trace, x, (layer.height, layer.width), layer.interpolation, layer.antialias)


@register_lowering(layers.CenterCrop)
@in_either_format
def center_crop(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    x = trace.cast(x, layer.compute_dtype)
    for i, size in enumerate((layer.height, layer.width), start=1):
        surplus = x.shape[i] - size
        if surplus < 0:
            raise ValueError(
                f"Layer '{layer.name}': a partitioned CenterCrop only crops; Keras would resize an image that is too "
                f"small. Received: images of shape {x.shape}, to be cropped to {(layer.height, layer.width)}"
            )
        if surplus:
            x = shifted(trace, x, i, sized_axis(trace, x.axes[i], size), -(surplus // 2))
    return x


@register_lowering(
    layers.AutoContrast,
    layers.Equalization,
    layers.RandomBrightness,
    layers.RandomColorDegeneration,
    layers.RandomContrast,
    layers.RandomCrop,
    layers.RandomFlip,
    layers.RandomGrayscale,
    layers.RandomHue,
    layers.RandomInvert,
    layers.RandomPerspective,
    layers.RandomPosterization,
    layers.RandomRotation,
    layers.RandomSaturation,
    layers.RandomSharpness,
    layers.RandomShear,
    layers.RandomTranslation,
    layers.RandomZoom,
    layers.Solarization,
)
def augmentation(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    """One transform of whole images, drawn once from the layer's own seed; every device keeps its part of the result.

    Keras's own code transforms the image, put together on every device: a model has few channels where it augments.
    """
    x = trace.cast(x, layer.compute_dtype)
    sizes = layer.compute_output_shape(x.shape)
    axes = [axis if axis.size == n else sized_axis(trace, axis, n) for axis, n in zip(x.axes, sizes, strict=True)]
    # While blocks are planned nothing may draw from the seed, and no transform is run.
    shape = tf.zeros(x.shape, x.dtype) if not trace.planning else None
    transformation = None if shape is None else layer.get_random_transformation(shape, training=trace.training)
    drawn = [as_operand(trace, t) for t in tree.flatten(transformation) if tf.is_tensor(t)]

    def transform(images: tf.Tensor, *drawn: tf.Tensor) -> tf.Tensor:
        values = iter(drawn)
        local = tree.map_structure(lambda t: next(values) if tf.is_tensor(t) else t, transformation)
        return _with_static_shape(layer.transform_images(images, local, training=trace.training), sizes, layer)

    whole = trace.whole(x, range(x.ndim))
    result_axes = [Axis(axis.name, axis.size) for axis in axes]
    y = trace.reduced(transform, [whole, *drawn], result_axes, name=layer.name)
    return trace.relayout(y, axes)


def _with_static_shape(images: Any, sizes, layer) -> tf.Tensor:
    return tf.ensure_shape(tf.cast(images, layer.compute_dtype), sizes)
