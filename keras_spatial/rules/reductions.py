"""Sums, means, maxima, moments and softmax over any axes, sharded or not."""

import math
from collections.abc import Sequence

import tensorflow as tf

from keras_spatial.engine.sums import summed
from keras_spatial.engine.tensors import SpatialTensor
from keras_spatial.engine.trace import Trace
from keras_spatial.layout import Axis
from keras_spatial.runtimes.functions import scalar


def normalized_axes(axis: int | Sequence[int] | None, rank: int) -> list[int]:
    """Keras's `axis` argument as sorted, non-negative indices; None means all axes."""
    if axis is None:
        return list(range(rank))
    return sorted({a % rank for a in ([axis] if isinstance(axis, int) else axis)})


def reduced_axes(x: SpatialTensor, over: Sequence[int], keepdims: bool) -> tuple[Axis, ...]:
    """The axes of a reduction's result."""
    if keepdims:
        return tuple(axis.whole(1) if i in over else axis for i, axis in enumerate(x.axes))
    return tuple(axis for i, axis in enumerate(x.axes) if i not in over)


def number_of_elements(x: SpatialTensor, over: Sequence[int]) -> int:
    return math.prod(x.axes[i].size for i in over)


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

    def part(t: tf.Tensor) -> tf.Tensor:
        t = summed(t, over, keepdims=keepdims)
        return t / scalar(divisor, t.dtype) if divisor != 1 else t

    return trace.reduced(part, [x], reduced_axes(x, over, keepdims), name=name)


def mean(trace: Trace, x: SpatialTensor, over: Sequence[int], *, keepdims: bool = False) -> SpatialTensor:
    return total(trace, x, over, keepdims=keepdims, divisor=number_of_elements(x, over), name="mean")


def maximum(trace: Trace, x: SpatialTensor, over: Sequence[int], *, keepdims: bool = False) -> SpatialTensor:
    return trace.maximum(x, reduced_axes(x, over, keepdims), keepdims=keepdims, over=over)


def moments(
    trace: Trace, x: SpatialTensor, over: Sequence[int], *, keepdims: bool = False
) -> tuple[SpatialTensor, SpatialTensor]:
    """The mean and the biased variance over some axes, computed in two passes as in `tf.nn.moments`."""
    over = list(over)
    count = number_of_elements(x, over)
    center = mean(trace, x, over, keepdims=True)

    def squares(t: tf.Tensor, mean: tf.Tensor) -> tf.Tensor:
        # The derivative of the variance with respect to the mean is zero.
        t = tf.math.squared_difference(t, tf.stop_gradient(mean))
        return summed(t, over, keepdims=keepdims) / scalar(count, t.dtype)

    axes = reduced_axes(x, over, keepdims)
    variance = trace.reduced(squares, [x, center], axes, name="variance")
    if not keepdims:
        center = trace.reduced(lambda t: tf.squeeze(t, over), [center], axes, name="mean")
    return center, variance


def softmax(trace: Trace, x: SpatialTensor, over: Sequence[int], name: str = "softmax") -> SpatialTensor:
    """Softmax over some axes: the exponentials of the distance to the maximum, divided by their sum."""
    powers, sums, _ = exponentials(trace, x, over)
    return trace.pointwise(lambda t, s: t / tf.where(s == 0, tf.ones_like(s), s), [powers, sums], name=name)


def exponentials(
    trace: Trace, x: SpatialTensor, over: Sequence[int]
) -> tuple[SpatialTensor, SpatialTensor, SpatialTensor]:
    """The exponentials of the distance to the maximum over some axes, their sum over these axes, and the maximum."""
    # The maximum must be exact: for scores as low as masked ones, the exponentials of the distance to a rounded maximum
    # may overflow or all vanish.
    largest = trace.maximum(x, reduced_axes(x, over, True), keepdims=True, over=over, differentiable=False)
    # Beyond the image there is no maximum, and an infinite exponential would make the gradients infinite.
    distance = trace.pointwise(lambda t, m: t - tf.stop_gradient(m), [x, largest], name="distance")
    powers = trace.pointwise(tf.exp, [trace.filled(distance, 0.0)], name="powers")
    return powers, total(trace, powers, over, keepdims=True), largest
