"""Images sampled at arbitrary positions, such as rotated images: the shards of an image travel around the mesh."""

from collections.abc import Callable, Sequence

import tensorflow as tf

from keras_spatial.engine.interpolation import Part, interpolated, outside
from keras_spatial.engine.local import LocalOperation
from keras_spatial.engine.tensors import SpatialTensor, dimension_of, mesh_shape_of
from keras_spatial.engine.trace import Trace
from keras_spatial.layout import Axis
from keras_spatial.mesh_tensorflow import mtf

Positions = Callable[..., Sequence[tf.Tensor]]


def sampled(
    trace: Trace,
    x: SpatialTensor,
    axes: Sequence[Axis],
    positions: Positions,
    parameters: Sequence[SpatialTensor],
    *,
    linear: bool = True,
    fill_mode: str = "constant",
    fill_value: float = 0.0,
    name: str = "sampled",
) -> SpatialTensor:
    """Sample images at positions that are known only when a step runs, and that may lie on any device.

    Along the image axis with the most shards, every device gets all shards in turn, and adds the contribution of each
    to its own shard of the result. So it holds two shards of that axis at a time. Other sharded axes, which have few
    shards, are gathered.

    Args:
        trace: the trace of the step.
        x: the images.
        axes: the result's axes, sharded as those of `x`.
        positions: a function that computes positions in the image along each axis, in voxels, of shape
            `[batch, *result]` or one that broadcasts to it. Its arguments are the result's indices along each image
            axis (float32, such as `[1, n, 1]`) and the parameters.
        parameters: small tensors, such as the matrices of a transform.
        linear, fill_mode: as for `interpolated`.
        fill_value: the value beyond the image if `fill_mode` is `"constant"`.
        name: a name for the graph.
    """
    axes = tuple(axes)
    image = range(1, x.ndim - 1)
    split = [i for i in image if x.axes[i].sharded]
    ring = max(split, key=lambda i: x.axes[i].shards, default=None)
    band = trace.whole(x, [i for i in split if i != ring])
    sizes = [axis.size for axis in x.image_axes]
    placed = [i for i in image if axes[i].sharded]
    # The coordinates of the result's shard; the last one says which shard of the ring the device begins with.
    coordinates = [trace.mesh_axis(axes[i]) for i in placed]
    coordinates += [] if ring is None else [trace.mesh_axis(x.axes[ring])]
    shards = 1 if ring is None else x.axes[ring].shards
    shape = [axis.length for axis in axes]

    def contribution(hop: int, place: list, images: tf.Tensor, *others: tf.Tensor) -> tuple[tf.Tensor, ...]:
        before, values = others[: hop > 0], others[hop > 0 :]
        starts = {i: coordinate * axes[i].length for i, coordinate in zip(placed, place, strict=False)}
        index = [_along(tf.range(axes[i].length) + starts.get(i, 0), i, x.ndim) for i in image]
        found = [tf.broadcast_to(p, shape[:-1]) if p.shape[0] != shape[0] else p for p in positions(index, *values)]
        part = None
        if ring is not None:
            part = Part(ring, (place[-1] - hop) % shards * x.axes[ring].length, x.axes[ring].size)
        y = interpolated(images, found, linear=linear, fill_mode=fill_mode, part=part)
        if not hop and fill_value and fill_mode == "constant":
            y += tf.cast(fill_value * tf.expand_dims(outside(found, sizes, linear=linear), -1), y.dtype)
        y = tf.broadcast_to(y, shape)
        return (y + before[0] if before else y,)

    total: list[mtf.Tensor] = []
    for hop in range(shards):
        if hop and ring is not None:
            moved = mtf.shift(band.value, x.axes[ring].length, dimension_of(x.axes[ring]), wrap=True)
            band = SpatialTensor(moved, band.axes)

        def on_shard(place: list, *values: tf.Tensor, hop: int = hop) -> tuple[tf.Tensor, ...]:
            return contribution(hop, place, *values)

        operation = LocalOperation(
            on_shard if coordinates else lambda *values: on_shard([], *values),
            [band.value, *total, *(parameter.value for parameter in parameters)],
            [(mesh_shape_of(axes), x.dtype)],
            coordinates=coordinates,
            name=name,
        )
        total = [operation.outputs[0]]
    return SpatialTensor(total[0], axes)


def with_gradient(
    trace: Trace, x: SpatialTensor, y: SpatialTensor, gradient: Callable[[SpatialTensor], SpatialTensor]
) -> SpatialTensor:
    """Give `y`, which is computed from `x`, another gradient than that of the operations in between.

    Args:
        trace: the trace of the step.
        x: the tensor.
        y: the result.
        gradient: a function from the gradient with respect to `y` to the gradient with respect to `x`.
    """

    def of_inputs(output_grads: Sequence[mtf.Tensor], **_) -> list[mtf.Tensor]:
        # Elements beyond the image have no gradient; the operations before this one rely on that.
        return [trace.filled(gradient(SpatialTensor(output_grads[0], y.axes)), 0.0).value]

    operation = mtf.CustomGradientOperation([x.value], [x.value], [y.value], of_inputs, [])
    return SpatialTensor(operation.outputs[0], y.axes)


def _along(index: tf.Tensor, axis: int, rank: int) -> tf.Tensor:
    """Indices along one image axis, in a shape that broadcasts over the other axes but channels."""
    return tf.reshape(tf.cast(index, tf.float32), [-1 if i == axis else 1 for i in range(rank - 1)])
