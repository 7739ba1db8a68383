"""Where the image ends within the shards: elements beyond it are removed or replaced before a function sees them.

The shards of an axis are equally long, so the last ones may reach beyond the image. Which part of a shard lies inside
the image is known before anything runs: each of the few cases (first, inner, last, beyond) gets its own function, and
the many inner shards pay nothing. Only on TPUs, where one program serves every core, is a shard's place a tensor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from keras_spatial.runtimes.functions import scalar, static_sizes

# The indices of the first element of a shard with its halos that lies inside the image, and of the one after the last.
Interval = tuple[Any, Any]
Intervals = tuple[Interval, ...]


@dataclass(frozen=True)
class Edge:
    """The end of the image along one axis of an input.

    Attributes:
        input: the number of the input.
        axis: the index of the input's axis.
        mesh_axis: the index of the mesh axis over which it is sharded.
        length: the number of elements of a shard.
        size: the number of elements of the image.
        before, after: the widths of the halos that the function sees around the shard.
        fill: the value beyond the image; None if the function sees only the elements inside the image.
        in_halos: whether only halos reach beyond the image, so that they are filled instead of the shards.
    """

    input: int
    axis: int
    mesh_axis: int
    length: int
    size: int
    before: int = 0
    after: int = 0
    fill: float | None = None
    in_halos: bool = False

    def interval(self, coordinate: Any) -> Interval:
        """The part inside the image of the shard at a coordinate: integers for an integer, tensors for a tensor."""
        start = coordinate * self.length - self.before
        stop = start + self.before + self.length + self.after
        if isinstance(coordinate, tf.Tensor):
            low, high = tf.maximum(-start, 0), tf.minimum(stop, self.size) - start
            return low, tf.maximum(high, low)
        low = max(-start, 0)
        return low, max(min(stop, self.size) - start, low)


def is_empty(edges: Sequence[Edge], intervals: Intervals) -> bool:
    """Whether cropping leaves nothing of some input."""
    return any(e.fill is None and low >= high for e, (low, high) in zip(edges, intervals, strict=True))


def cropped(x: tf.Tensor, axis: int, interval: Interval) -> tf.Tensor:
    """The part of `x` inside the image along one axis."""
    low, high = interval
    if (low, high) == (0, x.shape[axis]):
        return x
    # Not `x[...]`: the gradient of a strided slice takes ten times as long on CPUs as that of a plain one.
    sizes = static_sizes(x.shape)
    begin = [low if i == axis else 0 for i in range(len(sizes))]
    return tf.slice(x, begin, [high - low if i == axis else size for i, size in enumerate(sizes)])


def beyond(x: tf.Tensor, axis: int, interval: Interval, fill: float) -> tf.Tensor:
    """`x` with `fill` beyond the image along one axis."""
    low, high = interval
    size = static_sizes(x.shape)[axis]
    if isinstance(low, tf.Tensor):
        index = tf.range(size)
        inside = tf.reshape((index >= low) & (index < high), [-1 if i == axis else 1 for i in range(x.shape.rank)])
        return tf.where(inside, x, scalar(fill, x.dtype))
    low, high = min(low, size), min(max(high, low), size)
    if (low, high) == (0, size):
        return x
    if low >= high:
        return tf.fill(x.shape, scalar(fill, x.dtype))
    around = [(low, size - high) if i == axis else (0, 0) for i in range(x.shape.rank)]
    return tf.pad(cropped(x, axis, (low, high)), around, constant_values=scalar(fill, x.dtype))
