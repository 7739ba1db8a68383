"""`keras.ops` that rearrange elements: slicing, padding, concatenating, reshaping, products."""

import math
import re
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_spatial.engine.reshard import permuted, selected, shifted
from keras_spatial.engine.tensors import SpatialTensor
from keras_spatial.engine.trace import Trace
from keras_spatial.keras_private import core, einops, numpy
from keras_spatial.layout import Axis
from keras_spatial.rules import products
from keras_spatial.rules.keras_ops import as_operand
from keras_spatial.rules.padding import adds_padding
from keras_spatial.rules.reshaping import concatenated, repeated, reshaped, sized_axis, sliced
from keras_spatial.rules.table import register_lowering


@register_lowering(numpy.GetItem)
def get_item(operation, trace: Trace, x: SpatialTensor, key) -> SpatialTensor:
    """Lower basic indexing by integers, slices, `...` and `None`."""
    key = list(key) if isinstance(key, (tuple, list)) else [key]
    if any(not (k is None or k is Ellipsis or isinstance(k, (int, np.integer, slice))) for k in key):
        raise ValueError(f"A partitioned tensor can be indexed only by integers, slices, ... and None. Received: {key}")
    given = sum(k is not None and k is not Ellipsis for k in key)
    rest = [slice(None)] * (x.ndim - given)
    place = next((n for n, k in enumerate(key) if k is Ellipsis), len(key))
    key = [*key[:place], *rest, *key[place + 1 :]]
    i = 0
    for k in key:
        if k is None:
            x = _expanded(trace, x, [i])
            i += 1
        elif isinstance(k, slice):
            index = range(*k.indices(x.shape[i]))
            if list(index) != list(range(x.shape[i])):
                x = sliced(trace, x, i, index)
            i += 1
        else:
            x = _squeezed(trace, selected(trace, x, i, x.axes[i].whole(1), [k % x.shape[i]]), [i])
    return x


@register_lowering(core.Slice)
def slice_operation(operation, trace: Trace, x: SpatialTensor, start_indices) -> SpatialTensor:
    for i, (start, size) in enumerate(zip(start_indices, operation.shape, strict=True)):
        size = x.shape[i] - int(start) if size in (-1, None) else int(size)
        if size != x.shape[i]:
            x = sliced(trace, x, i, range(int(start), int(start) + size))
    return x


@register_lowering(numpy.Take)
def take(operation, trace: Trace, x, indices) -> SpatialTensor:
    """Take by constant indices, or by computed ones, for which the table is gathered on every device."""
    x = as_operand(trace, x)
    if operation.axis is None:
        x, i = reshaped(trace, x, (int(np.prod(x.shape)),)), 0
    else:
        i = operation.axis % x.ndim
    if isinstance(indices, SpatialTensor):
        return _looked_up(trace, x, i, indices, operation.name)
    places = np.asarray(indices)
    y = sliced(trace, x, i, places.ravel() % x.shape[i])
    if places.ndim == 1:
        return y
    return reshaped(trace, y, (*x.shape[:i], *places.shape, *x.shape[i + 1 :]))


