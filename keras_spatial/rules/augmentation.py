"""Augmentation inside a model: one transform of whole images, with each device computing its own shard.

Keras's own code draws the random numbers from the layer's own seed and turns them into a transform. Devices then
exchange only what the transform moves: nothing for colours, opposite shards for flips, all shards in turn for
rotations.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from keras import layers, tree

from keras_spatial.engine.reshard import mirrored, whole
from keras_spatial.engine.sampling import sampled, with_gradient
from keras_spatial.engine.sums import summed
from keras_spatial.engine.tensors import SpatialTensor
from keras_spatial.engine.trace import Trace
from keras_spatial.keras_private import to_value_range
from keras_spatial.layers.augmentation import (
    RandomBrightness3D,
    RandomContrast3D,
    RandomCrop3D,
    RandomFlip3D,
    RandomRotation3D,
    RandomTranslation3D,
    RandomZoom3D,
)
from keras_spatial.rules.formats import in_either_format, to_channels_first, to_channels_last
from keras_spatial.rules.keras_ops import as_operand
from keras_spatial.rules.preprocessing import cropped
from keras_spatial.rules.reshaping import resized, sized_axis
from keras_spatial.rules.table import register_lowering

Rule = Callable[[Any, Trace, SpatialTensor], SpatialTensor]


def in_training(lower: Rule) -> Rule:
    """Make a rule for a layer that does nothing outside training and never changes the size of images."""

    @functools.wraps(lower)
    def rule(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
        x = trace.cast(x, layer.compute_dtype)
        # Planning must not draw from a layer's seed.
        return x if trace.planning or not trace.training else lower(layer, trace, x)

    return rule


# Colours.


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
def colors(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    """Lower layers that change each pixel independently: Keras's code transforms each shard with the same numbers."""
    x = whole(trace, trace.cast(x, layer.compute_dtype), [-1 if layer.data_format == "channels_last" else 1])
    if trace.planning:
        return x
    transformation, drawn = _draw(layer, trace, x)
    transform = _by_drawn(layer, trace, transformation)
    return trace.local(transform, [x, *drawn], [(x.axes, layer.compute_dtype)], name=layer.name)[0]


