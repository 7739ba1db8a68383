"""`keras.ops` that need all elements along some axes, such as sorting: those axes are gathered on every device."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import tree

from keras_spatial.engine.tensors import SpatialTensor
from keras_spatial.engine.trace import Trace
from keras_spatial.keras_private import image, math, nn, numpy
from keras_spatial.layout import Axis
from keras_spatial.rules.keras_ops import as_operand
from keras_spatial.rules.reductions import normalized_axes
from keras_spatial.rules.table import register_lowering


def on_whole_axes(operation: Any, trace: Trace, x: SpatialTensor, over: Sequence[int], *others: Any) -> Any:
    """Run Keras's own function on shards that are whole along the axes `over`.

    In the result, the other axes keep their order; the axes `over` stay, change their size or are removed; and new axes
    come first.
    """
    x = trace.whole(x, over)
    if x.dtype.is_floating:  # Derivatives beyond the image may be infinite, such as that of a product at 0.
        x = trace.filled(x, 1.0)
    specs = operation.compute_output_spec(keras.KerasTensor(x.shape, dtype=x.dtype.name), *others)
    flat = tree.flatten(specs)
    outputs = [(_axes(x, over, tuple(spec.shape)), tf.as_dtype(spec.dtype)) for spec in flat]

    def on_shard(t: tf.Tensor) -> tuple[tf.Tensor, ...]:
        found = tree.flatten(operation.call(t, *others))
        return tuple(tf.cast(y, dtype) for y, (_, dtype) in zip(found, outputs, strict=True))

    results = trace.local(on_shard, [x], outputs, name=operation.name)
    return tree.pack_sequence_as(specs, results)


def _axes(x: SpatialTensor, over: Sequence[int], shape: tuple[int, ...]) -> tuple[Axis, ...]:
    gone = tuple(axis for i, axis in enumerate(x.axes) if i not in over)
    extra = len(shape) - (x.ndim if len(shape) >= x.ndim else len(gone))
    sizes = shape[extra:]
    if len(sizes) == x.ndim:
        axes = tuple(axis.whole(sizes[i]) if i in over else axis for i, axis in enumerate(x.axes))
    else:
        axes = gone
    return (*(Axis(f"extra{n}", size) for n, size in enumerate(shape[:extra])), *axes)


@register_lowering(
    nn.Glu,
    nn.LogSoftmax,
    nn.Sparsemax,
    math.TopK,
    numpy.Argmax,
    numpy.Argmin,
    numpy.Argpartition,
    numpy.Argsort,
    numpy.Cumprod,
    numpy.Cumsum,
    numpy.Median,
    numpy.Nancumprod,
    numpy.Nancumsum,
    numpy.Nanmedian,
    numpy.Prod,
    numpy.Sort,
)
def along_axes(operation, trace: Trace, x: SpatialTensor) -> Any:
    return on_whole_axes(operation, trace, x, normalized_axes(getattr(operation, "axis", -1), x.ndim))


@register_lowering(nn.MultiHot)
def multi_hot(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    if x.ndim != 2:  # Keras joins the classes along axis 1, although it documents the last axis.
        raise ValueError(f"A partitioned multi_hot needs lists of classes, of rank 2. Received: shape {x.shape}")
    return on_whole_axes(operation, trace, x, [1])


@register_lowering(numpy.Quantile, numpy.Nanquantile, numpy.Percentile, numpy.Nanpercentile)
def quantile(operation, trace: Trace, x: SpatialTensor, q) -> SpatialTensor:
    return on_whole_axes(operation, trace, x, normalized_axes(operation.axis, x.ndim), q)


@register_lowering(image.RGBToGrayscale, image.RGBToHSV, image.HSVToRGB)
def colours(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return on_whole_axes(operation, trace, x, [x.ndim - (1 if operation.data_format == "channels_last" else 3)])


@register_lowering(numpy.View)
def view(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    """The bits of the elements read as another dtype, which may change the size of the last axis."""
    return on_whole_axes(operation, trace, x, [x.ndim - 1])


@register_lowering(nn.OneHot)
def one_hot(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    place = operation.axis % (x.ndim + 1)
    axes = (*x.axes[:place], Axis("classes", operation.num_classes), *x.axes[place:])
    dtype = operation.compute_output_spec(keras.KerasTensor(x.shape, dtype=x.dtype.name)).dtype
    return trace.local(operation.call, [x], [(axes, tf.as_dtype(dtype))], name=operation.name)[0]


@register_lowering(numpy.TakeAlongAxis)
def take_along_axis(operation, trace: Trace, x: SpatialTensor, indices: Any) -> SpatialTensor:
    indices = as_operand(trace, indices)
    if operation.axis is None or x.ndim != indices.ndim:
        raise ValueError(
            "A partitioned take_along_axis needs an axis, and indices of the same rank. Received: "
            f"axis={operation.axis}, indices of shape {indices.shape} for a tensor of shape {x.shape}"
        )
    axis = operation.axis % x.ndim
    x = trace.whole(x, [axis])
    chosen = x.axes[axis].whole(indices.shape[axis])
    axes = tuple(chosen if i == axis else a for i, a in enumerate(x.axes))
    places = tuple(a if n == a.size else a.whole(n) for a, n in zip(axes, indices.shape, strict=True))
    indices = trace.reshard(indices, places)
    # Indices beyond the image are arbitrary, so they are clipped to valid ones.
    places_within = trace.pointwise(lambda t: tf.clip_by_value(t, -x.shape[axis], x.shape[axis] - 1), [indices])
    return trace.local(operation.call, [x, places_within], [(axes, x.dtype)], name=operation.name)[0]


@register_lowering(numpy.IsIn)
def is_in(operation, trace: Trace, x: SpatialTensor, values: Any) -> SpatialTensor:
    if isinstance(values, SpatialTensor):
        raise ValueError(
            "A partitioned isin can look for the values of an array, but not for those of a model's tensor."
        )
    return trace.pointwise(lambda t: operation.call(t, values), [x], dtype=tf.bool, name=operation.name)
