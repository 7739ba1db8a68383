"""Cropping, padding, up-sampling and resizing of images, and flattening, reshaping and permuting of tensors."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import tensorflow as tf
from keras import layers, ops

from keras_spatial.engine.edges import Edge, Intervals
from keras_spatial.engine.halo import Halo
from keras_spatial.engine.local import LocalOperation
from keras_spatial.engine.reshard import aligned, mapped, permuted, selected, shifted, shifted_along
from keras_spatial.engine.tensors import SpatialTensor, mesh_shape_of
from keras_spatial.engine.trace import Trace
from keras_spatial.layout import Axis
from keras_spatial.rules.formats import in_either_format
from keras_spatial.rules.padding import adds_padding
from keras_spatial.rules.table import register_lowering
from keras_spatial.runtimes.functions import static_sizes


@register_lowering(layers.ZeroPadding2D, layers.ZeroPadding3D)
@adds_padding
@in_either_format
def zero_padding(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return _padded(trace, x, layer.padding)


@register_lowering(layers.ZeroPadding1D)
@adds_padding
def zero_padding_1d(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return _padded(trace, x, [layer.padding])


@register_lowering(layers.Cropping2D, layers.Cropping3D)
@in_either_format
def cropping(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return _padded(trace, x, [(-before, -after) for before, after in layer.cropping])


@register_lowering(layers.Cropping1D)
def cropping_1d(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return _padded(trace, x, [[-n for n in layer.cropping]])


def _padded(trace: Trace, x: SpatialTensor, padding: Sequence[Sequence[int]]) -> SpatialTensor:
    """Add zeros before and after the image axes, or crop them where a number is negative."""
    return shifted_along(
        trace,
        x,
        {
            i: (sized_axis(trace, x.axes[i], x.axes[i].size + before + after), before)
            for i, (before, after) in enumerate(padding, start=1)
            if before or after
        },
    )


def sized_axis(trace: Trace, axis: Axis, size: int) -> Axis:
    """The axis with another size at the same voxel spacing; it keeps its shards, so that it aligns with other tensors.

    Raises:
        ValueError: if the new size is not positive.
    """
    if size < 1:
        raise ValueError(f"Nothing is left of axis '{axis.name}'. Received: size {axis.size}, to become {size}")
    return replace(axis, size=size) if 2 * size >= axis.size >= max(size, 3) else trace.recut(axis, size)


def scaled_axis(trace: Trace, axis: Axis, size: int) -> Axis:
    """The axis with another size at another voxel spacing."""
    if size % axis.size == 0:
        return axis.resized(size, up=size // axis.size)
    if axis.size % size == 0 and axis.size <= 16 * size:
        return axis.resized(size, down=axis.size // size)
    return trace.recut(axis, size)


@register_lowering(layers.UpSampling2D)
@in_either_format
def up_sampling_2d(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    if layer.interpolation == "nearest":
        return repeated(trace, x, layer.size, layer.name)
    sizes = [axis.size * factor for axis, factor in zip(x.image_axes, layer.size, strict=True)]
    return resized(trace, x, sizes, layer.interpolation)


@register_lowering(layers.UpSampling1D)
def up_sampling_1d(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return repeated(trace, x, [layer.size], layer.name)


@register_lowering(layers.UpSampling3D)
@in_either_format
def up_sampling_3d(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return repeated(trace, x, layer.size, layer.name)


def repeated(trace: Trace, x: SpatialTensor, factors: Sequence[int], name: str) -> SpatialTensor:
    """Repeat every voxel along each image axis, by the axis's factor."""
    image = [axis.resized(axis.size * f, up=f) for axis, f in zip(x.image_axes, factors, strict=True)]

    def repeat(t: tf.Tensor) -> tf.Tensor:
        for i, factor in enumerate(factors, start=1):
            t = ops.repeat(t, factor, axis=i) if factor > 1 else t
        return t

    return trace.reduced(repeat, [x], (x.axes[0], *image, x.axes[-1]), name=name)


