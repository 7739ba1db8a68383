"""`keras.ops` that are defined by other operations: their definitions are lowered in their place."""

import functools
import math as numbers
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops, tree

from keras_spatial.engine.tensors import SpatialTensor
from keras_spatial.engine.trace import Trace
from keras_spatial.keras_private import image, linalg, math, nn, numpy
from keras_spatial.rules.table import register_lowering


def defined_for(*operations: type) -> Callable[[Callable], Callable]:
    """Register the definition of operations in terms of other operations.

    It decorates a function that computes the result with `keras.ops`. The function's arguments are the operation and
    the operation's arguments, Keras tensors of the logical shapes.
    """

    def register(define: Callable) -> Callable:
        @register_lowering(*operations)
        @functools.wraps(define)
        def rule(operation, trace: Trace, *args: Any, **kwargs: Any) -> Any:
            return _by_definition(define, operation, trace, args, kwargs)

        return define

    return register


def _by_definition(define: Callable, operation: Any, trace: Trace, args: Any, kwargs: Any) -> Any:
    from keras_spatial.rules.walk import lower_graph

    tensors = [t for t in tree.flatten((args, kwargs)) if isinstance(t, SpatialTensor)]
    symbols = [keras.Input(batch_shape=t.shape, dtype=t.dtype.name) for t in tensors]
    remaining = iter(symbols)
    args, kwargs = tree.map_structure(lambda t: next(remaining) if isinstance(t, SpatialTensor) else t, (args, kwargs))
    return lower_graph(keras.Model(symbols, define(operation, *args, **kwargs)), trace, tensors)


# Tensors that do not change.


@defined_for(numpy.Array)
def converted(operation, x):
    return x if operation.dtype is None else ops.cast(x, operation.dtype)


@defined_for(math.ViewAsReal)
def view_as_real(operation, x):
    return ops.stack([ops.real(x), ops.imag(x)], axis=-1)


# Moving elements.


@defined_for(numpy.Append)
def append(operation, a, b):
    if operation.axis is None:
        return ops.concatenate([ops.ravel(a), ops.ravel(b)], axis=0)
    return ops.concatenate([a, b], axis=operation.axis)