def _looked_up(trace: Trace, x: SpatialTensor, i: int, indices: SpatialTensor, name: str) -> SpatialTensor:
    size = x.shape[i]
    table = trace.whole(x, range(x.ndim))
    # Indices beyond the image are arbitrary, and TensorFlow fails for indices that are not in the table.
    indices = trace.filled(indices, 0)
    rest = [Axis(f"table{n}", axis.size) for n, axis in enumerate(table.axes)]

    def look_up(places: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
        places = tf.where(places < 0, places + size, places)
        # The reshape makes the gradient dense; the gradient of a look-up would be sparse.
        return tf.gather(tf.reshape(table, [n.size for n in rest]), places, axis=i)

    axes = [*rest[:i], *indices.axes, *rest[i + 1 :]]
    return trace.reduced(look_up, [indices, table], axes, dtype=x.dtype, name=name)


@register_lowering(numpy.Split)
def split(operation, trace: Trace, x: SpatialTensor) -> list[SpatialTensor]:
    i = operation.axis % x.ndim
    sections = operation.indices_or_sections
    count = x.shape[i]
    cuts = [count // sections * n for n in range(1, sections)] if isinstance(sections, int) else list(sections)
    return [sliced(trace, x, i, range(a, b)) for a, b in zip([0, *cuts], [*cuts, count], strict=True)]


@register_lowering(core.Unstack)
def unstack(operation, trace: Trace, x: SpatialTensor) -> list[SpatialTensor]:
    i = operation.axis % x.ndim
    return [_squeezed(trace, selected(trace, x, i, x.axes[i].whole(1), [n]), [i]) for n in range(x.shape[i])]


@register_lowering(numpy.Flip)
def flip(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    axes = range(x.ndim) if operation.axis is None else np.atleast_1d(operation.axis)
    for i in (int(axis) % x.ndim for axis in axes):
        x = selected(trace, x, i, x.axes[i], range(x.shape[i] - 1, -1, -1))
    return x


@register_lowering(numpy.Roll)
def roll(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    if operation.axis is None:
        row = reshaped(trace, x, (int(np.prod(x.shape)),))
        index = np.roll(np.arange(row.shape[0]), operation.shift)
        return reshaped(trace, selected(trace, row, 0, row.axes[0], index), x.shape)
    shifts, axes = np.atleast_1d(operation.shift), np.atleast_1d(operation.axis)
    for shift, axis in zip(np.broadcast_to(shifts, axes.shape), axes, strict=True):
        i = int(axis) % x.ndim
        x = selected(trace, x, i, x.axes[i], np.roll(np.arange(x.shape[i]), shift))
    return x


@register_lowering(numpy.Pad)
@adds_padding
def pad(operation, trace: Trace, x: SpatialTensor, constant_values=None) -> SpatialTensor:
    widths = list(operation.pad_width)
    widths = widths * x.ndim if len(widths) == 1 else widths
    for i, (before, after) in enumerate(widths):
        if not (before or after):
            continue
        size = x.shape[i]
        axis = sized_axis(trace, x.axes[i], size + before + after)
        if operation.mode == "constant":
            x = shifted(trace, x, i, axis, before, fill=constant_values or 0)
        else:
            index = np.pad(np.arange(size), (before, after), mode=operation.mode)
            x = selected(trace, x, i, axis, index)
    return x


@register_lowering(numpy.Concatenate)
def concatenate(operation, trace: Trace, xs: Sequence) -> SpatialTensor:
    return concatenated(trace, [as_operand(trace, x) for x in xs], operation.axis, operation.name)


@register_lowering(numpy.Stack)
def stack(operation, trace: Trace, xs: Sequence) -> SpatialTensor:
    operands = [as_operand(trace, x) for x in xs]
    i = operation.axis % (operands[0].ndim + 1)
    return concatenated(trace, [_expanded(trace, x, [i]) for x in operands], i, operation.name)


@register_lowering(numpy.Repeat)
def repeat(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    if operation.axis is None or not isinstance(operation.repeats, int):
        raise ValueError(
            f"A partitioned repeat needs an axis and a single number of repeats. Received: axis={operation.axis}, "
            f"repeats={operation.repeats}"
        )
    i, factor = operation.axis % x.ndim, operation.repeats
    if 0 < i < x.ndim - 1:
        return repeated(trace, x, [factor if n == i else 1 for n in range(1, x.ndim - 1)], operation.name)
    axes = [a.resized(a.size * factor, up=factor) if n == i else a for n, a in enumerate(x.axes)]
    return trace.reduced(lambda t: tf.repeat(t, factor, axis=i), [x], axes, name=operation.name)


@register_lowering(numpy.Tile)
def tile(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    repeats = [operation.repeats] if isinstance(operation.repeats, int) else list(operation.repeats)
    if len(repeats) > x.ndim:
        x = _expanded(trace, x, range(len(repeats) - x.ndim))
    for i, count in enumerate(repeats, start=x.ndim - len(repeats)):
        if count > 1:
            x = concatenated(trace, [x] * count, i, operation.name)
    return x


@register_lowering(numpy.BroadcastTo)
def broadcast_to(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    shape = tuple(operation.shape)
    if len(shape) > x.ndim:
        x = _expanded(trace, x, range(len(shape) - x.ndim))
    x = trace.whole(x, [i for i, n in enumerate(shape) if n != x.shape[i]])
    axes = [a if a.size == n else a.whole(n) for a, n in zip(x.axes, shape, strict=True)]
    lengths = [a.length for a in axes]
    return trace.reduced(lambda t: tf.broadcast_to(t, lengths), [x], axes, name=operation.name)


@register_lowering(numpy.Reshape, numpy.Ravel)
def reshape(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    spec = operation.compute_output_spec(keras.KerasTensor(x.shape, dtype=x.dtype.name))
    return reshaped(trace, x, spec.shape)


@register_lowering(einops.Rearrange)
def rearrange(operation, trace: Trace, x: SpatialTensor, pattern: str, **lengths: int) -> SpatialTensor:
    """Split, reorder and join axes as a pattern such as `"b (h p) c -> b h (p c)"` says."""
    before, after = ([part.strip("()").split() for part in _PARTS.findall(side)] for side in pattern.split("->"))
    sizes: dict[str, int] = {}
    for names, size in zip(before, x.shape, strict=True):
        known = {name: int(lengths[name]) for name in names if name in lengths}
        sizes |= known | {name: size // math.prod(known.values()) for name in names if name not in known}
    names = [name for group in before for name in group]
    order = [names.index(name) for group in after for name in group]
    x = permuted(trace, reshaped(trace, x, [sizes[name] for name in names]), order)
    return reshaped(trace, x, [math.prod(sizes[name] for name in group) for group in after])


_PARTS = re.compile(r"\([^)]*\)|\w+")


@register_lowering(numpy.Transpose)
def transpose(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    axes = range(x.ndim)[::-1] if operation.axes is None else operation.axes
    return permuted(trace, x, [axis % x.ndim for axis in axes])


@register_lowering(numpy.Moveaxis)
def move_axis(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    order = np.moveaxis(np.empty(range(1, x.ndim + 1)), operation.source, operation.destination).shape
    return permuted(trace, x, [n - 1 for n in order])


@register_lowering(numpy.Swapaxes)
def swap_axes(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    order = list(range(x.ndim))
    order[operation.axis1], order[operation.axis2] = order[operation.axis2], order[operation.axis1]
    return permuted(trace, x, order)


@register_lowering(numpy.Squeeze)
def squeeze(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    if operation.axis is None:
        return _squeezed(trace, x, [i for i, n in enumerate(x.shape) if n == 1])
    return _squeezed(trace, x, [int(axis) % x.ndim for axis in np.atleast_1d(operation.axis)])


@register_lowering(numpy.ExpandDims)
def expand_dims(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    axes = np.atleast_1d(operation.axis)
    rank = x.ndim + len(axes)
    return _expanded(trace, x, sorted(int(axis) % rank for axis in axes))


def _squeezed(trace: Trace, x: SpatialTensor, indices: Sequence[int]) -> SpatialTensor:
    x = trace.whole(x, indices)
    axes = [axis for i, axis in enumerate(x.axes) if i not in indices]
    return trace.reduced(lambda t: tf.squeeze(t, list(indices)) if len(indices) else t, [x], axes, name="squeezed")


def _expanded(trace: Trace, x: SpatialTensor, indices: Sequence[int]) -> SpatialTensor:
    """Insert axes of size 1 at these indices, which are in ascending order."""
    axes = list(x.axes)
    for i in indices:
        axes.insert(i, Axis(f"new{i}_{len(axes)}", 1))
    lengths = [axis.length for axis in axes]
    return trace.reduced(lambda t: tf.reshape(t, lengths), [x], axes, name="expanded")


@register_lowering(numpy.Matmul)
def matmul(operation, trace: Trace, a, b) -> SpatialTensor:
    return products.matmul(trace, as_operand(trace, a), as_operand(trace, b), operation.name)


@register_lowering(numpy.Einsum)
def einsum(operation, trace: Trace, *operands) -> SpatialTensor:
    return products.einsum(trace, operation.subscripts, [as_operand(trace, x) for x in operands], operation.name)
