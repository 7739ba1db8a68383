"""Preprocessing inside a model: rescaling, resizing, cropping, and augmentation."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from keras import backend, layers, tree

from keras_spatial.layers.augmentation import RandomBrightness3D, RandomContrast3D, RandomFlip3D
from keras_spatial.lowering.formats import in_either_format
from keras_spatial.lowering.operations import as_operand
from keras_spatial.lowering.relayout import mirrored, shifted, whole
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
    layers.RandomBrightness,
    layers.RandomColorDegeneration,
    layers.RandomGrayscale,
    layers.RandomHue,
    layers.RandomInvert,
    layers.RandomPosterization,
    layers.RandomSaturation,
    layers.Solarization,
)
def color_augmentation(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    """Layers that change each pixel by itself: Keras's own code transforms each slice, by numbers drawn for all."""
    x = whole(trace, trace.cast(x, layer.compute_dtype), [-1 if layer.data_format == "channels_last" else 1])
    if trace.planning:
        return x
    transformation, drawn = _draw(layer, trace, x)
    transform = _by_drawn(layer, trace, transformation)
    return trace.local(transform, [x, *drawn], [(x.axes, layer.compute_dtype)], name=layer.name)[0]


@register_lowering(layers.RandomContrast)
@in_either_format
def random_contrast(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    x = trace.cast(x, layer.compute_dtype)
    if trace.planning or not trace.training:
        return x
    _, (factor,) = _draw(layer, trace, x)

    def adjust(t: tf.Tensor, mean: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value((t - mean) * tf.cast(factor, t.dtype) + mean, *layer.value_range)

    return trace.pointwise(adjust, [x, _mean(trace, x, layer.name), factor], name=layer.name)


@register_lowering(RandomContrast3D)
def random_contrast_3d(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    x = trace.cast(x, layer.compute_dtype)
    if trace.planning or not trace.training:
        return x
    factor = _with_images(trace, layer.draw(x.shape[0]), x)
    return trace.pointwise(layer.adjust, [x, _mean(trace, x, layer.name), factor], name=layer.name)


@register_lowering(RandomBrightness3D)
def random_brightness_3d(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    x = trace.cast(x, layer.compute_dtype)
    if trace.planning or not trace.training:
        return x
    return trace.pointwise(layer.adjust, [x, _with_images(trace, layer.draw(x.shape[0]), x)], name=layer.name)


@register_lowering(RandomFlip3D)
def random_flip_3d(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    x = trace.cast(x, layer.compute_dtype)
    if not trace.training:
        return x
    flips = None if trace.planning else layer.draw(x.shape[0])
    for axis in layer.axes:
        i = 1 + "xyz".index(axis)
        x = _mirrored_where(trace, None if flips is None else _with_images(trace, flips[:, i - 1], x), x, i)
    return x


def _mean(trace: Trace, x: SpatialTensor, name: str) -> SpatialTensor:
    """The mean of each image and channel, `[batch, 1, ..., channels]`."""
    image_axes = range(1, x.ndim - 1)
    voxels = math.prod(x.shape[i] for i in image_axes)
    inside = trace.inside(x)
    axes = tuple(axis.whole(1) if i in image_axes else axis for i, axis in enumerate(x.axes))

    def share(t: tf.Tensor, *mask: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(t * mask[0] if mask else t, list(image_axes), keepdims=True) / voxels

    return trace.reduced(share, [x] if inside is None else [x, inside], axes, name=f"{name}_mean")


def _mirrored_where(trace: Trace, flips: SpatialTensor | None, x: SpatialTensor, i: int) -> SpatialTensor:
    """Images mirrored along one axis where `flips` says so: mirrored slices change places with those opposite."""
    mirror = mirrored(trace, x, i)
    if flips is None:
        return mirror
    return trace.pointwise(tf.where, [flips, mirror, x], dtype=x.dtype, name="mirrored_where")


@register_lowering(layers.RandomSharpness)
@in_either_format
def random_sharpness(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    x = trace.cast(x, layer.compute_dtype)
    if not trace.training:
        return x
    # The smoothing filter of Keras's layer.
    kernel = np.full((3, 3), 1 / 13)
    kernel[1, 1] = 5 / 13

    def smooth(t: tf.Tensor) -> tf.Tensor:
        filters = tf.tile(tf.cast(kernel[:, :, None, None], t.dtype), [1, 1, x.shape[-1], 1])
        return tf.nn.depthwise_conv2d(t, filters, [1, 1, 1, 1], "VALID")

    smoothed = trace.windowed(smooth, x, {1: (1, 1), 2: (1, 1)}, x.axes, name=f"{layer.name}_smoothed")
    if trace.planning:
        return smoothed
    _, (factor,) = _draw(layer, trace, x)

    def mix(t: tf.Tensor, smoothed: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
        share = 1 - tf.reshape(tf.cast(2 * factor, t.dtype), [-1, 1, 1, 1])
        return tf.clip_by_value(t + share * (smoothed - t), *layer.value_range)

    return trace.local(mix, [x, smoothed, factor], [(x.axes, x.dtype)], name=layer.name)[0]


@register_lowering(layers.RandomFlip)
@in_either_format
def random_flip(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    x = trace.cast(x, layer.compute_dtype)
    if not trace.training:
        return x
    flips = None if trace.planning else _draw(layer, trace, x)[1][0]
    for mode, i in (("horizontal", 2), ("vertical", 1)):
        if mode in layer.mode:
            x = _mirrored_where(trace, flips, x, i)
    return x


@register_lowering(
    layers.AutoContrast,
    layers.Equalization,
    layers.RandomCrop,
    layers.RandomPerspective,
    layers.RandomRotation,
    layers.RandomShear,
    layers.RandomTranslation,
    layers.RandomZoom,
)
def whole_image_augmentation(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    """One transform of whole images, drawn once from the layer's own seed; every device keeps its part of the result.

    Keras's own code transforms the image, put together on every device: a model has few channels where it augments.
    """
    x = trace.cast(x, layer.compute_dtype)
    sizes = layer.compute_output_shape(x.shape)
    axes = [axis if axis.size == n else sized_axis(trace, axis, n) for axis, n in zip(x.axes, sizes, strict=True)]
    x = trace.whole(x, range(x.ndim))
    transformation, drawn = (None, []) if trace.planning else _draw(layer, trace, x)
    transform = _by_drawn(layer, trace, transformation)

    def with_static_shape(images: tf.Tensor, *drawn: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(transform(images, *drawn), sizes)

    result_axes = [Axis(axis.name, axis.size) for axis in axes]
    return trace.relayout(trace.reduced(with_static_shape, [x, *drawn], result_axes, name=layer.name), axes)


def _draw(layer, trace: Trace, x: SpatialTensor) -> tuple[Any, list[SpatialTensor]]:
    """What a layer draws from its seed for images like `x`, and the tensors in it: each image's numbers lie with it.

    While blocks are planned nothing may draw from the seed.
    """
    # Keras's layers ask for the shape alone; the tensor itself is never computed.
    images = tf.zeros(x.shape, x.dtype)
    transformation = layer.get_random_transformation(images, training=trace.training)
    return transformation, [_with_images(trace, t, x) for t in tree.flatten(transformation) if tf.is_tensor(t)]


def _with_images(trace: Trace, drawn: tf.Tensor, x: SpatialTensor) -> SpatialTensor:
    """Numbers drawn for each image, on the devices that hold it."""
    operand, batch = as_operand(trace, drawn), x.axes[0]
    of_images = operand.ndim > 0 and operand.shape[0] == batch.size and batch.split
    return trace.relayout(operand, (batch, *operand.axes[1:])) if of_images else operand


def _by_drawn(layer, trace: Trace, transformation: Any) -> Callable[..., tf.Tensor]:
    """A layer's transform as a function of images and of the tensors that it drew."""

    def transform(images: tf.Tensor, *drawn: tf.Tensor) -> tf.Tensor:
        values = iter(drawn)
        local = tree.map_structure(lambda t: next(values) if tf.is_tensor(t) else t, transformation)
        return tf.cast(layer.transform_images(images, local, training=trace.training), layer.compute_dtype)

    return transform
