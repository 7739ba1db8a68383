"""A trace: the Mesh-TF graph of one step of a model, built from the four kinds of operation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import keras
import tensorflow as tf

from keras_spatial.engine import reshard
from keras_spatial.engine.edges import Edge, Intervals, beyond
from keras_spatial.engine.graph import Graph, as_tuple
from keras_spatial.engine.halo import Halo, take
from keras_spatial.engine.local import LocalOperation
from keras_spatial.engine.tensors import SpatialTensor, broadcast_axes, mesh_shape_of
from keras_spatial.layout import Axis


@dataclass
class Trace(Graph):
    """What rules build a step of: `pointwise`, `windowed` and `reduced` operations, and changes of layout."""

    def pointwise(
        self,
        fn: Callable[..., tf.Tensor],
        inputs: Sequence[SpatialTensor],
        *,
        weights: Sequence[keras.Variable] = (),
        channels: int | None = None,
        dtype: tf.DType | str | None = None,
        linear: bool = False,
        derivative_at_output: bool = False,
        name: str = "pointwise",
    ) -> SpatialTensor:
        """A function of each voxel's channels: activations, arithmetic, a dense layer on the channels.

        Args:
            fn: from the inputs' shards and the weights to one shard, with the usual broadcasting.
            inputs: tensors of equal or broadcastable shapes.
            weights: Keras variables that `fn` uses.
            channels: size of the result's last axis, where it differs from the inputs'.
            dtype: the result's dtype, where it differs from the first input's.
            linear: whether `fn` is linear in the first input, element by element, such as adding a bias.
            derivative_at_output: whether the derivative of `fn` at its result is that at its input, as for `relu`.
                Either lets it become part of the operation before it (`engine.fusion`).
            name: a name for the graph.
        """
        inputs = reshard.aligned(self, inputs)
        axes = broadcast_axes(inputs)
        if channels is not None:
            axes = (*axes[:-1], Axis(axes[-1].name, channels))
        return self.local(
            fn,
            inputs,
            [(axes, dtype or inputs[0].dtype)],
            weights=weights,
            elementwise=len(inputs) == 1 and channels is None,
            linear=linear,
            derivative_at_output=derivative_at_output,
            name=name,
        )[0]

    def windowed(
        self,
        fn: Callable[..., tf.Tensor],
        x: SpatialTensor,
        halo: Mapping[int, tuple[int, int]],
        axes: Sequence[Axis],
        *,
        fill: float = 0.0,
        weights: Sequence[keras.Variable] = (),
        native: Callable[..., tf.Tensor] | None = None,
        summed: Mapping[int, int] | None = None,
        dtype: tf.DType | str | None = None,
        name: str = "windowed",
    ) -> SpatialTensor:
        """A function of each voxel's neighbourhood: convolution, pooling, interpolation.

        Args:
            fn: from a shard with its halos, and the weights, to the result's shard. It sees neighbours' values in
                the halos, and `fill` wherever the image ends; so it pads nothing itself. It may return more than
                the result's shard holds: the surplus above is cut off.
            x: the tensor.
            halo: for each axis of the tensor that the window spans, elements below and above.
            axes: the result's axes.
            fill: what stands outside the image.
            weights: Keras variables that `fn` uses.
            native: the same function for a whole axis, padding included. It is used where no axis that the window
                spans is split.
            summed: if `fn` sums over all channels: by a weight's number its axis that is summed over with them.
            dtype: the result's dtype, where it differs from the input's.
            name: a name for the graph.
        """
        axes = tuple(axes)
        sharded = [i for i in halo if x.axes[i].sharded]
        if native is not None and not sharded:
            outputs = [(axes, dtype or x.dtype)]
            return self.local(native, [x], outputs, weights=weights, summed=summed, name=name)[0]
        halos = [Halo(i, self.mesh_axis(x.axes[i]), *halo[i]) for i in sharded if any(halo[i])]
        padding = {i: halo[i] for i in halo if i not in sharded and any(halo[i])}
        # Where shards reach beyond the image it is the shards that are filled; else only what comes from outside it.
        outside = [halo.axis for halo in halos if fill and not x.axes[halo.axis].padded]
        edges = [
            Edge(0, i, self.mesh_axis(x.axes[i]), x.axes[i].length, x.axes[i].size, *halo[i], fill, i in outside)
            for i in sharded
            if x.axes[i].padded or i in outside
        ]
        shape = [axis.length for axis in axes]

        def on_shard(shard: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
            result = fn(shard, *weights)
            for i, length in enumerate(shape):
                result = take(result, i, 0, length)
            return result

        operation = LocalOperation(
            lambda *shards: as_tuple(on_shard(*shards)),
            [x.value] + [self.weight(w) for w in weights],
            [(mesh_shape_of(axes), tf.as_dtype(dtype or x.dtype))],
            halos=halos,
            paddings=padding,
            fill=fill,
            on_halos=_filled_halos(halos, edges, fill) if outside else None,
            edges=edges,
            summed=summed,
            name=name,
        )
        return SpatialTensor(operation.outputs[0], axes)

    def reshard(self, x: SpatialTensor, axes: Sequence[Axis]) -> SpatialTensor:
        """The same elements in other shards, or replicated: see `engine.reshard`."""
        return reshard.resharded(self, x, axes)

    def whole(self, x: SpatialTensor, indices: Sequence[int]) -> SpatialTensor:
        """The tensor with some axes all-gathered, so that every device holds them whole: for small tensors."""
        return reshard.whole(self, x, indices)

    def maximum(
        self,
        x: SpatialTensor,
        axes: Sequence[Axis],
        *,
        keepdims: bool,
        over: Sequence[int] | None = None,
        differentiable: bool = True,
        name: str = "maximum",
    ) -> SpatialTensor:
        """The maximum over some axes. Its gradient is shared by equal maxima, as TensorFlow's is.

        Args:
            x: the tensor.
            axes: the result's axes.
            keepdims: whether they keep the axes of the maximum, with size 1.
            over: the axes of the maximum; by default all image axes.
            differentiable: whether it has a gradient. Then equal maxima are averaged, which rounds.
            name: a name for the graph.
        """
        over = list(range(1, x.ndim - 1) if over is None else over)
        axes = tuple(axes)
        kept = tuple(axis.whole(1) if i in over else axis for i, axis in enumerate(x.axes))
        operation = LocalOperation(
            lambda t: (tf.reduce_max(t, over, keepdims=True),),
            [x.value],
            [(mesh_shape_of(kept), x.dtype)],
            edges=self.edges([x], [kept], name),
            reduction="MAX",
            name=name,
        )
        maximum = SpatialTensor(operation.outputs[0], kept)
        if not (differentiable and x.dtype.is_floating):
            return maximum if keepdims else self.reduced(lambda t: tf.squeeze(t, over), [maximum], axes, name=name)

        def count(t: tf.Tensor, m: tf.Tensor) -> tf.Tensor:
            return tf.reduce_sum(tf.cast(t == m, tf.float32), over, keepdims=True)

        def share(t: tf.Tensor, n: tf.Tensor, m: tf.Tensor) -> tf.Tensor:
            shares = tf.where(t == m, t / tf.cast(tf.maximum(n, 1.0), t.dtype), tf.zeros_like(t))
            return tf.reduce_sum(shares, over, keepdims=keepdims)

        counts = self.reduced(count, [x, maximum], kept, dtype=tf.float32, name=f"{name}_count")
        return self.reduced(share, [x, counts, maximum], axes, name=name)

    def random(
        self,
        seed_generator: keras.random.SeedGenerator,
        axes: Sequence[Axis],
        sample: Callable[..., tf.Tensor],
        transform: Callable[[tf.Tensor], tf.Tensor],
        dtype: tf.DType,
    ) -> SpatialTensor:
        """Random numbers, the same on all devices that hold the same part of `axes`, and otherwise independent.

        Args:
            seed_generator: the Keras layer's; it is advanced by one, as in a call of the layer.
            axes: the result's axes.
            sample: such as `tf.random.stateless_normal`.
            transform: from the float32 sample to the result.
            dtype: the result's dtype.
        """
        axes = tuple(axes)
        seed = tf.zeros([2], tf.int32) if self.planning else tf.cast(seed_generator.next(), tf.int32)
        source = self.constant(seed, name="seed")
        split = [axis for axis in axes if axis.sharded]

        def on_slice(place: list, seed: tf.Tensor) -> tuple[tf.Tensor, ...]:
            number = 0
            for coordinate, axis in zip(place, split, strict=True):
                number = number * axis.shards + coordinate
            seed = tf.random.experimental.stateless_fold_in(seed, number)
            return (transform(sample([axis.length for axis in axes], seed)),)

        operation = LocalOperation(
            on_slice if split else lambda seed: on_slice([], seed),
            [source.value],
            [(mesh_shape_of(axes), dtype)],
            coordinates=[self.mesh_axis(axis) for axis in split],
            name="random",
        )
        return SpatialTensor(operation.outputs[0], axes)


def _filled_halos(
    halos: Sequence[Halo], edges: Sequence[Edge], fill: float
) -> Callable[[Intervals, Sequence[tf.Tensor]], list[tf.Tensor]]:
    """Halos that come from outside the image, which are zeros, filled with another number."""

    def filled(intervals: Intervals, received: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        known = {edge.axis: (edge, interval) for edge, interval in zip(edges, intervals, strict=True) if edge.in_halos}
        results = []
        for number, halo in enumerate(halos):
            for value, above in zip(received[2 * number :][:2], (False, True), strict=True):
                # A halo holds those of the axes before its own, and so corners.
                for axis in [h.axis for h in halos[: number + 1] if h.axis in known]:
                    edge, (low, high) = known[axis]
                    start = edge.before + edge.length if above and axis == halo.axis else 0
                    value = beyond(value, axis, (max(low - start, 0), max(high - start, 0)), fill)
                results.append(value)
        return results

    return filled
