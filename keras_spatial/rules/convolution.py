"""Convolutions of every kind: halo exchange, then Keras's own convolution without padding."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import keras
import tensorflow as tf
from keras import layers, ops

from keras_spatial.engine.halo import take
from keras_spatial.engine.sums import add_bias
from keras_spatial.engine.tensors import SpatialTensor
from keras_spatial.engine.trace import Trace
from keras_spatial.layout import Axis, Padding, TransposedWindow, Window
from keras_spatial.rules.formats import in_either_format
from keras_spatial.rules.padding import takes_padding
from keras_spatial.rules.pointwise import apply_activation
from keras_spatial.rules.table import register_lowering
from keras_spatial.rules.weights import kernel_value, kernel_variables
from keras_spatial.runtimes.functions import custom_gradient, static_sizes


def per_axis(value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    """Keras's `strides=2` or `strides=(2, 2, 1)`, as one number per image axis."""
    return (value,) * rank if isinstance(value, int) else tuple(value)


def _by_axis(padding: str | Padding, rank: int) -> Sequence[str | tuple[int, int]]:
    return [padding] * rank if isinstance(padding, str) else padding.widths


def windowed_axes(x: SpatialTensor, windows: Sequence[Window], padding: str | Padding) -> tuple[Axis, ...]:
    """Image axes after a convolution or pooling.

    Raises:
        ValueError: if a window does not fit into the image.
    """
    axes = []
    for axis, window, around in zip(x.image_axes, windows, _by_axis(padding, len(windows)), strict=True):
        size = window.output_size(axis.size, around)
        if size < 1:
            raise ValueError(
                f"A window of {window.extent} voxels does not fit into axis '{axis.name}' of {axis.size} voxels. "
                f"Received: input shape {x.shape}, padding={around!r}"
            )
        axes.append(axis.resized(size, down=window.stride))
    return tuple(axes)


def window_halo(x: SpatialTensor, windows: Sequence[Window], padding: str | Padding) -> dict[int, tuple[int, int]]:
    """The number of elements that a convolution or pooling reads below and above each shard, for each tensor axis."""
    halo = {}
    paddings = _by_axis(padding, len(windows))
    for i, (axis, window, around) in enumerate(zip(x.image_axes, windows, paddings, strict=True), start=1):
        before = window.padding_before(axis.size, around)
        if axis.sharded:
            halo[i] = window.halo(before)
        else:
            needed = (window.output_size(axis.size, around) - 1) * window.stride + window.extent
            halo[i] = before, max(needed - axis.size - before, 0)
    return halo


# A Keras variable, or a tensor of the model that is replicated.
Weight = keras.Variable | SpatialTensor


@dataclass(frozen=True)
class Convolution:
    """A convolution of a layer or of `keras.ops`.

    Attributes:
        kernel_size, strides, dilation: the sizes along each image axis.
        padding: `"same"`, `"valid"` or `"causal"`, or the padding around the image.
        channels: the number of channels of the result.
        sums_channels: whether every result sums over all channels, as without groups.
    """

    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: str | Padding
    channels: int
    sums_channels: bool = False

    @property
    def rank(self) -> int:
        return len(self.kernel_size)

    @property
    def windows(self) -> list[Window]:
        return [Window(*n) for n in zip(self.kernel_size, self.strides, self.dilation, strict=True)]


def convolve(
    trace: Trace,
    x: SpatialTensor,
    convolution: Convolution,
    function: Callable[..., tf.Tensor],
    kernels: Sequence[Weight],
    name: str,
) -> SpatialTensor:
    """Lower a convolution: exchange halos, and then apply a function to each shard.

    Args:
        trace: the trace of the step.
        x: the images, channels last.
        convolution: the convolution.
        function: a function from the padding, a tensor and the kernels to the result.
        kernels: the kernels, the first of which spans the image axes.
        name: a name for the graph.
    """
    windows, padding = convolution.windows, convolution.padding
    axes = (x.axes[0], *windowed_axes(x, windows, padding), Axis("channels", convolution.channels))

    def padded(padding: str) -> Callable[..., tf.Tensor]:
        return lambda shard, *values: function(padding, _without_unread_end(shard, convolution), *values)

    return trace.windowed(
        padded("valid"),
        x,
        window_halo(x, windows, padding),
        axes,
        weights=kernels,
        fill=0.0 if isinstance(padding, str) else padding.fill,
        native=padded(padding) if isinstance(padding, str) and padding != "causal" else None,
        summed={0: convolution.rank} if convolution.sums_channels else None,
        name=name,
    )


def _convolution_of(layer, channels: int, padding: Padding | None, *, sums_channels: bool = False) -> Convolution:
    return Convolution(
        per_axis(layer.kernel_size, layer.rank),
        per_axis(layer.strides, layer.rank),
        per_axis(layer.dilation_rate, layer.rank),
        layer.padding if padding is None else padding,
        channels,
        sums_channels,
    )


