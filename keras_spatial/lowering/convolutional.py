"""Convolutions of every kind: halo exchange, then Keras's own convolution without padding."""

import math
from collections.abc import Callable, Sequence
from typing import cast

import keras
import tensorflow as tf
from keras import layers, ops

from keras_spatial.lowering.formats import in_either_format
from keras_spatial.lowering.pointwise import apply_activation
from keras_spatial.lowering.table import register_lowering
from keras_spatial.lowering.tensors import Axis, SpatialTensor
from keras_spatial.lowering.trace import Trace
from keras_spatial.lowering.weights import kernel_value, kernel_variables
from keras_spatial.lowering.windows import TransposedWindow, Window
from keras_spatial.mtf.halo import take
from keras_spatial.mtf.shared import static_sizes

# Bytes of a tensor on each device, from which on it is better not stored than computed by fewer operations.
LARGE = 8 << 20


def per_axis(value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    """Keras's `strides=2` or `strides=(2, 2, 1)`, as one number per image axis."""
    return (value,) * rank if isinstance(value, int) else tuple(value)


def windowed_axes(x: SpatialTensor, windows: Sequence[Window], padding: str) -> tuple[Axis, ...]:
    """Image axes after a convolution or pooling.

    Raises:
        ValueError: if a window does not fit into the image.
    """
    axes = []
    for axis, window in zip(x.image_axes, windows, strict=True):
        size = window.output_size(axis.size, padding)
        if size < 1:
            raise ValueError(
                f"A window of {window.extent} voxels does not fit into axis '{axis.name}' of {axis.size} voxels. "
                f"Received: input shape {x.shape}, padding='{padding}'"
            )
        axes.append(axis.resized(size, down=window.stride))
    return tuple(axes)


def window_margins(x: SpatialTensor, windows: Sequence[Window], padding: str) -> dict[int, tuple[int, int]]:
    """Elements that a convolution or pooling reads below and above each block, by tensor axis."""
    margins = {}
    for i, (axis, window) in enumerate(zip(x.image_axes, windows, strict=True), start=1):
        before = window.padding_before(axis.size, padding)
        if axis.split:
            margins[i] = window.margins(before)
        else:
            needed = (window.output_size(axis.size, padding) - 1) * window.stride + window.extent
            margins[i] = before, max(needed - axis.size - before, 0)
    return margins


@register_lowering(layers.Conv1D, layers.Conv2D, layers.Conv3D)
@in_either_format
def convolution(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    def convolve(padding: str, block: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return ops.conv(block, kernel, layer.strides, padding, "channels_last", layer.dilation_rate)

    sums = layer.groups == 1 and not layer.lora_enabled
    return _convolve(layer, trace, x, convolve, kernel_variables(layer), layer.filters, sums=sums)


@register_lowering(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
@in_either_format
def depthwise_convolution(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    def convolve(padding: str, block: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return ops.depthwise_conv(block, kernel, layer.strides, padding, "channels_last", layer.dilation_rate)

    return _convolve(layer, trace, x, convolve, [layer.kernel], layer.depth_multiplier * x.shape[-1])


@register_lowering(layers.SeparableConv1D, layers.SeparableConv2D)
@in_either_format
def separable_convolution(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    def convolve(padding: str, block: tf.Tensor, depthwise: tf.Tensor, pointwise: tf.Tensor) -> tf.Tensor:
        return ops.separable_conv(
            block, depthwise, pointwise, layer.strides, padding, "channels_last", layer.dilation_rate
        )

    kernels = [layer.depthwise_kernel, layer.pointwise_kernel]
    return _convolve(layer, trace, x, convolve, kernels, layer.filters)


def _windows(layer) -> list[Window]:
    sizes = per_axis(layer.kernel_size, layer.rank)
    strides = per_axis(layer.strides, layer.rank)
    dilations = per_axis(layer.dilation_rate, layer.rank)
    return [Window(*numbers) for numbers in zip(sizes, strides, dilations, strict=True)]


def _convolve(
    layer,
    trace: Trace,
    x: SpatialTensor,
    convolve: Callable[..., tf.Tensor],
    variables: Sequence[keras.Variable],
    channels: int,
    *,
    sums: bool = False,
) -> SpatialTensor:
    """`convolve` takes the padding, a tensor and the kernels, of which the first spans the image axes.

    If it sums over all channels (`sums`), a concatenation is convolved part by part, and never stored itself.
    """
    parts = [trace.cast(part, layer.compute_dtype) for part in x.parts if sums and _large(x)]
    x = trace.cast(x, layer.compute_dtype)
    windows = _windows(layer)
    margins = window_margins(x, windows, layer.padding)
    axes = (x.axes[0], *windowed_axes(x, windows, layer.padding), Axis("channels", channels))

    def kernels_of(values: Sequence[tf.Tensor], dtype: tf.DType) -> list[tf.Tensor]:
        if getattr(layer, "lora_enabled", False):
            return [kernel_value(layer, values, dtype)]
        return [tf.cast(value, dtype) for value in values]

    def of_channels(start: int, padding: str):
        def on_block(block: tf.Tensor, *values: tf.Tensor) -> tf.Tensor:
            kernel, *others = kernels_of(values, block.dtype)
            if sums:
                kernel = take(kernel, layer.rank, start, static_sizes(block.shape)[-1])
            return convolve(padding, block, kernel, *others)

        return on_block

    def with_part(y: SpatialTensor | None, part: SpatialTensor, start: int) -> SpatialTensor:
        return trace.windowed(
            of_channels(start, "valid"),
            part,
            margins,
            axes,
            weights=variables,
            native=of_channels(start, layer.padding) if layer.padding != "causal" else None,
            plus=y,
            name=layer.name,
        )

    first, *rest = parts or [x]
    y, start = with_part(None, first, 0), first.shape[-1]
    for part in rest:
        y, start = with_part(y, part, start), start + part.shape[-1]
    return _bias_and_activation(layer, trace, y)


def _large(x: SpatialTensor) -> bool:
    return math.prod(axis.length for axis in x.axes) * x.dtype.size >= LARGE


@register_lowering(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
@in_either_format
def transposed_convolution(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    x = trace.cast(x, layer.compute_dtype)
    rank = layer.rank
    numbers = zip(
        per_axis(layer.kernel_size, rank),
        per_axis(layer.strides, rank),
        per_axis(layer.dilation_rate, rank),
        strict=True,
    )
    windows = [TransposedWindow(*n) for n in numbers]
    strides = per_axis(layer.strides, rank)
    surplus = layer.output_padding
    surplus = (None,) * rank if surplus is None else per_axis(surplus, rank)

    image_axes, margins, starts = [], {}, {}
    for i, (axis, window, extra) in enumerate(zip(x.image_axes, windows, surplus, strict=True), start=1):
        crop = window.crop_before(axis.size, layer.padding, extra)
        image_axes.append(axis.resized(window.output_size(axis.size, layer.padding, extra), up=window.stride))
        margins[i] = window.margins(crop) if axis.split else (0, 0)
        starts[i] = crop + margins[i][0] * window.stride
    axes = (x.axes[0], *image_axes, Axis("channels", layer.filters))

    def spread(block: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        kernel = _at_least(strides, _cast(kernel, block))
        y = ops.conv_transpose(block, kernel, layer.strides, "valid", None, "channels_last", layer.dilation_rate)
        for i, start in starts.items():
            missing = max(start + axes[i].length - y.shape[i], 0)
            if missing:
                y = tf.pad(y, [(0, missing if j == i else 0) for j in range(x.ndim)])
            y = take(y, i, start, axes[i].length)
        return y

    def native(block: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return ops.conv_transpose(
            block,
            _at_least(strides, _cast(kernel, block)),
            list(layer.strides),
            layer.padding,
            layer.output_padding,
            "channels_last",
            layer.dilation_rate,
        )

    # Without margins and with nothing cut off, blocks of the image are transposed each for itself, without a copy.
    separate = all(not any(margins[i]) for i in margins) and all(
        not axis.split or (window.extent <= window.stride and not starts[i])
        for i, (axis, window) in enumerate(zip(x.image_axes, windows, strict=True), start=1)
    )
    if separate and not any(axis.padded for axis in x.image_axes):
        y = trace.reduced(native, [x], axes, weights=[layer.kernel], name=layer.name)
    else:
        y = trace.windowed(spread, x, margins, axes, weights=[layer.kernel], native=native, name=layer.name)
    return _bias_and_activation(layer, trace, y)


def _bias_and_activation(layer, trace: Trace, y: SpatialTensor) -> SpatialTensor:
    if layer.use_bias:
        y = trace.pointwise(
            lambda t, bias: tf.nn.bias_add(t, _cast(bias, t)),
            [y],
            weights=[layer.bias],
            linear=True,
            name=f"{layer.name}_bias",
        )
    return apply_activation(trace, layer.activation, y)


def _at_least(sizes: Sequence[int], kernel: tf.Tensor) -> tf.Tensor:
    """A transposed convolution's kernel, with zeros up to some sizes: what it computes stays the same.

    TensorFlow 2.21 with oneDNN corrupts memory where a kernel is smaller than its stride.
    """
    lacking = [max(size - n, 0) for size, n in zip(sizes, cast(list[int], kernel.shape.as_list()), strict=False)]
    return tf.pad(kernel, [*((0, n) for n in lacking), (0, 0), (0, 0)]) if any(lacking) else kernel


def _cast(weight: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    return tf.cast(weight, like.dtype)
