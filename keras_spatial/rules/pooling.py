"""Pooling: local, global and adaptive."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from keras import layers, ops

from keras_spatial.engine.reshard import mapped, windows_along
from keras_spatial.engine.sums import summed
from keras_spatial.engine.tensors import SpatialTensor
from keras_spatial.engine.trace import Trace
from keras_spatial.layout import Axis, Padding, Window
from keras_spatial.rules.convolution import per_axis, window_halo, windowed_axes
from keras_spatial.rules.formats import in_either_format
from keras_spatial.rules.padding import takes_padding
from keras_spatial.rules.table import register_lowering


@dataclass(frozen=True)
class Pooling:
    """A maximum or an average over windows, for a layer or for `keras.ops`.

    Attributes:
        size, strides: the numbers of elements along each image axis.
        padding: `"same"`, `"valid"`, or padding around the image that counts as voxels.
    """

    size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: str | Padding

    @property
    def windows(self) -> list[Window]:
        return [Window(*n) for n in zip(self.size, self.strides, strict=True)]

    @classmethod
    def of(cls, source: Any, rank: int, padding: Padding | None = None) -> "Pooling":
        """The pooling of a layer or an operation; strides that an operation leaves open are the sizes of its window."""
        strides = source.pool_size if source.strides is None else source.strides
        around: str | Padding = source.padding if padding is None else padding
        return cls(per_axis(source.pool_size, rank), per_axis(strides, rank), around)


@register_lowering(layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D)
@takes_padding
@in_either_format
def max_pooling(layer, trace: Trace, x: SpatialTensor, padding: Padding | None = None) -> SpatialTensor:
    return maxima(trace, x, Pooling.of(layer, x.ndim - 2, padding), layer.name)


def maxima(trace: Trace, x: SpatialTensor, pooling: Pooling, name: str) -> SpatialTensor:
    """Exchange halos, then take the maximum of each window; beyond the image and its padding is the lowest number.

    The backward pass pools again, because TensorFlow takes oneDNN's gradient only with the pooling in one function. Its
    own took 15 times as long (36 ms against 2.4 ms for 33³ voxels with 16 channels on one core).
    """

    def pool(padding: str):
        return lambda shard: ops.max_pool(shard, pooling.size, pooling.strides, padding, "channels_last")

    axes, halo = _pooled(x, pooling)
    if _separate(x, pooling, halo):
        return trace.reduced(pool("valid"), [x], axes, name=name)
    padding = pooling.padding
    fill, native = (x.dtype.min, pool(padding)) if isinstance(padding, str) else (padding.fill, None)
    return trace.windowed(pool("valid"), x, halo, axes, fill=fill, native=native, name=name)


@register_lowering(layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D)
@takes_padding
@in_either_format
def average_pooling(layer, trace: Trace, x: SpatialTensor, padding: Padding | None = None) -> SpatialTensor:
    return averages(trace, x, Pooling.of(layer, x.ndim - 2, padding), layer.name)


def averages(trace: Trace, x: SpatialTensor, pooling: Pooling, name: str) -> SpatialTensor:
    """Exchange halos, then average the part of each window that lies inside the image."""

    def pool(padding: str):
        return lambda shard: ops.average_pool(shard, pooling.size, pooling.strides, padding, "channels_last")

    axes, halo = _pooled(x, pooling)
    if _separate(x, pooling, halo):
        return trace.reduced(pool("valid"), [x], axes, name=name)
    padding = pooling.padding
    fill, native = (0.0, pool(padding)) if isinstance(padding, str) else (padding.fill, None)
    y = trace.windowed(pool("valid"), x, halo, axes, fill=fill, native=native, name=name)
    split = any(x.axes[i].sharded for i in halo)
    if padding != "same" or not split:
        return y
    # A window that reaches beyond the image is averaged over the voxels inside, so undo the division by the whole
    # window.
    for i, (window, axis) in enumerate(zip(pooling.windows, x.image_axes, strict=True), start=1):
        correction = _inverse_share_inside(window, axis.size, y.axes[i].shards * y.axes[i].length)
        share = trace.image_constant(tf.cast(correction, y.dtype), i, y)
        y = trace.pointwise(lambda t, s: t * s, [y, share], name=f"{name}_edges")
    return y


def _pooled(x: SpatialTensor, pooling: Pooling) -> tuple[tuple[Axis, ...], dict[int, tuple[int, int]]]:
    """The result's axes, and the elements that the windows read around each shard."""
    axes = (x.axes[0], *windowed_axes(x, pooling.windows, pooling.padding), x.axes[-1])
    return axes, window_halo(x, pooling.windows, pooling.padding)


