"""Sums, means, maxima, moments and softmax over any axes, split or not."""

from collections.abc import Sequence

import tensorflow as tf

from keras_spatial.lowering.tensors import Axis, SpatialTensor
from keras_spatial.lowering.trace import Trace


def normalized_axes(axis: int | Sequence[int] | None, rank: int) -> list[int]:
    """Keras's `axis` argument as sorted non-negative numbers; None means all axes."""
    if axis is None:
        return list(range(rank))
    return sorted({a % rank for a in ([axis] if isinstance(axis, int) else axis)})


def reduced_axes(x: SpatialTensor, over: Sequence[int], keepdims: bool) -> tuple[Axis, ...]:
    """Axes of a reduction's result."""
    if keepdims:
        return tuple(axis.whole(1) if i in over else axis for i, axis in enumerate(x.axes))
    return tuple(axis for i, axis in enumerate(x.axes) if i not in over)


def number_of_elements(x: SpatialTensor, over: Sequence[int]) -> int:
    count = 1
    for i in over:
        count *= x.axes[i].size
    return count


def total(
    trace: Trace,
    x: SpatialTensor,
    over: Sequence[int],
    *,
    keepdims: bool = False,
    divisor: float = 1,
    name: str = "sum",
) -> SpatialTensor:
    """The sum over some axes, divided by a number."""
    over = list(over)
    inside = trace.inside(x)

    def part(t: tf.Tensor, *mask: tf.Tensor) -> tf.Tensor:
        t = masked(t, mask)
        t = tf.reduce_sum(t, over, keepdims=keepdims)
        return t / tf.cast(divisor, t.dtype) if divisor != 1 else t

    inputs = [x] if inside is None else [x, inside]
    return trace.reduced(part, inputs, reduced_axes(x, over, keepdims), name=name)


def mean(trace: Trace, x: SpatialTensor, over: Sequence[int], *, keepdims: bool = False) -> SpatialTensor:
    return total(trace, x, over, keepdims=keepdims, divisor=number_of_elements(x, over), name="mean")


def maximum(trace: Trace, x: SpatialTensor, over: Sequence[int], *, keepdims: bool = False) -> SpatialTensor:
    return trace.maximum(x, reduced_axes(x, over, keepdims), keepdims=keepdims, over=over)


def masked(t: tf.Tensor, mask: Sequence[tf.Tensor]) -> tf.Tensor:
    """`t` with zeros beyond the logical size. It selects: what lies there may be infinite."""
    return tf.where(tf.cast(mask[0], tf.bool), t, tf.zeros_like(t)) if mask else t


def moments(
    trace: Trace, x: SpatialTensor, over: Sequence[int], *, keepdims: bool = False
) -> tuple[SpatialTensor, SpatialTensor]:
    """Mean and biased variance over some axes of the whole image, as `tf.nn.moments` computes them: in two passes."""
    over = list(over)
    count = number_of_elements(x, over)
    inside = trace.inside(x)
    masks = [] if inside is None else [inside]
    center = mean(trace, x, over, keepdims=True)

    def squares(t: tf.Tensor, mean: tf.Tensor, *mask: tf.Tensor) -> tf.Tensor:
        # The derivative of the variance by the mean is zero.
        t = masked(tf.math.squared_difference(t, tf.stop_gradient(mean)), mask)
        return tf.reduce_sum(t, over, keepdims=keepdims) / tf.cast(count, t.dtype)

    axes = reduced_axes(x, over, keepdims)
    variance = trace.reduced(squares, [x, center, *masks], axes, name="variance")
    if not keepdims:
        center = trace.reduced(lambda t: tf.squeeze(t, over), [center], axes, name="mean")
    return center, variance


def softmax(trace: Trace, x: SpatialTensor, over: Sequence[int], name: str = "softmax") -> SpatialTensor:
    """Softmax over some axes: exponentials of the distance to the maximum, over their sum."""
    powers, sums, _ = exponentials(trace, x, over)
    return trace.pointwise(lambda t, s: t / tf.where(s == 0, tf.ones_like(s), s), [powers, sums], name=name)


def exponentials(
    trace: Trace, x: SpatialTensor, over: Sequence[int]
) -> tuple[SpatialTensor, SpatialTensor, SpatialTensor]:
    """Exponentials of the distance to the maximum over some axes, their sum over them, and the maximum."""
    largest = trace.maximum(x, reduced_axes(x, over, True), keepdims=True, over=over)
    inside = trace.inside(x)

    def power(t: tf.Tensor, m: tf.Tensor, *mask: tf.Tensor) -> tf.Tensor:
        # Beyond the logical size there is no maximum, and an infinite power would spoil the gradients.
        return tf.exp(masked(t - tf.stop_gradient(m), mask))

    powers = trace.pointwise(power, [x, largest, *([] if inside is None else [inside])], name="powers")
    return powers, total(trace, powers, over, keepdims=True), largest