@register_lowering(layers.Conv1D, layers.Conv2D, layers.Conv3D)
@takes_padding
@in_either_format
def convolution(layer, trace: Trace, x: SpatialTensor, padding: Padding | None = None) -> SpatialTensor:
    def function(padding: str, shard: tf.Tensor, *values: tf.Tensor) -> tf.Tensor:
        kernel = kernel_value(layer, values, shard.dtype)
        if of_one_voxel and shard.dtype.size >= 4:
            return _one_voxel_at_a_time(shard, kernel)
        return ops.conv(shard, kernel, layer.strides, padding, "channels_last", layer.dilation_rate)

    sizes = *per_axis(layer.kernel_size, layer.rank), *per_axis(layer.strides, layer.rank)
    of_one_voxel = set(sizes) == {1} and layer.groups == 1
    what = _convolution_of(layer, layer.filters, padding, sums_channels=layer.groups == 1 and not layer.lora_enabled)
    x = trace.cast(x, layer.compute_dtype)
    return _bias_and_activation(layer, trace, convolve(trace, x, what, function, kernel_variables(layer), layer.name))


@custom_gradient
def _one_voxel_at_a_time(x: tf.Tensor, kernel: tf.Tensor):
    """A convolution with a kernel of one voxel and no stride. Its gradients are products of matrices.

    TensorFlow's gradient of the kernel takes up to 1.6 times as long as that product, and is less exact.
    """
    *around, channels = static_sizes(x.shape)
    filters = static_sizes(kernel.shape)[-1]
    matrix = tf.reshape(kernel, [channels, filters])

    def gradient(dy: tf.Tensor) -> list[tf.Tensor]:
        parts = next((n for n in around if n > 1), 1)
        rows = math.prod(around) // parts
        # Sums over parts of the image, which are added then, lose fewer digits. They must be small beside the image.
        parts = parts if 4 * channels * filters <= rows * (channels + filters) else 1
        flat, dflat = (tf.reshape(t, [parts, -1, n]) for t, n in ((x, channels), (dy, filters)))
        dkernel = tf.reduce_sum(tf.matmul(flat, dflat, transpose_a=True), 0)
        dx = tf.matmul(tf.reshape(dy, [-1, filters]), matrix, transpose_b=True)
        return [tf.reshape(dx, x.shape), tf.reshape(dkernel, kernel.shape)]

    return ops.conv(x, kernel, 1, "valid", "channels_last"), gradient