def _inverse_share_inside(window: Window, size: int, outputs: int) -> list[float]:
    """For each output along one axis, the window's size over the number of its taps that lie inside the image."""
    before = window.padding_before(size, "same")
    starts = [output * window.stride - before for output in range(outputs)]
    inside = [min(start + window.size, size) - max(start, 0) for start in starts]
    return [window.size / max(count, 1) for count in inside]


def _separate(x: SpatialTensor, pooling: Pooling, halo: dict[int, tuple[int, int]]) -> bool:
    """Whether every window lies within one shard and the image, so that shards can be pooled as they are."""
    # With padding, windows may begin outside the image.
    begin_inside = isinstance(pooling.padding, str)
    return all(
        not any(halo[i])
        and (not axis.padded or (begin_inside and axis.size % window.stride == 0 and window.size <= window.stride))
        for i, (axis, window) in enumerate(zip(x.image_axes, pooling.windows, strict=True), start=1)
    )


@register_lowering(layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D)
@in_either_format
def global_average_pooling(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    image = list(range(1, x.ndim - 1))
    voxels = 1
    for axis in x.image_axes:
        voxels *= axis.size
    axes = _pooled_axes(layer, x)

    def total(t: tf.Tensor) -> tf.Tensor:
        return summed(t, image, keepdims=layer.keepdims) / tf.cast(voxels, t.dtype)

    return trace.reduced(total, [x], axes, name=layer.name)


@register_lowering(layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D)
@in_either_format
def global_max_pooling(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return trace.maximum(x, _pooled_axes(layer, x), keepdims=layer.keepdims, name=layer.name)


def _pooled_axes(layer, x: SpatialTensor):
    kept = [axis.whole(1) for axis in x.image_axes] if layer.keepdims else []
    return (x.axes[0], *kept, x.axes[-1])


@register_lowering(layers.AdaptiveAveragePooling1D, layers.AdaptiveAveragePooling2D, layers.AdaptiveAveragePooling3D)
@in_either_format
def adaptive_average_pooling(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return adaptive_averages(trace, x, layer.output_size)


def adaptive_averages(trace: Trace, x: SpatialTensor, sizes: Sequence[int]) -> SpatialTensor:
    """Averages over as many regions along each image axis as `sizes` says."""
    for i, size in enumerate(sizes, start=1):
        x = mapped(trace, x, i, _region_axis(trace, x.axes[i], size), region_matrix(x.axes[i].size, size))
    return x


@register_lowering(layers.AdaptiveMaxPooling1D, layers.AdaptiveMaxPooling2D, layers.AdaptiveMaxPooling3D)
@in_either_format
def adaptive_max_pooling(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return adaptive_maxima(trace, x, layer.output_size)


def adaptive_maxima(trace: Trace, x: SpatialTensor, sizes: Sequence[int]) -> SpatialTensor:
    """Maxima over as many regions along each image axis as `sizes` says."""
    for i, size in enumerate(sizes, start=1):
        regions = [np.nonzero(row)[0] for row in region_matrix(x.axes[i].size, size)]
        longest = max(len(region) for region in regions)
        index = np.stack([np.pad(region, (0, longest - len(region)), mode="edge") for region in regions])
        axis = _region_axis(trace, x.axes[i], size)
        x = windows_along(trace, x, i, axis, index, lambda t, i=i: tf.reduce_max(t, i + 1))
    return x


def _region_axis(trace: Trace, axis: Axis, size: int) -> Axis:
    """Few regions are kept on every device; many are split."""
    return trace.recut(axis, size) if size >= 2 * axis.shards else axis.whole(size)


def region_matrix(size: int, regions: int) -> np.ndarray:
    """Keras's adaptive averaging along one axis, found by pooling the unit vectors: shape `(regions, size)`."""
    with tf.init_scope():
        return ops.adaptive_average_pool(
            tf.eye(size, dtype="float64")[None], regions, data_format="channels_last"
        ).numpy()[0]
