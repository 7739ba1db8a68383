"""`keras.ops` over neighbourhoods with fixed weights, and those that move voxels into channels and back."""

import numpy as np
import tensorflow as tf
from keras import ops

from keras_spatial.engine.tensors import SpatialTensor
from keras_spatial.engine.trace import Trace
from keras_spatial.keras_private import image, nn
from keras_spatial.layout import Axis, Window
from keras_spatial.rules.convolution import per_axis, window_halo, windowed_axes
from keras_spatial.rules.formats import in_either_format
from keras_spatial.rules.table import register_lowering


@register_lowering(image.ExtractPatches)
@in_either_format
def extract_patches(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    rank = x.ndim - 2
    sizes, strides, dilations = (
        per_axis(n, rank) for n in (operation.size, operation.strides, operation.dilation_rate)
    )
    windows = [Window(*values) for values in zip(sizes, strides, dilations, strict=True)]
    function = ops.image.extract_patches_3d if rank == 3 else ops.image.extract_patches

    def patches(padding: str):
        return lambda t: function(t, sizes, strides, operation.dilation_rate, padding, "channels_last")

    channels = Axis(x.axes[-1].name, x.shape[-1] * int(np.prod(sizes)))
    axes = (x.axes[0], *windowed_axes(x, windows, operation.padding), channels)
    halo = window_halo(x, windows, operation.padding)
    native = patches(operation.padding)
    return trace.windowed(patches("valid"), x, halo, axes, native=native, name=operation.name)


@register_lowering(image.GaussianBlur)
@in_either_format
def gaussian_blur(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    """A Gaussian blur is a depthwise convolution with a constant kernel."""
    rows, columns = (_gaussian(size, sigma) for size, sigma in zip(*_pairs(operation), strict=True))
    # Keras multiplies the kernels in this order, and reshapes the product to the shape of the first size by the second.
    kernel = np.outer(columns, rows).reshape(len(rows), len(columns))
    windows = [Window(size, 1) for size in kernel.shape]

    def blur(padding: str):
        def convolve(t: tf.Tensor) -> tf.Tensor:
            weights = tf.tile(tf.cast(kernel[:, :, None, None], t.dtype), [1, 1, x.shape[-1], 1])
            return tf.nn.depthwise_conv2d(t, weights, [1, 1, 1, 1], padding.upper())

        return convolve

    halo = window_halo(x, windows, "same")
    return trace.windowed(blur("valid"), x, halo, x.axes, native=blur("same"), name=operation.name)


def _pairs(operation) -> tuple[tuple, tuple]:
    return per_axis(operation.kernel_size, 2), per_axis(operation.sigma, 2)


def _gaussian(size: int, sigma: float) -> np.ndarray:
    weights = np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / sigma) ** 2)
    return weights / weights.sum()


@register_lowering(nn.SpaceToDepth)
@in_either_format
def space_to_depth(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    block = operation.block_size
    image_axes = [axis.resized(axis.size // block, down=block) for axis in x.image_axes]
    axes = (x.axes[0], *image_axes, Axis(x.axes[-1].name, x.shape[-1] * block**2))
    return trace.reduced(lambda t: tf.nn.space_to_depth(t, block), [x], axes, name=operation.name)


@register_lowering(nn.DepthToSpace)
@in_either_format
def depth_to_space(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    block = operation.block_size
    image_axes = [axis.resized(axis.size * block, up=block) for axis in x.image_axes]
    axes = (x.axes[0], *image_axes, Axis(x.axes[-1].name, x.shape[-1] // block**2))
    return trace.reduced(lambda t: tf.nn.depth_to_space(t, block), [x], axes, name=operation.name)
