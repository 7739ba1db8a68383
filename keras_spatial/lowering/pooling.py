"""Pooling: local, global and adaptive."""

import numpy as np
import tensorflow as tf
from keras import layers, ops

from keras_spatial.lowering.convolutional import per_axis, window_margins, windowed_axes
from keras_spatial.lowering.formats import in_either_format
from keras_spatial.lowering.relayout import mapped, windows_along
from keras_spatial.lowering.table import register_lowering
from keras_spatial.lowering.tensors import Axis, SpatialTensor
from keras_spatial.lowering.trace import Trace
from keras_spatial.lowering.windows import Window


@register_lowering(layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D)
@in_either_format
def max_pooling(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    windows = _windows(layer, x)
    lowest = x.dtype.min

    def pool(padding: str):
        return lambda block: ops.max_pool(block, layer.pool_size, layer.strides, padding, "channels_last")

    axes = (x.axes[0], *windowed_axes(x, windows, layer.padding), x.axes[-1])
    margins = window_margins(x, windows, layer.padding)
    if _separate(x, windows, margins):
        return trace.reduced(pool("valid"), [x], axes, name=layer.name)
    return trace.windowed(pool("valid"), x, margins, axes, fill=lowest, native=pool(layer.padding), name=layer.name)


@register_lowering(layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D)
@in_either_format
def average_pooling(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    windows = _windows(layer, x)

    def pool(padding: str):
        return lambda block: ops.average_pool(block, layer.pool_size, layer.strides, padding, "channels_last")

    axes = (x.axes[0], *windowed_axes(x, windows, layer.padding), x.axes[-1])
    margins = window_margins(x, windows, layer.padding)
    if _separate(x, windows, margins):
        return trace.reduced(pool("valid"), [x], axes, name=layer.name)
    y = trace.windowed(pool("valid"), x, margins, axes, native=pool(layer.padding), name=layer.name)
    split = any(x.axes[i].split for i in margins)
    if layer.padding == "valid" or not split:
        return y
    # A window that reaches beyond the image is averaged over the voxels inside: undo the division by all of them.
    for i, (window, axis) in enumerate(zip(windows, x.image_axes, strict=True), start=1):
        correction = _inverse_share_inside(window, axis.size, y.axes[i].blocks * y.axes[i].length)
        share = trace.image_constant(tf.cast(correction, y.dtype), i, y)
        y = trace.pointwise(lambda t, s: t * s, [y, share], name=f"{layer.name}_edges")
    return y


def _inverse_share_inside(window: Window, size: int, outputs: int) -> list[float]:
    """For each output along one axis, the window's size over the number of its taps that lie inside the image."""
    before = window.padding_before(size, "same")
    starts = [output * window.stride - before for output in range(outputs)]
    inside = [min(start + window.size, size) - max(start, 0) for start in starts]
    return [window.size / max(count, 1) for count in inside]


def _windows(layer, x: SpatialTensor) -> list[Window]:
    rank = x.ndim - 2
    sizes, strides = per_axis(layer.pool_size, rank), per_axis(layer.strides, rank)
    return [Window(size, stride) for size, stride in zip(sizes, strides, strict=True)]


def _separate(x: SpatialTensor, windows: list[Window], margins: dict[int, tuple[int, int]]) -> bool:
    """Whether every window lies within one block and the image, so that blocks can be pooled as they are."""
    return all(
        not any(margins[i]) and (not axis.padded or (axis.size % window.stride == 0 and window.size <= window.stride))
        for i, (axis, window) in enumerate(zip(x.image_axes, windows, strict=True), start=1)
    )


@register_lowering(layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D)
@in_either_format
def global_average_pooling(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    image = list(range(1, x.ndim - 1))
    voxels = 1
    for axis in x.image_axes:
        voxels *= axis.size
    inside = trace.inside(x)
    axes = _pooled_axes(layer, x)

    def total(t: tf.Tensor, *mask: tf.Tensor) -> tf.Tensor:
        t = t if not mask else tf.where(tf.cast(mask[0], tf.bool), t, tf.zeros_like(t))
        return tf.reduce_sum(t, image, keepdims=layer.keepdims) / tf.cast(voxels, t.dtype)

    return trace.reduced(total, [x] if inside is None else [x, inside], axes, name=layer.name)


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
    for i, size in enumerate(layer.output_size, start=1):
        x = mapped(trace, x, i, _region_axis(trace, x.axes[i], size), region_matrix(x.axes[i].size, size))
    return x


@register_lowering(layers.AdaptiveMaxPooling1D, layers.AdaptiveMaxPooling2D, layers.AdaptiveMaxPooling3D)
@in_either_format
def adaptive_max_pooling(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    for i, size in enumerate(layer.output_size, start=1):
        regions = [np.nonzero(row)[0] for row in region_matrix(x.axes[i].size, size)]
        longest = max(len(region) for region in regions)
        index = np.stack([np.pad(region, (0, longest - len(region)), mode="edge") for region in regions])
        axis = _region_axis(trace, x.axes[i], size)
        x = windows_along(trace, x, i, axis, index, lambda t, i=i: tf.reduce_max(t, i + 1))
    return x


def _region_axis(trace: Trace, axis: Axis, size: int) -> Axis:
    """Few regions are kept on every device; many are split."""
    return trace.recut(axis, size) if size >= 2 * axis.blocks else axis.whole(size)


def region_matrix(size: int, regions: int) -> np.ndarray:
    """Keras's adaptive averaging along one axis, found by pooling the unit vectors: shape `(regions, size)`."""
    with tf.init_scope():
        return ops.adaptive_average_pool(tf.eye(size)[None], regions, data_format="channels_last").numpy()[0]