@register_lowering(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
@takes_padding
@in_either_format
def depthwise_convolution(layer, trace: Trace, x: SpatialTensor, padding: Padding | None = None) -> SpatialTensor:
    def function(padding: str, shard: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        kernel = _cast(kernel, shard)
        return ops.depthwise_conv(shard, kernel, layer.strides, padding, "channels_last", layer.dilation_rate)

    what = _convolution_of(layer, layer.depth_multiplier * x.shape[-1], padding)
    x = trace.cast(x, layer.compute_dtype)
    return _bias_and_activation(layer, trace, convolve(trace, x, what, function, [layer.kernel], layer.name))


@register_lowering(layers.SeparableConv1D, layers.SeparableConv2D)
@takes_padding
@in_either_format
def separable_convolution(layer, trace: Trace, x: SpatialTensor, padding: Padding | None = None) -> SpatialTensor:
    def function(padding: str, shard: tf.Tensor, *kernels: tf.Tensor) -> tf.Tensor:
        depthwise, pointwise = (_cast(kernel, shard) for kernel in kernels)
        return ops.separable_conv(
            shard, depthwise, pointwise, layer.strides, padding, "channels_last", layer.dilation_rate
        )

    kernels = [layer.depthwise_kernel, layer.pointwise_kernel]
    x = trace.cast(x, layer.compute_dtype)
    what = _convolution_of(layer, layer.filters, padding)
    return _bias_and_activation(layer, trace, convolve(trace, x, what, function, kernels, layer.name))


@dataclass(frozen=True)
class TransposedConvolution:
    """A transposed convolution of a layer or of `keras.ops`.

    Attributes:
        kernel_size, strides, dilation: the sizes along each image axis.
        padding: `"same"` or `"valid"`.
        output_padding: the output padding along each image axis, or None.
        channels: the number of channels of the result.
    """

    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: str
    output_padding: tuple[int, ...] | None
    channels: int

    @property
    def windows(self) -> list[TransposedWindow]:
        return [TransposedWindow(*n) for n in zip(self.kernel_size, self.strides, self.dilation, strict=True)]


def convolve_transposed(
    trace: Trace, x: SpatialTensor, what: TransposedConvolution, kernel: Weight, name: str
) -> SpatialTensor:
    """Lower a transposed convolution: exchange halos, apply Keras's own to each shard, and crop the result.

    Args:
        trace: the trace of the step.
        x: the images, channels last.
        what: the transposed convolution.
        kernel: the kernel.
        name: a name for the graph.
    """
    windows, strides = what.windows, what.strides
    surplus = (None,) * len(strides) if what.output_padding is None else what.output_padding
    image_axes, halo, starts = [], {}, {}
    for i, (axis, window, extra) in enumerate(zip(x.image_axes, windows, surplus, strict=True), start=1):
        crop = window.crop_before(axis.size, what.padding, extra)
        image_axes.append(axis.resized(window.output_size(axis.size, what.padding, extra), up=window.stride))
        halo[i] = window.halo(crop) if axis.sharded else (0, 0)
        starts[i] = crop + halo[i][0] * window.stride
    axes = (x.axes[0], *image_axes, Axis("channels", what.channels))

    def spread(shard: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        kernel = _at_least(strides, _cast(kernel, shard))
        y = ops.conv_transpose(shard, kernel, strides, "valid", None, "channels_last", what.dilation)
        for i, start in starts.items():
            missing = max(start + axes[i].length - static_sizes(y.shape)[i], 0)
            if missing:
                y = tf.pad(y, [(0, missing if j == i else 0) for j in range(x.ndim)])
            y = take(y, i, start, axes[i].length)
        return y

    def native(shard: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        kernel = _at_least(strides, _cast(kernel, shard))
        return ops.conv_transpose(
            shard, kernel, list(strides), what.padding, what.output_padding, "channels_last", what.dilation
        )

    # Without halos and without cropping, each shard is transposed by itself, without a copy.
    separate = all(not any(halo[i]) for i in halo) and all(
        not axis.sharded or (window.extent <= window.stride and not starts[i])
        for i, (axis, window) in enumerate(zip(x.image_axes, windows, strict=True), start=1)
    )
    if separate and not any(axis.padded for axis in x.image_axes):
        return trace.reduced(native, [x], axes, weights=[kernel], name=name)
    return trace.windowed(spread, x, halo, axes, weights=[kernel], native=native, name=name)


@register_lowering(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
@in_either_format
def transposed_convolution(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    rank, surplus = layer.rank, layer.output_padding
    what = TransposedConvolution(
        per_axis(layer.kernel_size, rank),
        per_axis(layer.strides, rank),
        per_axis(layer.dilation_rate, rank),
        layer.padding,
        None if surplus is None else per_axis(surplus, rank),
        layer.filters,
    )
    x = trace.cast(x, layer.compute_dtype)
    return _bias_and_activation(layer, trace, convolve_transposed(trace, x, what, layer.kernel, layer.name))


def _bias_and_activation(layer, trace: Trace, y: SpatialTensor) -> SpatialTensor:
    if layer.use_bias:
        y = trace.pointwise(
            lambda t, bias: add_bias(t, _cast(bias, t)),
            [y],
            weights=[layer.bias],
            linear=True,
            name=f"{layer.name}_bias",
        )
    return apply_activation(trace, layer.activation, y)


def _without_unread_end(shard: tf.Tensor, convolution: Convolution) -> tf.Tensor:
    """Cut off the end of each axis that a kernel of one voxel never reads because of its strides.

    TensorFlow 2.21 with oneDNN computes a wrong gradient of such a 2D kernel, partly from memory that was never set, if
    an axis has such an end and there are fewer than eight input channels.
    """
    if convolution.rank > 2 or max(convolution.kernel_size) > 1:
        return shard
    sizes = static_sizes(shard.shape)[1:-1]
    read = [(size - 1) // stride * stride + 1 for size, stride in zip(sizes, convolution.strides, strict=True)]
    # Not `shard[...]`, whose gradient takes ten times as long on CPUs.
    batch, channels = shard.shape[0], shard.shape[-1]
    return tf.slice(shard, [0] * shard.shape.rank, [batch, *read, channels]) if read != sizes else shard


def _at_least(sizes: Sequence[int], kernel: tf.Tensor) -> tf.Tensor:
    """Pad a transposed convolution's kernel with zeros up to the given sizes, which does not change the result.

    TensorFlow 2.21 with oneDNN corrupts memory if a kernel is smaller than its stride.
    """
    lacking = [max(size - n, 0) for size, n in zip(sizes, cast(list[int], kernel.shape.as_list()), strict=False)]
    return tf.pad(kernel, [*((0, n) for n in lacking), (0, 0), (0, 0)]) if any(lacking) else kernel


def _cast(weight: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    return tf.cast(weight, like.dtype)
