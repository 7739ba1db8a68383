"""Preprocessing inside a model: rescaling, resizing and cropping."""

from collections.abc import Sequence

import tensorflow as tf
from keras import backend, layers

from keras_spatial.engine.reshard import shifted_along
from keras_spatial.engine.tensors import SpatialTensor
from keras_spatial.engine.trace import Trace
from keras_spatial.layers.preprocessing import CenterCrop3D, Resizing3D
from keras_spatial.rules.formats import in_either_format
from keras_spatial.rules.keras_ops import as_operand
from keras_spatial.rules.reshaping import resized, sized_axis
from keras_spatial.rules.table import register_lowering


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


@register_lowering(layers.Discretization)
def discretization(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    if layer.output_mode != "int" or layer.sparse:
        raise ValueError(
            f"Layer '{layer.name}': a partitioned Discretization can only return the number of each voxel's bin. "
            f"Received: output_mode='{layer.output_mode}', sparse={layer.sparse}"
        )
    return trace.pointwise(layer.call, [x], dtype=layer.output_dtype, name=layer.name)


@register_lowering(layers.Resizing)
@in_either_format
def resizing(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    if layer.crop_to_aspect_ratio or layer.pad_to_aspect_ratio:
        raise ValueError(
            f"Layer '{layer.name}': a partitioned Resizing cannot crop or pad to the aspect ratio. Do so in the input "
            f"pipeline. Received: crop_to_aspect_ratio={layer.crop_to_aspect_ratio}, "
            f"pad_to_aspect_ratio={layer.pad_to_aspect_ratio}"
        )
    x = trace.cast(x, layer.compute_dtype)
    return resized(trace, x, (layer.height, layer.width), layer.interpolation, layer.antialias)


@register_lowering(layers.CenterCrop)
@in_either_format
def center_crop(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    sizes = (layer.height, layer.width)
    if any(size < wanted for size, wanted in zip(x.shape[1:3], sizes, strict=True)):
        raise ValueError(
            f"Layer '{layer.name}': a partitioned CenterCrop can only crop, but Keras would resize an image that is "
            f"too small. Received: images of shape {x.shape}, to be cropped to {sizes}"
        )
    starts = [(size - wanted) // 2 for size, wanted in zip(x.shape[1:3], sizes, strict=True)]
    return cropped(trace, trace.cast(x, layer.compute_dtype), starts, sizes)


@register_lowering(CenterCrop3D)
def center_crop_3d(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return cropped(trace, trace.cast(x, layer.compute_dtype), layer.starts(x.shape), layer.size)


@register_lowering(Resizing3D)
def resizing_3d(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    interpolation = "bilinear" if layer.interpolation == "trilinear" else layer.interpolation
    return resized(trace, trace.cast(x, layer.compute_dtype), layer.size, interpolation, layer.antialias)


def cropped(trace: Trace, x: SpatialTensor, starts: Sequence[int], sizes: Sequence[int]) -> SpatialTensor:
    """Crop the image axes to `sizes` voxels, starting at the voxels `starts`."""
    return shifted_along(
        trace,
        x,
        {
            i: (sized_axis(trace, x.axes[i], size), -start)
            for i, (start, size) in enumerate(zip(starts, sizes, strict=True), start=1)
            if size != x.shape[i]
        },
    )
