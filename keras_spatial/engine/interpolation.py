"""Images sampled at positions between their voxels, from the whole image or from a part of it.

Linear interpolation is a sum over the neighbouring voxels. So each part of an image contributes the terms of its own
voxels, and the sum over the parts is the interpolated image: no device needs all of it.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import tensorflow as tf

from keras_spatial.runtimes.functions import static_sizes

FILL_MODES = ("constant", "nearest", "reflect", "wrap")


@dataclass(frozen=True)
class Part:
    """A part of an image: a range of elements along one axis.

    Attributes:
        axis: the index of the tensor's axis.
        start: the index of the part's first element in the image.
        size: the number of elements of the whole image along the axis.
    """

    axis: int
    start: tf.Tensor | int
    size: int


def interpolated(
    images: tf.Tensor,
    positions: Sequence[tf.Tensor],
    *,
    linear: bool = True,
    fill_mode: str = "constant",
    part: Part | None = None,
) -> tf.Tensor:
    """Sample images at some positions, or compute what a part of the images contributes to the samples.

    Positions outside the image, and the way they are rounded, follow TensorFlow's `ImageProjectiveTransformV3`, which
    Keras's augmentation uses for images with two axes.

    Args:
        images: the images, of shape `[batch, *image, channels]`.
        positions: for each image axis, float32 positions of shape `[batch, *result]`, in voxels of the whole image.
        linear: whether to interpolate linearly between voxels; otherwise the nearest voxel is taken.
        fill_mode: the values beyond the image: `"constant"` is 0, `"nearest"` the outermost voxel, `"reflect"` the
            mirrored image (`d c b a | a b c d`), `"wrap"` the repeated image.
        part: the part of the image that `images` holds; by default all of it.

    Returns:
        A tensor of shape `[batch, *result, channels]` and of the images' dtype.

    Raises:
        ValueError: if `fill_mode` is unknown.
    """
    _, *lengths, channels = static_sizes(images.shape)
    corners = []
    for axis, (position, length) in enumerate(zip(positions, lengths, strict=True), start=1):
        size, start = (part.size, part.start) if part is not None and part.axis == axis else (length, 0)
        places = _neighbours(_inside(position, size, fill_mode), linear)
        corners.append([_known(place, weight, size, start, length) for place, weight in places])
    flat = tf.reshape(images, [-1, math.prod(lengths), channels])

    def contribution(corner: Sequence[tuple[tf.Tensor, tf.Tensor]]) -> tf.Tensor:
        index, weight = corner[0]
        for (more, factor), length in zip(corner[1:], lengths[1:], strict=True):
            index, weight = index * length + more, weight * factor
        # A voxel that the part does not have counts as 0, even if the voxel that is read in its place is not a number.
        found = tf.gather(flat, index, batch_dims=1)
        return tf.math.multiply_no_nan(found, tf.expand_dims(tf.cast(weight, images.dtype), -1))

    return functools.reduce(tf.add, map(contribution, itertools.product(*corners)))


def outside(positions: Sequence[tf.Tensor], sizes: Sequence[int], *, linear: bool = True) -> tf.Tensor:
    """The fraction, from 0 to 1 in float32, of the samples at some positions that does not come from the image."""
    inside = tf.ones([])
    for position, size in zip(positions, sizes, strict=True):
        places = _neighbours(position, linear)
        inside *= tf.add_n([_known(place, weight, size, 0, size)[1] for place, weight in places])
    return 1 - inside


def _neighbours(position: tf.Tensor, linear: bool) -> list[tuple[tf.Tensor, tf.Tensor]]:
    """The voxels next to a position, with their weights."""
    if linear:
        below = tf.floor(position)
        return [(below, below + 1 - position), (below + 1, position - below)]
    whole = tf.cast(tf.cast(position, tf.int32), position.dtype)
    # Halves are rounded away from zero, unlike in `tf.round`, which rounds them to the even neighbour.
    half = tf.abs(position - whole) == 0.5
    nearest = tf.where(half, whole + tf.sign(position), tf.round(position))
    return [(nearest, tf.ones_like(position))]


def _known(place: tf.Tensor, weight: tf.Tensor, size: int, start: tf.Tensor | int, length: int):
    """A voxel's index in a part of an axis, and its weight, which is 0 if the part does not have the voxel."""
    known = (place >= 0) & (place < size)
    index = tf.cast(tf.clip_by_value(place, 0, size - 1), tf.int32) - start
    known &= (index >= 0) & (index < length)
    return tf.clip_by_value(index, 0, length - 1), tf.where(known, weight, 0)


def _inside(position: tf.Tensor, size: int, fill_mode: str) -> tf.Tensor:
    """Map positions beyond an axis back into it, as TensorFlow's `ImageProjectiveTransformV3` does."""
    if fill_mode == "constant":
        return position
    if fill_mode == "nearest":
        return tf.clip_by_value(position, 0, size - 1)
    if fill_mode not in FILL_MODES:
        raise ValueError(f"fill_mode: expected one of {FILL_MODES}. Received: {fill_mode!r}")
    if size == 1:
        return tf.zeros_like(position)

    def times(count: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.cast(count, tf.int32), position.dtype)

    if fill_mode == "wrap":
        period = size - 1
        below = position + size * (times(-position / period) + 1)
        above = position - size * times(position / period)
    else:
        period = 2 * size
        below = position + period * times(-position / period)
        below = tf.where(below < -size, below + period, -below - 1)
        above = position - period * times(position / period)
        above = tf.where(above >= size, period - above - 1, above)
    position = tf.where(position < 0, below, tf.where(position > size - 1, above, position))
    return tf.clip_by_value(position, 0, size - 1)