@defined_for(numpy.ArraySplit)
def array_split(operation, x):
    sections, size = operation.indices_or_sections, x.shape[operation.axis]
    if isinstance(sections, int):
        sizes = [size // sections + (n < size % sections) for n in range(sections)]
        sections = [int(n) for n in np.cumsum(sizes)[:-1]]
    return ops.split(x, list(sections), axis=operation.axis)


@defined_for(numpy.Vsplit)
def split_vertically(operation, x):
    return ops.split(x, operation.indices_or_sections, axis=0)


@defined_for(numpy.Hsplit)
def split_horizontally(operation, x):
    return ops.split(x, operation.indices_or_sections, axis=min(1, len(x.shape) - 1))


@defined_for(numpy.Dsplit)
def split_in_depth(operation, x):
    return ops.split(x, operation.indices_or_sections, axis=2)


@defined_for(numpy.Vstack)
def stack_vertically(operation, xs):
    return ops.concatenate([_with_rank(x, 2) for x in xs], axis=0)


@defined_for(numpy.Hstack)
def stack_horizontally(operation, xs):
    return ops.concatenate(xs, axis=min(1, len(xs[0].shape) - 1))


@defined_for(numpy.Dstack)
def stack_in_depth(operation, xs):
    return ops.concatenate([_with_rank(x, 3) for x in xs], axis=2)


def _with_rank(x, rank: int):
    """Add axes as NumPy's `atleast_2d` and `atleast_3d` do."""
    if len(x.shape) < 2:
        x = ops.reshape(x, (1, -1))
    return ops.expand_dims(x, -1) if len(x.shape) < rank else x


@defined_for(numpy.Fliplr)
def flip_horizontally(operation, x):
    return ops.flip(x, axis=1)


@defined_for(numpy.Flipud)
def flip_vertically(operation, x):
    return ops.flip(x, axis=0)


@defined_for(numpy.Rot90)
def turn(operation, x):
    first, second = operation.axes
    quarters = operation.k % 4
    if quarters == 2:
        return ops.flip(ops.flip(x, axis=first), axis=second)
    if quarters == 1:
        return ops.swapaxes(ops.flip(x, axis=second), first, second)
    return ops.flip(ops.swapaxes(x, first, second), axis=second) if quarters else x


@defined_for(numpy.Meshgrid)
def meshgrid(operation, *xs):
    swapped = operation.indexing == "xy" and len(xs) > 1
    places = [1, 0, *range(2, len(xs))] if swapped else list(range(len(xs)))
    lengths = [numbers.prod(x.shape) for x in xs]
    shape = [lengths[places.index(n)] for n in range(len(xs))]
    grids = []
    for x, place in zip(xs, places, strict=True):
        column = ops.reshape(x, [-1 if n == place else 1 for n in range(len(xs))])
        grids.append(ops.broadcast_to(column, shape))
    return grids


@defined_for(numpy.Tril)
def lower_triangle(operation, x):
    return _where(np.tri(x.shape[-2], x.shape[-1], operation.k, dtype=bool), x)


@defined_for(numpy.Triu)
def upper_triangle(operation, x):
    return _where(~np.tri(x.shape[-2], x.shape[-1], operation.k - 1, dtype=bool), x)


def _where(mask: np.ndarray, x):
    return ops.where(mask, x, ops.zeros_like(x))


@defined_for(numpy.Diagonal)
def diagonal(operation, x):
    """Each row has at most one element of the diagonal: the other elements are masked, and the row is summed."""
    x, offset = _at_the_end(operation, x), operation.offset
    rows, columns = x.shape[-2:]
    kept = _where(np.eye(rows, columns, offset, dtype=bool), x)
    start = max(-offset, 0)
    length = max(min(rows - start, columns - max(offset, 0)), 0)
    return ops.sum(kept, axis=-1)[..., start : start + length]


@defined_for(numpy.Trace)
def trace_of_matrix(operation, x):
    x = _at_the_end(operation, x)
    return ops.sum(_where(np.eye(x.shape[-2], x.shape[-1], operation.offset, dtype=bool), x), axis=(-2, -1))


def _at_the_end(operation, x):
    return ops.moveaxis(x, (operation.axis1, operation.axis2), (-2, -1))


@defined_for(image.CropImages)
def crop_images(operation, x):
    return _resize_frame(operation, x, "cropping", -1)


@defined_for(image.PadImages)
def pad_images(operation, x):
    return _resize_frame(operation, x, "padding", 1)


def _resize_frame(operation, x, what: str, sign: int):
    axes = (-3, -2) if operation.data_format == "channels_last" else (-2, -1)
    sides = (("top", "bottom", "target_height"), ("left", "right", "target_width"))
    for axis, (first, last, target) in zip(axes, sides, strict=True):
        before, after = getattr(operation, f"{first}_{what}"), getattr(operation, f"{last}_{what}")
        change = sign * ((getattr(operation, target) or 0) - x.shape[axis])
        before = change - after if before is None else before
        after = change - before if after is None else after
        widths = [(before, after) if n == axis % len(x.shape) else (0, 0) for n in range(len(x.shape))]
        if sign > 0:
            x = ops.pad(x, widths)
        else:
            x = x[tuple(slice(a, n - b) for (a, b), n in zip(widths, x.shape, strict=True))]
    return x


# Sums and extremes.


@defined_for(numpy.Ptp)
def range_of_values(operation, x):
    axis, keepdims = operation.axis, operation.keepdims
    return ops.max(x, axis=axis, keepdims=keepdims) - ops.min(x, axis=axis, keepdims=keepdims)


@defined_for(numpy.Average)
def average(operation, x, weights=None):
    if weights is None:
        return ops.mean(x, axis=operation.axis)
    dtype = keras.backend.result_type(x.dtype, weights.dtype, float)
    x, weights = ops.cast(x, dtype), ops.cast(weights, dtype)
    if operation.axis is not None and len(weights.shape) != len(x.shape):
        weights = ops.reshape(weights, [-1 if n == operation.axis % len(x.shape) else 1 for n in range(len(x.shape))])
        return ops.sum(x * weights, axis=operation.axis) / ops.sum(weights)
    return ops.sum(x * weights, axis=operation.axis) / ops.sum(weights, axis=operation.axis)


@defined_for(numpy.CountNonzero)
def count_nonzero(operation, x):
    return ops.sum(ops.cast(ops.not_equal(x, 0), "int32"), axis=operation.axis)


@defined_for(numpy.AllClose)
def all_close(operation, a, b):
    return ops.all(ops.isclose(a, b, operation.rtol, operation.atol, operation.equal_nan))


def _without_nan(x, value: float):
    return ops.where(ops.isnan(x), ops.full_like(x, value), x)


def _all_nan(operation, x):
    return ops.all(ops.isnan(x), axis=operation.axis, keepdims=operation.keepdims)


@defined_for(numpy.Nanmax, numpy.Nanmin)
def extreme_but_nan(operation, x):
    largest = isinstance(operation, numpy.Nanmax)
    reduce = ops.max if largest else ops.min
    if not keras.backend.is_float_dtype(x.dtype):
        return reduce(x, axis=operation.axis, keepdims=operation.keepdims)
    clean = _without_nan(x, float("-inf") if largest else float("inf"))
    found = reduce(clean, axis=operation.axis, keepdims=operation.keepdims)
    return ops.where(_all_nan(operation, x), ops.full_like(found, float("nan")), found)


@defined_for(numpy.Nansum)
def sum_but_nan(operation, x):
    return ops.sum(_without_nan(x, 0.0), axis=operation.axis, keepdims=operation.keepdims)


@defined_for(numpy.Nanprod)
def product_but_nan(operation, x):
    return ops.prod(_without_nan(x, 1.0), axis=operation.axis, keepdims=operation.keepdims)


@defined_for(numpy.Nanmean)
def mean_but_nan(operation, x):
    return _mean_but_nan(x, operation.axis, operation.keepdims)


def _mean_but_nan(x, axis, keepdims: bool):
    count = ops.sum(ops.cast(ops.logical_not(ops.isnan(x)), x.dtype), axis=axis, keepdims=keepdims)
    return ops.sum(_without_nan(x, 0.0), axis=axis, keepdims=keepdims) / count


@defined_for(numpy.Nanvar, numpy.Nanstd)
def spread_but_nan(operation, x):
    center = _mean_but_nan(x, operation.axis, True)
    squares = ops.where(ops.isnan(x), ops.full_like(x, float("nan")), ops.square(_without_nan(x, 0.0) - center))
    variance = _mean_but_nan(squares, operation.axis, operation.keepdims)
    return variance if isinstance(operation, numpy.Nanvar) else ops.sqrt(variance)


@defined_for(numpy.Nanargmax, numpy.Nanargmin)
def place_of_extreme_but_nan(operation, x):
    largest = isinstance(operation, numpy.Nanargmax)
    find = ops.argmax if largest else ops.argmin
    if not keras.backend.is_float_dtype(x.dtype):
        return find(x, axis=operation.axis, keepdims=operation.keepdims)
    clean = _without_nan(x, float("-inf") if largest else float("inf"))
    found = find(clean, axis=operation.axis, keepdims=operation.keepdims)
    return ops.where(_all_nan(operation, x), ops.full_like(found, -1), found)


@defined_for(numpy.Diff)
def difference(operation, x):
    axis = operation.axis % len(x.shape)
    for _ in range(operation.n):
        next_ones = x[tuple(slice(1, None) if n == axis else slice(None) for n in range(len(x.shape)))]
        previous = x[tuple(slice(None, -1) if n == axis else slice(None) for n in range(len(x.shape)))]
        x = ops.not_equal(next_ones, previous) if x.dtype == "bool" else next_ones - previous
    return x


@defined_for(numpy.Trapezoid)
def trapezoid(operation, y):
    y = ops.moveaxis(ops.cast(y, keras.backend.result_type(y.dtype, float)), operation.axis, -1)
    width = operation.dx if operation.x is None else np.diff(np.asarray(operation.x)).astype(y.dtype)
    return ops.sum(0.5 * (y[..., 1:] + y[..., :-1]) * width, axis=-1)


@defined_for(linalg.Norm)
def norm(operation, x):
    """Norms of vectors and the Frobenius norm; other norms of matrices need singular values."""
    order, keepdims = operation.ord, operation.keepdims
    axis = tuple(range(len(x.shape))) if operation.axis is None else tuple(operation.axis)
    x = ops.cast(x, keras.backend.result_type(x.dtype, float))
    if order in (None, "fro") or (order == 2 and len(axis) == 1):
        return ops.sqrt(ops.sum(ops.square(x), axis=axis, keepdims=keepdims))
    if len(axis) > 1 or isinstance(order, str):
        raise ValueError(
            f"A partitioned norm must be a vector norm or the Frobenius norm. Received: ord={order!r}, axis={axis}"
        )
    if order in (float("inf"), float("-inf")):
        reduce = ops.max if order > 0 else ops.min
        return reduce(ops.abs(x), axis=axis, keepdims=keepdims)
    if order == 0:
        return ops.sum(ops.cast(ops.not_equal(x, 0), x.dtype), axis=axis, keepdims=keepdims)
    return ops.power(ops.sum(ops.power(ops.abs(x), order), axis=axis, keepdims=keepdims), 1.0 / order)


@defined_for(nn.PSNR)
def peak_signal_to_noise(operation, a, b):
    return 20.0 * float(np.log10(operation.max_val)) - 10.0 * ops.log10(ops.mean(ops.square(a - b)))


# Normalization.


@defined_for(nn.RMSNorm)
def rms_normalization(operation, x, scale=None):
    axes = [operation.axis] if isinstance(operation.axis, int) else list(operation.axis)
    epsilon = keras.backend.epsilon() if operation.epsilon is None else operation.epsilon
    dtype = keras.backend.result_type(x.dtype, "float32")
    y = ops.cast(x, dtype)
    y = y * ops.rsqrt(ops.mean(ops.square(y), axis=axes, keepdims=True) + epsilon)
    if scale is not None:
        y = y * ops.cast(_along(scale, axes, len(x.shape)), dtype)
    return ops.cast(y, x.dtype)


@defined_for(nn.BatchNorm)
def batch_normalization(operation, x, mean, variance, offset=None, scale=None):
    def along(vector):
        return _along(vector, [operation.axis], len(x.shape))

    factor = ops.rsqrt(along(variance) + operation.epsilon)
    if scale is not None:
        factor = factor * along(scale)
    shift = -along(mean) * factor
    return x * factor + (shift if offset is None else along(offset) + shift)


def _along(vector, axes: Sequence[int], rank: int):
    """Reshape a tensor that has only some of the axes, so that it broadcasts along the others."""
    places = sorted(axis % rank for axis in axes)
    sizes = iter(vector.shape)
    return ops.reshape(vector, [next(sizes) if n in places else 1 for n in range(rank)])


# Products.


@defined_for(numpy.Dot)
def dot(operation, a, b):
    if not (len(a.shape) and len(b.shape)):
        return a * b
    return _contracted(a, b, [len(a.shape) - 1], [max(len(b.shape) - 2, 0)])


@defined_for(numpy.Inner)
def inner(operation, a, b):
    if not (len(a.shape) and len(b.shape)):
        return a * b
    return _contracted(a, b, [len(a.shape) - 1], [len(b.shape) - 1])


@defined_for(numpy.Vdot)
def dot_of_all(operation, a, b):
    return ops.sum(a * ops.reshape(b, a.shape))


@defined_for(numpy.Outer)
def outer(operation, a, b):
    return ops.reshape(a, (-1, 1)) * ops.reshape(b, (1, -1))


@defined_for(numpy.Tensordot)
def tensordot(operation, a, b):
    axes = operation.axes
    if isinstance(axes, int):
        return _contracted(a, b, list(range(len(a.shape) - axes, len(a.shape))), list(range(axes)))
    first, second = ([n] if isinstance(n, int) else list(n) for n in axes)
    return _contracted(a, b, first, second)


def _contracted(a, b, of_a: Sequence[int], of_b: Sequence[int]):
    """The product of two tensors, summed over pairs of their axes."""
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    left = [next(letters) for _ in a.shape]
    right = [next(letters) for _ in b.shape]
    for i, j in zip(of_a, of_b, strict=True):
        right[j] = left[i]
    shared = {left[i] for i in of_a}
    result = [letter for letter in [*left, *right] if letter not in shared]
    return ops.einsum(f"{''.join(left)},{''.join(right)}->{''.join(result)}", a, b)


@defined_for(numpy.Cross)
def cross(operation, a, b):
    a, b = ops.moveaxis(a, operation.axisa, -1), ops.moveaxis(b, operation.axisb, -1)
    if a.shape[-1] == 2 and b.shape[-1] == 2:
        return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    (ax, ay, az), (bx, by, bz) = (
        [v[..., n] if n < v.shape[-1] else ops.zeros_like(v[..., 0]) for n in range(3)] for v in (a, b)
    )
    y = ops.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], axis=-1)
    return ops.moveaxis(y, -1, operation.axisc)


