"""Compute the sums over each case's image, which this package's losses and metrics need, from the shards' own sums."""

from collections.abc import Callable

import tensorflow as tf

from keras_spatial.engine.local import LocalOperation
from keras_spatial.engine.reshard import among_shards
from keras_spatial.engine.tensors import SpatialTensor, mesh_shape_of
from keras_spatial.engine.trace import Trace
from keras_spatial.layout import Axis
from keras_spatial.losses import voxel_weights
from keras_spatial.objective.whole import observed
from keras_spatial.runtimes.functions import static_sizes


def sums_of_cases(
    trace: Trace,
    sums: Callable,
    y_true: SpatialTensor,
    y_pred: SpatialTensor,
    weight: SpatialTensor | None,
    dtype: str,
    name: str,
) -> SpatialTensor:
    """The sums over the whole image of every case, replicated, of shape `(batch, number of sums)`.

    Args:
        trace: the trace of the step.
        sums: a function of labels, predictions and voxel weights, to an array of shape `(cases, number of sums)`.
        y_true, y_pred, weight: labels, predictions and sample weights; `weight` may be None.
        dtype: the dtype of the sums.
        name: the name of the loss or metric.
    """
    batch = y_pred.axes[0]
    inputs = [y_true, y_pred] if weight is None else [y_true, y_pred, weight]

    def of_shard(t: tf.Tensor, p: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
        p = tf.cast(p, dtype)
        return sums(t, p, voxel_weights(weights[0], p) if weights else None)

    found = observed(of_shard, *inputs)
    number = found.shapes[-1]

    def on_shard(place: list, *shards: tf.Tensor) -> tuple[tf.Tensor, ...]:
        values = found(*shards)
        for coordinate in place:
            # Every device writes its own cases into a table of all cases; the sum of these tables is the whole table.
            surplus = batch.length - static_sizes(values.shape)[0]
            values = tf.pad(values, [(0, surplus), (0, 0)]) if surplus else values
            values = among_shards(values, 0, batch.shards, coordinate)[: batch.size]
        return (tf.ensure_shape(values, [batch.size, number]),)

    axes = (Axis("cases", batch.size), Axis("sums", number))
    split = batch.sharded
    operation = LocalOperation(
        on_shard if split else lambda *shards: on_shard([], *shards),
        [t.value for t in inputs] + [trace.weight(v) for v in found.variables],
        [(mesh_shape_of(axes), tf.as_dtype(dtype))],
        coordinates=[trace.mesh_axis(batch)] if split else [],
        edges=trace.edges(inputs, [axes], name),
        name=name,
    )
    return SpatialTensor(operation.outputs[0], axes)
