"""Normalization by the statistics of the whole image and batch, as one operation.

If it were made of separate means, variances and products, its backward pass would hold three gradients of the image's
size at once, where one is enough. As one operation it reads the image once for both sums that the derivative needs, and
once more to write the gradient:

    dx = gamma / sigma * (dn - mean(dn) - n * mean(dn * n)),    n = (x - mean) / sigma

(Ioffe and Szegedy, "Batch Normalization", arXiv 1502.03167, section 3).
"""

import functools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import tensorflow as tf

from keras_spatial.engine.edges import Edge, Intervals, beyond, cropped
from keras_spatial.engine.identity import identity_of
from keras_spatial.engine.interning import InternedFunction
from keras_spatial.engine.local import differentiable_inputs, intervals_of, leads_to_differentiable_source, split_axes
from keras_spatial.engine.sums import summed
from keras_spatial.mesh_tensorflow import mtf
from keras_spatial.runtimes.functions import VariedFunction, derivative, static_sizes

Tail = Callable[[tf.Tensor], tf.Tensor]


class Normalization(mtf.Operation):
    """`gamma * (x - mean) / sqrt(variance + epsilon) + beta`, with moments over all axes of `x` but the last.

    Its outputs are the result, the mean and the biased variance. Mean and variance have shape `[channels]`, and no
    gradient flows through them.

    Args:
        x: a Mesh-TF tensor of shape `[batch, ..., channels]`. Its moments are computed in float32, or in float64 if
            that is its dtype.
        gamma, beta: the scale and the offset of shape `[channels]`, or None.
        edges: where the image ends within the shards of `x`.
        count: the number of elements over which each moment is computed.
        epsilon: a small number that is added to the variance.
        dtype: the result's dtype.
        name: a name for the graph.
    """

    def __init__(
        self,
        x: mtf.Tensor,
        gamma: mtf.Tensor | None,
        beta: mtf.Tensor | None,
        *,
        edges: Sequence[Edge],
        count: int,
        epsilon: float,
        dtype: tf.DType,
        name: str,
    ):
        self._present = tuple(t is not None for t in (gamma, beta))
        self.scales = gamma is not None
        super().__init__([x, *(t for t in (gamma, beta) if t is not None)], name=name)
        self.edges = tuple(edges)
        self.intervals: Any = None
        self.count, self.epsilon, self.dtype = count, epsilon, dtype
        self.moment_dtype = x.dtype if x.dtype == tf.float64 else tf.float32
        channels = mtf.Shape([x.shape.dims[-1]])
        self._outputs = [
            mtf.Tensor(self, x.shape, dtype),
            mtf.Tensor(self, channels, self.moment_dtype),
            mtf.Tensor(self, channels, self.moment_dtype),
        ]
        self.tails: list[Tail] = []
        self.moments: list = []
        leads_to_differentiable_source(self._outputs[0])

    def accepts(self, operation, mesh_impl: mtf.MeshImpl) -> bool:
        """Whether the next operation may become part of this one: its input is cheaper to compute than to keep."""
        return operation.elementwise and len(operation.inputs) == 1

    def absorb(self, operation) -> None:
        self.tails.append(lambda y, fn=operation.fn: fn(y)[0])

    # On one device.

    def named(self, arguments: Sequence[tf.Tensor]) -> tuple:
        """The operation's inputs x, gamma and beta, with None for those that are absent."""
        rest = iter(arguments[1:])
        return (arguments[0], *(next(rest) if present else None for present in self._present))

    def _inside(self, intervals: Intervals, x: tf.Tensor) -> tf.Tensor:
        for edge, interval in zip(self.edges, intervals, strict=True):
            x = cropped(x, edge.axis, interval)
        return x

    def _sum(self, intervals: Intervals, x: tf.Tensor) -> tuple[tf.Tensor, ...]:
        x = self._inside(intervals, x)
        return (_total(tf.cast(x, self.moment_dtype)) / self.count,)

    def _squares(self, intervals: Intervals, mean: tf.Tensor, x: tf.Tensor) -> tuple[tf.Tensor, ...]:
        x = self._inside(intervals, x)
        squares = _by_channel(tf.math.squared_difference, tf.cast(x, mean.dtype), mean)
        return (_total(squares) / self.count,)

    def _normalize(self, mean: tf.Tensor, variance: tf.Tensor, *arguments: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return (self._tail(self._before_tail(mean, variance, arguments)),)

    def _before_tail(self, mean: tf.Tensor, variance: tf.Tensor, arguments: Sequence[tf.Tensor]) -> tf.Tensor:
        x, gamma, beta = self.named(arguments)
        scale = tf.math.rsqrt(variance + self.epsilon)
        scale = scale if gamma is None else scale * tf.cast(gamma, scale.dtype)
        beta = tf.zeros_like(mean) if beta is None else tf.cast(beta, scale.dtype)
        return tf.cast(_scaled(tf.cast(x, scale.dtype), mean, scale, beta), self.dtype)

    def _tail(self, y: tf.Tensor) -> tf.Tensor:
        for tail in self.tails:
            y = tail(y)
        return y

    def derivative_sums(self, intervals, mean, variance, dy, *arguments) -> tuple[tf.Tensor, ...]:
        """This shard's partial sums `[sum(dn), sum(dn * n)]`, which are the gradients of beta and gamma; and `dn`.

        `dn` is the gradient with respect to the result before the tails. Without tails, x is the only input needed.
        """
        if self.tails:
            dy = derivative(self._tail, self._before_tail(mean, variance, arguments), dy)
        dn = tf.cast(self._inside(intervals, dy), mean.dtype)
        x = tf.cast(self._inside(intervals, arguments[0]), mean.dtype)
        n = _scaled(x, mean, tf.math.rsqrt(variance + self.epsilon), tf.zeros_like(mean))
        return tf.stack([_total(dn), _total(dn * n)]), dy

    def derivative(self, intervals, mean, variance, dn, sums, x, *gamma: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """The gradients with respect to the inputs, given the sums over the whole image."""
        inverse = tf.math.rsqrt(variance + self.epsilon)
        scale = inverse * tf.cast(gamma[0], inverse.dtype) if gamma else inverse
        means = sums / self.count
        dx = _scaled(tf.cast(x, mean.dtype), mean, inverse * means[1], means[0])
        # The rest is computed in the memory of `dx`; a second scaling in one pass would need another tensor.
        dx = _by_channel(tf.multiply, tf.cast(dn, dx.dtype) - dx, scale)
        for edge, interval in zip(self.edges, intervals, strict=True):
            dx = beyond(dx, edge.axis, interval, 0.0)
        return tf.cast(dx, x.dtype), *self.derivative_of_weights(sums)

    def derivative_of_weights(self, sums: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """The gradients with respect to gamma and beta, if the operation has them."""
        weights = self.inputs[1:]
        numbers = [number for number, present in zip((1, 0), self._present, strict=True) if present]
        return tuple(tf.cast(sums[n], w.dtype) for n, w in zip(numbers, weights, strict=True))

    def varied(self, method: Callable[..., tuple[tf.Tensor, ...]]) -> VariedFunction:
        """One of the operation's functions, whose first argument is the part of the shard inside the image."""
        return VariedFunction(
            lambda intervals: InternedFunction(functools.partial(method, intervals), self.identity(method, intervals))
        )

    def identity(self, method: Callable[..., tuple[tf.Tensor, ...]], intervals: Intervals = ()) -> Hashable | None:
        """The identity of what one of the operation's functions computes; None if it is not known."""
        numbers = (self.count, self.epsilon, self.dtype, self.moment_dtype, [t.dtype for t in self.inputs])
        return identity_of((method.__name__, type(self), numbers, self._present, self.tails, self.edges, intervals))

    # On the mesh.

    def lower(self, lowering: mtf.Lowering) -> None:
        mesh_impl = lowering.mesh_impl(self)
        x, *weights = [lowering.tensors[t].to_laid_out_tensor() for t in self.inputs]
        self.intervals = intervals_of(mesh_impl, self.edges)
        (mean,) = mesh_impl.slicewise(self.varied(self._sum), self.intervals, x)
        mean = self.reduce(mesh_impl, mean)
        (variance,) = mesh_impl.slicewise(self.varied(self._squares), self.intervals, mean, x)
        variance = self.reduce(mesh_impl, variance)
        self.moments = [mean, variance]
        normalize = InternedFunction(self._normalize, self.identity(self._normalize))
        (y,) = mesh_impl.slicewise(normalize, mean, variance, x, *weights)
        for output, value in zip(self.outputs, (y, mean, variance), strict=True):
            lowering.set_tensor_lowering(output, value)

    def reduce(self, mesh_impl: mtf.MeshImpl, partial):
        """All-reduce the partial sums of the shards."""
        axes = sorted(split_axes(mesh_impl, self.inputs[:1]))
        return mesh_impl.allreduce(partial, axes, "SUM") if axes else partial

    def gradient(self, grad_ys: Sequence[mtf.Tensor | None]) -> list[mtf.Tensor | None]:
        wanted = differentiable_inputs(self)
        if grad_ys[0] is None or not wanted:
            return [None] * len(self.inputs)
        gradients = dict(zip(wanted, _NormalizationGradient(self, grad_ys[0], wanted).outputs, strict=True))
        return [gradients.get(i) for i in range(len(self.inputs))]


class _NormalizationGradient(mtf.Operation):
    def __init__(self, forward: Normalization, dy: mtf.Tensor, wanted: Sequence[int]):
        self.forward, self.wanted = forward, list(wanted)
        super().__init__([dy], name=forward.name.split("/")[-1] + "_gradient")
        self._outputs = [mtf.Tensor(self, forward.inputs[i].shape, forward.inputs[i].dtype) for i in wanted]

    def lower(self, lowering: mtf.Lowering) -> None:
        mesh_impl, forward = lowering.mesh_impl(self), self.forward
        dy = lowering.tensors[self.inputs[0]].to_laid_out_tensor()
        x, *weights = [lowering.tensors[t].to_laid_out_tensor() for t in forward.inputs]
        sums_of = forward.varied(forward.derivative_sums)
        for_tails = weights if forward.tails else []
        sums, dn = mesh_impl.slicewise(sums_of, forward.intervals, *forward.moments, dy, x, *for_tails)
        sums = forward.reduce(mesh_impl, sums)
        if 0 in self.wanted:
            derivative = forward.varied(forward.derivative)
            gamma = weights[:1] if forward.scales else []
            found = mesh_impl.slicewise(derivative, forward.intervals, *forward.moments, dn, sums, x, *gamma)
        else:
            method = forward.derivative_of_weights
            found = (None, *mesh_impl.slicewise(InternedFunction(method, forward.identity(method)), sums))
        for i, output in zip(self.wanted, self.outputs, strict=True):
            lowering.set_tensor_lowering(output, found[i])


def _total(x: tf.Tensor) -> tf.Tensor:
    return summed(x, range(x.shape.rank - 1))


def _scaled(x: tf.Tensor, mean: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    """`(x - mean) * scale + offset`, with vectors that have one number per channel, the last axis of `x`."""
    *voxels, channels = static_sizes(x.shape)
    # TensorFlow's batch normalization counts elements in 32 bits on GPUs.
    if x.dtype != tf.float32 or math.prod(voxels) * channels > tf.int32.max:
        return _by_channel(lambda t, mean, scale, offset: (t - mean) * scale + offset, x, mean, scale, offset)
    # With given moments, it does this in one pass, in half the time of product and sum.
    image = tf.reshape(x, [1, math.prod(voxels), 1, channels])
    y, *_ = tf.raw_ops.FusedBatchNormV3(
        x=image, scale=scale, offset=offset, mean=mean, variance=tf.ones_like(mean), epsilon=0.0, is_training=False
    )
    return tf.reshape(y, x.shape)


def _by_channel(fn: Callable[..., tf.Tensor], x: tf.Tensor, *vectors: tf.Tensor) -> tf.Tensor:
    """Apply an elementwise function to a tensor and to vectors with one number per channel, the last axis.

    TensorFlow broadcasts short vectors slowly on CPUs, so several voxels are treated as one voxel with that many times
    the channels.
    """
    *voxels, channels = static_sizes(x.shape)
    together = math.gcd(math.prod(voxels), 64) or 1
    wide = fn(tf.reshape(x, [-1, together * channels]), *(tf.tile(v, [together]) for v in vectors))
    return tf.reshape(wide, x.shape)