@defined_for(image.SobelEdges)
def sobel_edges(operation, x):
    first = operation.data_format == "channels_first"
    x = ops.transpose(x, (0, 2, 3, 1)) if first else x
    x = ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="reflect")
    across = x[:, :, :-2] + 2.0 * x[:, :, 1:-1] + x[:, :, 2:]
    along = x[:, :-2] + 2.0 * x[:, 1:-1] + x[:, 2:]
    y = ops.stack([across[:, 2:] - across[:, :-2], along[:, :, 2:] - along[:, :, :-2]], axis=-1)
    return ops.transpose(y, (0, 3, 1, 2, 4)) if first else y


@defined_for(layers.AdditiveAttention)
def additive_attention(layer, inputs, mask=None, return_attention_scores=False, use_causal_mask=False):
    """As Keras's own `call`, but the scale is multiplied by an operation, so that it appears in the graph."""
    if any(m is not None for m in mask or ()) or layer.dropout > 0:
        raise ValueError(
            f"Layer '{layer.name}': a partitioned AdditiveAttention cannot have masks or dropout. Received: "
            f"mask={mask}, dropout={layer.dropout}"
        )
    query, value, *key = inputs
    key = key[0] if key else value
    features = ops.tanh(ops.expand_dims(query, -2) + ops.expand_dims(key, -3))
    if layer.use_scale:
        features = ops.multiply(layer.scale, features)
    scores = ops.sum(features, axis=-1)
    if use_causal_mask:
        hidden = ~np.tri(scores.shape[-2], scores.shape[-1], dtype=bool)[None]
        scores = ops.where(hidden, scores - (65504.0 if scores.dtype == "float16" else 1.0e9), scores)
    shares = ops.softmax(scores, axis=-1)
    result = ops.matmul(shares, value)
    return (result, shares) if return_attention_scores else result