def resized(
    trace: Trace, x: SpatialTensor, sizes: Sequence[int], interpolation: str, antialias: bool = False
) -> SpatialTensor:
    """`keras.ops.image.resize` of the image axes, one axis after another; enlarging by whole factors, all at once."""
    image = x.axes[1:-1]
    even = all(size % axis.size == 0 and not axis.padded for axis, size in zip(image, sizes, strict=True))
    # TensorFlow computes what it resizes in float32. XLA has no gradient of it.
    exact = x.dtype.is_floating and x.dtype.size <= 4 and trace.impl.resizes
    if interpolation == "bilinear" and len(image) == 2 and even and exact and not antialias:
        return _enlarged(trace, x, [size // axis.size for axis, size in zip(image, sizes, strict=True)])
    for i, size in enumerate(sizes, start=1):
        if size != x.axes[i].size:
            matrix = resizing_matrix(x.axes[i].size, size, interpolation, antialias)
            x = mapped(trace, x, i, scaled_axis(trace, x.axes[i], size), matrix)
    return x


def _enlarged(trace: Trace, x: SpatialTensor, factors: Sequence[int]) -> SpatialTensor:
    """An image with two axes, enlarged by whole factors with linear interpolation; its shards are not padded."""
    image = [axis.resized(axis.size * f, up=f) for axis, f in zip(x.image_axes, factors, strict=True)]
    axes = (x.axes[0], *image, x.axes[-1])
    split = [i for i, factor in enumerate(factors, start=1) if x.axes[i].sharded and factor > 1]

    def enlarge(intervals: Intervals, shard: tf.Tensor) -> tuple[tf.Tensor, ...]:
        # Where the image ends, the shard has no halo, so that TensorFlow repeats its last voxel as Keras does.
        sizes = [n * factor for n, factor in zip(static_sizes(shard.shape)[1:3], factors, strict=True)]
        y = tf.cast(tf.image.resize(shard, sizes), shard.dtype)
        begin = [0, 0, 0, 0]
        for i, (low, _) in zip(split, intervals, strict=True):
            begin[i] = (1 - low) * factors[i - 1]
        return (tf.slice(y, begin, [axis.length for axis in axes]),)

    operation = LocalOperation(
        enlarge,
        [x.value],
        [(mesh_shape_of(axes), x.dtype)],
        halos=[Halo(i, trace.mesh_axis(x.axes[i]), 1, 1) for i in split],
        edges=[Edge(0, i, trace.mesh_axis(x.axes[i]), x.axes[i].length, x.axes[i].size, 1, 1) for i in split],
        sees_intervals=True,
        name="resized",
    )
    return SpatialTensor(operation.outputs[0], axes)


def resizing_matrix(size: int, new_size: int, interpolation: str, antialias: bool = False) -> np.ndarray:
    """The matrix `(new_size, size)` of TensorFlow's resizing along one axis, found by resizing the unit vectors."""
    with tf.init_scope():
        unit_vectors = tf.eye(size)[None, :, None, :]
        return ops.image.resize(
            unit_vectors, (new_size, 1), interpolation=interpolation, antialias=antialias, data_format="channels_last"
        ).numpy()[0, :, 0, :]


@register_lowering(layers.Permute)
def permute(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return permuted(trace, x, (0, *layer.dims))


@register_lowering(layers.Flatten)
def flatten(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    if layer.data_format == "channels_first" and x.ndim > 1:
        x = permuted(trace, x, (0, *range(2, x.ndim), 1))
    return reshaped(trace, x, (x.shape[0], int(np.prod(x.shape[1:], dtype="int64"))))


@register_lowering(layers.Reshape)
def reshape(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return reshaped(trace, x, layer.compute_output_shape(x.shape))


@register_lowering(layers.RepeatVector)
def repeat_vector(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    axes = (x.axes[0], Axis("repeats", layer.n), x.axes[1])
    return trace.reduced(lambda t: tf.repeat(t[:, None], layer.n, axis=1), [x], axes, name=layer.name)


def reshaped(trace: Trace, x: SpatialTensor, shape: Sequence[int]) -> SpatialTensor:
    """Reshape a tensor: the same elements in the same order.

    Leading axes that do not change keep their shards; the sharded ones among the other axes are gathered.

    Raises:
        ValueError: if the shapes do not have the same number of elements.
    """
    shape = tuple(int(n) for n in shape)
    kept = 0
    while kept < min(x.ndim, len(shape)) and x.shape[kept] == shape[kept]:
        kept += 1
    if int(np.prod(x.shape[kept:], dtype="int64")) != int(np.prod(shape[kept:], dtype="int64")):
        raise ValueError(f"A tensor of shape {x.shape} cannot be reshaped to {shape}.")
    x = trace.whole(x, range(kept, x.ndim))
    axes = (*x.axes[:kept], *(Axis(f"axis{i}", n) for i, n in enumerate(shape[kept:], start=kept)))
    lengths = [axis.length for axis in axes]
    return trace.reduced(lambda t: tf.reshape(t, lengths), [x], axes, name="reshaped")


def concatenated(trace: Trace, tensors: Sequence[SpatialTensor], axis: int, name: str) -> SpatialTensor:
    """Concatenate tensors along any axis. Along a sharded axis, each is shifted to its place, and they are added."""
    axis %= tensors[0].ndim
    split = next((x.axes[axis] for x in tensors if x.axes[axis].sharded), None)
    size = sum(x.shape[axis] for x in tensors)
    if split is None:
        others = aligned(trace, tensors, but=axis - tensors[0].ndim)
        axes = list(others[0].axes)
        axes[axis] = Axis(axes[axis].name, size)
        outputs = [(tuple(axes), others[0].dtype)]
        last = axis == len(axes) - 1
        return trace.local(lambda *ts: tf.concat(ts, axis), others, outputs, concatenates=last, name=name)[0]
    target = trace.recut(split, size)
    start, moved = 0, []
    for x in tensors:
        moved.append(shifted(trace, x, axis, target, start))
        start += x.shape[axis]
    return trace.pointwise(lambda *ts: tf.add_n(ts), aligned(trace, moved), name=name)


def sliced(trace: Trace, x: SpatialTensor, i: int, index: Sequence[int] | np.ndarray) -> SpatialTensor:
    """Take the elements `index` of one axis, in that order."""
    places = np.asarray(index)
    size, old = len(places), x.axes[i]
    step = int(places[1] - places[0]) if size > 1 else 1
    regular = size > 1 and step > 1 and bool(np.all(np.diff(places) == step)) and -(-old.size // step) == size
    axis = old.resized(size, down=step) if regular else sized_axis(trace, old, size)
    return selected(trace, x, i, axis, places)
