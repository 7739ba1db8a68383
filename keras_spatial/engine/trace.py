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
    """Builds a step for the rules from `pointwise`, `windowed` and `reduced` operations and from reshards.

    Example:

    ```python
    class Double(keras.layers.Layer):
        def call(self, x):
            return 2 * x

    @ks.register_lowering(Double)
    def lower_double(layer, trace: ks.rules.Trace, x):
        return trace.pointwise(lambda x: 2 * x, [x], linear=True)

    with distribution.scope():
        inputs = keras.Input((64, 64, 64, 1))
        model = ks.Model(inputs, Double()(inputs))
    assert (model.predict(images) == 2 * images).all()
    ```
    """

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
        """Apply a function to each voxel's channels: activations, arithmetic, a dense layer on the channels.

        `linear` and `derivative_at_output` each let the operation be fused with the one before it (`engine.fusion`).

        Args:
            fn: a function from the inputs' shards and the weights to one shard, with the usual broadcasting.
            inputs: tensors of equal or broadcastable shapes.
            weights: Keras variables that `fn` uses.
            channels: the size of the result's last axis, if it differs from that of the inputs.
            dtype: the result's dtype, if it differs from that of the first input.
            linear: whether `fn` is linear in each element of the first input; adding a bias counts as linear.
            derivative_at_output: whether the derivative of `fn` is the same at its result as at its input, as for
                `relu`.
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
        """Apply a function to each voxel's neighbourhood: convolution, pooling, interpolation.

        Args:
            fn: a function from a shard with its halos, and the weights, to the result's shard. The halos hold the
                neighbours' values, and `fill` where the image ends, so `fn` adds no padding. It may return more
                elements than the result's shard has; those at the end are cut off.
            x: the tensor.
            halo: the halo widths before and after a shard, for the index of each axis that the window spans.
            axes: the result's axes.
            fill: the value of elements outside the image.
            weights: Keras variables that `fn` uses.
            native: a function that does the same on whole axes, including the padding. It is used if no axis that the
                window spans is sharded.
            summed: if `fn` sums over all channels: for the number of each weight that is summed over with them, the
                axis of that weight.
            dtype: the result's dtype, if it differs from that of the input.
            name: a name for the graph.
        """
        axes = tuple(axes)
        sharded = [i for i in halo if x.axes[i].sharded]
        if native is not None and not sharded:
            outputs = [(axes, dtype or x.dtype)]
            return self.local(native, [x], outputs, weights=weights, summed=summed, name=name)[0]
        halos = [Halo(i, self.mesh_axis(x.axes[i]), *halo[i]) for i in sharded if any(halo[i])]
        padding = {i: halo[i] for i in halo if i not in sharded and any(halo[i])}
        # Shards that reach beyond the image are filled themselves; otherwise only the halos that come from outside are.
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
        """Lay the same elements out in other shards, or replicate them; see `engine.reshard`."""
        return reshard.resharded(self, x, axes)

    def whole(self, x: SpatialTensor, indices: Sequence[int]) -> SpatialTensor:
        """All-gather some axes, so that every device holds them whole. Use it for small tensors."""
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
        """The maximum over some axes. Equal maxima share the gradient, as in TensorFlow.

        Args:
            x: the tensor.
            axes: the result's axes.
            keepdims: whether the result keeps the axes of the maximum, with size 1.
            over: the indices of the axes of the maximum; by default all image axes.
            differentiable: whether the maximum has a gradient. If so, equal maxima are averaged, which rounds.
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
        """Random numbers that are the same on all devices with the same shard of `axes`, and otherwise independent.

        Args:
            seed_generator: the seed generator of the Keras layer. It is advanced by one, as in a call of the layer.
            axes: the result's axes.
            sample: a function of a shape and a seed, such as `tf.random.stateless_normal`.
            transform: a function from the float32 sample to the result.
            dtype: the result's dtype.
        """
        axes = tuple(axes)
        seed = tf.zeros([2], tf.int32) if self.planning else tf.cast(seed_generator.next(), tf.int32)
        source = self.constant(seed, name="seed")
        split = [axis for axis in axes if axis.sharded]

        def on_shard(place: list, seed: tf.Tensor) -> tuple[tf.Tensor, ...]:
            number = 0
            for coordinate, axis in zip(place, split, strict=True):
                number = number * axis.shards + coordinate
            seed = tf.random.experimental.stateless_fold_in(seed, number)
            return (transform(sample([axis.length for axis in axes], seed)),)

        operation = LocalOperation(
            on_shard if split else lambda seed: on_shard([], seed),
            [source.value],
            [(mesh_shape_of(axes), dtype)],
            coordinates=[self.mesh_axis(axis) for axis in split],
            name="random",
        )
        return SpatialTensor(operation.outputs[0], axes)


def _filled_halos(
    halos: Sequence[Halo], edges: Sequence[Edge], fill: float
) -> Callable[[Intervals, Sequence[tf.Tensor]], list[tf.Tensor]]:
    """A function that fills the halos that come from outside the image, which are zeros, with another number."""

    def filled(intervals: Intervals, received: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        known = {edge.axis: (edge, interval) for edge, interval in zip(edges, intervals, strict=True) if edge.in_halos}
        results = []
        for number, halo in enumerate(halos):
            for value, after in zip(received[2 * number :][:2], (False, True), strict=True):
                # A halo contains parts of the halos of earlier axes, namely the corners.
                for axis in [h.axis for h in halos[: number + 1] if h.axis in known]:
                    edge, (low, high) = known[axis]
                    start = edge.before + edge.length if after and axis == halo.axis else 0
                    value = beyond(value, axis, (max(low - start, 0), max(high - start, 0)), fill)
                results.append(value)
        return results

    return filled
