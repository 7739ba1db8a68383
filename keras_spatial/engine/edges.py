"""Where the image ends within the shards: what lies beyond it is left out, or replaced, before a function sees it.

The shards of an axis are equally long, so the last ones may reach beyond the image. Which part of a shard lies inside
is known before anything runs: the few different cases (first, inner, last, beyond) get a function each, and the many
inner shards pay nothing. Only where one program serves every core (TPUs) is the place a tensor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from keras_spatial.runtimes.functions import scalar, static_sizes

# From and to which element a shard, with its halos, lies inside the image.
Interval = tuple[Any, Any]
Intervals = tuple[Interval, ...]


@dataclass(frozen=True)
class Edge:
    """The end of the image along one axis of an input.

    Attributes:
        input: the number of the input.
        axis: its axis.
        mesh_axis: the mesh axis over which it is sharded.
        length: elements of a shard.
        size: elements of the image.
        before, after: elements of the halos that the function sees around the shard.
        fill: what stands beyond the image; None if the function is to see only what lies inside.
        in_halos: whether halos alone reach beyond the image, and are filled by themselves.
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
        """What of the shard at a coordinate lies inside: integers for an integer, tensors for a tensor."""
        start = coordinate * self.length - self.before
        stop = start + self.before + self.length + self.after
        if isinstance(coordinate, tf.Tensor):
            low, high = tf.maximum(-start, 0), tf.minimum(stop, self.size) - start
            return low, tf.maximum(high, low)
        low = max(-start, 0)
        return low, max(min(stop, self.size) - start, low)


def is_empty(edges: Sequence[Edge], intervals: Intervals) -> bool:
    """Whether nothing is left of an input that is cropped."""
    return any(e.fill is None and low >= high for e, (low, high) in zip(edges, intervals, strict=True))


def cropped(x: tf.Tensor, axis: int, interval: Interval) -> tf.Tensor:
    """What of `x` lies inside the image along one axis."""
    low, high = interval
    if (low, high) == (0, x.shape[axis]):
        return x
    return x[(slice(None),) * axis + (slice(low, high),)]


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