@register_lowering(layers.RandomContrast)
@in_either_format
@in_training
def random_contrast(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    _, (factor,) = _draw(layer, trace, x)

    def adjust(t: tf.Tensor, mean: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value((t - mean) * tf.cast(factor, t.dtype) + mean, *layer.value_range)

    return trace.pointwise(adjust, [x, _mean(trace, x, layer.name), factor], name=layer.name)


@register_lowering(RandomContrast3D)
@in_training
def random_contrast_3d(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    factor = _with_images(trace, layer.draw(x.shape[0]), x)
    return trace.pointwise(layer.adjust, [x, _mean(trace, x, layer.name), factor], name=layer.name)


@register_lowering(RandomBrightness3D)
@in_training
def random_brightness_3d(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return trace.pointwise(layer.adjust, [x, _with_images(trace, layer.draw(x.shape[0]), x)], name=layer.name)


def _mean(trace: Trace, x: SpatialTensor, name: str) -> SpatialTensor:
    """The mean of each image and channel, of shape `[batch, 1, ..., channels]`."""
    image_axes = range(1, x.ndim - 1)
    voxels = math.prod(x.shape[i] for i in image_axes)
    axes = tuple(axis.whole(1) if i in image_axes else axis for i, axis in enumerate(x.axes))

    def share(t: tf.Tensor) -> tf.Tensor:
        return summed(t, image_axes, keepdims=True) / voxels

    return trace.reduced(share, [x], axes, name=f"{name}_mean")


@register_lowering(layers.AutoContrast)
def auto_contrast(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    """Run Keras's code with the extremes of the whole image in place of those of a shard."""
    x = trace.cast(x, layer.compute_dtype)

    def ranged(sign: int) -> SpatialTensor:
        def convert(t: tf.Tensor) -> tf.Tensor:
            t = to_value_range(layer, t, layer.value_range, (0, 255), dtype=layer.compute_dtype)
            return sign * tf.cast(t, layer.compute_dtype)

        return trace.pointwise(convert, [x], name=f"{layer.name}_range")

    # Keras computes them over these two axes, whatever the data format.
    kept = [axis.whole(1) if i in (1, 2) else axis for i, axis in enumerate(x.axes)]
    low, high = (
        trace.maximum(ranged(sign), kept, keepdims=True, over=[1, 2], name=f"{layer.name}_extreme") for sign in (-1, 1)
    )

    def adjust(t: tf.Tensor, negative_low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
        known = {"min": lambda *_, **__: -negative_low, "max": lambda *_, **__: high}
        numpy = _Substituted(layer.backend.numpy, **known)
        return _changed(layer, backend=_Substituted(layer.backend, numpy=numpy)).transform_images(t)

    return trace.pointwise(adjust, [x, low, high], dtype=layer.compute_dtype, name=layer.name)


# Neighbouring and opposite voxels.


@register_lowering(layers.RandomSharpness)
@in_either_format
@in_training
def random_sharpness(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    # The smoothing filter of Keras's layer.
    kernel = np.full((3, 3), 1 / 13)
    kernel[1, 1] = 5 / 13

    def smooth(t: tf.Tensor) -> tf.Tensor:
        filters = tf.tile(tf.cast(kernel[:, :, None, None], t.dtype), [1, 1, x.shape[-1], 1])
        return tf.nn.depthwise_conv2d(t, filters, [1, 1, 1, 1], "VALID")

    smoothed = trace.windowed(smooth, x, {1: (1, 1), 2: (1, 1)}, x.axes, name=f"{layer.name}_smoothed")
    _, (factor,) = _draw(layer, trace, x)

    def mix(t: tf.Tensor, smoothed: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
        share = 1 - tf.reshape(tf.cast(2 * factor, t.dtype), [-1, 1, 1, 1])
        return tf.clip_by_value(t + share * (smoothed - t), *layer.value_range)

    return trace.local(mix, [x, smoothed, factor], [(x.axes, x.dtype)], name=layer.name)[0]


@register_lowering(layers.RandomFlip)
@in_either_format
@in_training
def random_flip(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    flips = _draw(layer, trace, x)[1][0]
    for mode, i in (("horizontal", 2), ("vertical", 1)):
        if mode in layer.mode:
            x = _mirrored_where(trace, flips, x, i)
    return x


@register_lowering(RandomFlip3D)
@in_training
def random_flip_3d(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    flips = layer.draw(x.shape[0])
    for axis in layer.axes:
        i = 1 + "xyz".index(axis)
        x = _mirrored_where(trace, _with_images(trace, flips[:, i - 1], x), x, i)
    return x


def _mirrored_where(trace: Trace, flips: SpatialTensor, x: SpatialTensor, i: int) -> SpatialTensor:
    """Mirror those images along one axis that `flips` selects: reversed shards trade places with those opposite."""
    mirror = mirrored(trace, x, i)
    return trace.pointwise(tf.where, [flips, mirror, x], dtype=x.dtype, name="mirrored_where")


# Voxels from any position.


@register_lowering(
    layers.RandomPerspective,
    layers.RandomRotation,
    layers.RandomShear,
    layers.RandomTranslation,
    layers.RandomZoom,
)
@in_training
def projection(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    """Lower layers that sample each pixel at the position that a projective map gives."""
    transforms, options = _projection(layer, x)
    applied = options.pop("applied")
    first = layer.data_format == "channels_first"
    x = to_channels_last(trace, whole(trace, x, [1])) if first else whole(trace, x, [x.ndim - 1])
    fill_value = options.pop("fill_value")

    def read(image: SpatialTensor, transforms: tf.Tensor, fill_value: float) -> SpatialTensor:
        drawn = [_with_images(trace, transforms, image)]
        return sampled(trace, image, image.axes, _projected, drawn, **options, fill_value=fill_value, name=layer.name)

    # TensorFlow's gradient of a projection samples the result's gradient with the inverse map.
    y = with_gradient(trace, x, read(x, transforms, fill_value), lambda dy: read(dy, _inverse(transforms), 0.0))
    if applied is not None:
        applied = _with_images(trace, applied[:, None, None, None], x)
        y = trace.pointwise(tf.where, [applied, y, x], dtype=x.dtype, name=f"{layer.name}_applied")
    return to_channels_first(trace, y) if first else y


def _projection(layer, x: SpatialTensor) -> tuple[tf.Tensor, dict[str, Any]]:
    """The maps that a layer draws for images like `x`, and how it samples images; found by running it on zeros.

    Returns:
        The maps, float32 `[batch, 8]`, in the form that `ImageProjectiveTransformV3` takes. Then the options of
        `sampled`, and with them `applied`, which says which images are transformed (None if all are).
    """
    found: dict[str, Any] = {"applied": None}

    def affine(images, transform, interpolation, fill_mode, fill_value, data_format):
        found.update(transforms=transform, linear=interpolation == "bilinear", fill_mode=fill_mode)
        found.update(fill_value=fill_value)
        return images

    def perspective(images, start_points, end_points, interpolation, fill_value, data_format):
        transforms = layer.backend.image.compute_homography_matrix(start_points, end_points)
        return affine(images, transforms, interpolation, "constant", fill_value, data_format)

    image = _Substituted(layer.backend.image, affine_transform=affine, perspective_transform=perspective)
    recording = _changed(layer, backend=_Substituted(layer.backend, image=image))
    images = tf.zeros(x.shape, x.dtype)
    transformation = layer.get_random_transformation(images, training=True)
    recording.transform_images(images, transformation, training=True)
    if isinstance(transformation, dict):
        found["applied"] = transformation.get("apply_perspective")
    return tf.reshape(tf.cast(found.pop("transforms"), tf.float32), [x.shape[0], 8]), found


def _projected(index: Sequence[tf.Tensor], transforms: tf.Tensor) -> list[tf.Tensor]:
    """The positions at which pixels are sampled, as in TensorFlow's `ImageProjectiveTransformV3`: columns first."""
    row, column = index
    a, b, c, d, e, f, g, h = (transforms[:, k, None, None] for k in range(8))
    depth = g * column + h * row + 1
    return [(d * column + e * row + f) / depth, (a * column + b * row + c) / depth]


def _inverse(transforms: tf.Tensor) -> tf.Tensor:
    last = tf.ones_like(transforms[:, :1])
    inverse = tf.reshape(tf.linalg.inv(tf.reshape(tf.concat([transforms, last], 1), [-1, 3, 3])), [-1, 9])
    return inverse[:, :8] / inverse[:, 8:]


@register_lowering(RandomRotation3D, RandomTranslation3D, RandomZoom3D)
@in_training
def affine_3d(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    matrices = _with_images(trace, layer.draw(x.shape[0], x.shape[1:-1]), x)
    x = whole(trace, x, [x.ndim - 1])
    return sampled(
        trace,
        x,
        x.axes,
        layer.positions,
        [matrices],
        linear=layer.interpolation == "trilinear",
        fill_mode=layer.fill_mode,
        fill_value=layer.fill_value,
        name=layer.name,
    )


@register_lowering(layers.RandomCrop)
@in_either_format
def random_crop(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    x = trace.cast(x, layer.compute_dtype)
    sizes = (layer.height, layer.width)
    if not trace.training:
        # Outside training, Keras's layer does not crop.
        return x
    if all(n > size for n, size in zip(x.shape[1:3], sizes, strict=True)):
        return _cropped_at(trace, x, sizes, lambda: tf.stack(_draw_crop(layer, x)), layer.name)
    starts = _draw_crop(layer, x)
    kept = [min(wanted, n - start) for wanted, n, start in zip(sizes, x.shape[1:3], starts, strict=True)]
    return resized(trace, cropped(trace, x, starts, kept), sizes, "bilinear")


def _draw_crop(layer, x: SpatialTensor):
    """The first row and column that Keras keeps of images like `x`; they are tensors if they are random."""
    shape = x.shape if layer.data_format == "channels_last" else (x.shape[0], x.shape[-1], *x.shape[1:-1])
    return layer.get_random_transformation(tf.zeros(shape, x.dtype), training=True)


@register_lowering(RandomCrop3D)
def random_crop_3d(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    x = trace.cast(x, layer.compute_dtype)
    starts = layer.starts(x.shape)
    if trace.training:
        return _cropped_at(trace, x, layer.size, lambda: layer.draw(x.shape), layer.name)
    return cropped(trace, x, starts, layer.size)


def _cropped_at(
    trace: Trace, x: SpatialTensor, sizes: Sequence[int], draw: Callable[[], tf.Tensor], name: str
) -> SpatialTensor:
    """Crop images to `sizes`, starting at the voxel that `draw` computes (int32) when a step runs."""
    image = [sized_axis(trace, axis, n) for axis, n in zip(x.image_axes, sizes, strict=True)]
    starts = trace.constant(tf.zeros([len(sizes)], tf.int32) if trace.planning else draw(), name="starts")

    def moved(index: Sequence[tf.Tensor], starts: tf.Tensor) -> list[tf.Tensor]:
        return [i + tf.cast(start, i.dtype) for i, start in zip(index, tf.unstack(starts), strict=True)]

    return sampled(trace, x, (x.axes[0], *image, x.axes[-1]), moved, [starts], linear=False, name=name)


# Random numbers of layers.


def _draw(layer, trace: Trace, x: SpatialTensor) -> tuple[Any, list[SpatialTensor]]:
    """The transformation that a layer draws from its seed for images like `x`, and the tensors in it.

    The numbers for each image are on the devices that hold the image.
    """
    # Keras's layers use only the shape; the tensor itself is never computed.
    images = tf.zeros(x.shape, x.dtype)
    transformation = layer.get_random_transformation(images, training=trace.training)
    return transformation, [_with_images(trace, t, x) for t in tree.flatten(transformation) if tf.is_tensor(t)]


def _with_images(trace: Trace, drawn: tf.Tensor, x: SpatialTensor) -> SpatialTensor:
    """Put the numbers that were drawn for each image on the devices that hold it."""
    operand, batch = as_operand(trace, drawn), x.axes[0]
    of_images = operand.ndim > 0 and operand.shape[0] == batch.size and batch.sharded
    return trace.reshard(operand, (batch, *operand.axes[1:])) if of_images else operand


def _by_drawn(layer, trace: Trace, transformation: Any) -> Callable[..., tf.Tensor]:
    """The transform of a layer, as a function of images and of the tensors that the layer drew."""

    def transform(images: tf.Tensor, *drawn: tf.Tensor) -> tf.Tensor:
        values = iter(drawn)
        local = tree.map_structure(lambda t: next(values) if tf.is_tensor(t) else t, transformation)
        return tf.cast(layer.transform_images(images, local, training=trace.training), layer.compute_dtype)

    return transform


class _Substituted:
    """An object with some attributes replaced; all others are those of the original."""

    def __init__(self, original: Any, **replaced: Any):
        self.__dict__.update(replaced, _original=original)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


def _changed(layer, **replaced: Any):
    """A copy of a layer with some attributes replaced; it shares all others with the original."""
    changed = object.__new__(type(layer))
    changed.__dict__.update(layer.__dict__, **replaced)
    return changed
