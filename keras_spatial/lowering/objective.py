"""Losses and metrics of a partitioned model, from partial sums: predictions and labels are never gathered."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from keras_spatial.losses import SumsLoss, voxel_weights
from keras_spatial.lowering.relayout import among_blocks
from keras_spatial.lowering.tensors import Axis, SpatialTensor, mesh_shape_of
from keras_spatial.lowering.trace import Trace
from keras_spatial.metrics import SumsMetric
from keras_spatial.mtf.local import LocalOperation


def lower_loss(
    trace: Trace, loss: keras.losses.Loss, y_true: SpatialTensor, y_pred: SpatialTensor, weight: SpatialTensor | None
) -> SpatialTensor:
    """A loss as a scalar, the same on every device.

    Args:
        trace: the trace under way.
        loss: a `SumsLoss`, or any Keras loss that gives each voxel a value of its own.
        y_true: labels.
        y_pred: predictions, channels last.
        weight: sample weights per case or voxel, or None.

    Raises:
        ValueError: if the loss is neither.
    """
    y_pred = trace.cast(y_pred, loss.dtype)
    if isinstance(loss, SumsLoss):
        sums = sums_of_cases(trace, loss.sums, y_true, y_pred, weight, name=loss.name)
        voxels = _product(y_pred.shape[1:-1])
        return trace.reduced(lambda s: loss.from_sums(s, voxels), [sums], (), name=loss.name)
    return _lower_voxel_loss(trace, loss, y_true, y_pred, weight)


def _lower_voxel_loss(trace, loss, y_true, y_pred, weight) -> SpatialTensor:
    masks = _masks(trace, y_pred, weight)
    reduction = loss.reduction or "none"
    if reduction == "none":
        raise ValueError(f"Loss '{loss.name}' has no reduction. Received: reduction={loss.reduction!r}")
    count = 1.0 if reduction == "sum" else float(_product(y_pred.shape[:-1]))
    over_weights = reduction == "mean_with_sample_weight" and weight is not None

    def total(t: tf.Tensor, p: tf.Tensor, *masks: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        values = tf.convert_to_tensor(loss.call(tf.cast(t, p.dtype), p))
        if values.shape != p.shape[:-1]:
            raise ValueError(
                f"Loss '{loss.name}' does not give each voxel a value of its own, so it cannot be summed over the "
                f"mesh: use ks.losses.SoftDice for Dice, or a ks.losses.SumsLoss. Received: values of shape "
                f"{values.shape} for predictions of shape {p.shape}"
            )
        weights = tf.ones_like(values)
        for mask in masks:
            weights *= voxel_weights(mask, p)
        values = tf.where(weights == 0, tf.zeros_like(values), values * weights) if masks else values
        return tf.reduce_sum(values), tf.reduce_sum(weights)

    value, weights = trace.local(
        total, [y_true, y_pred, *masks], [((), y_pred.dtype), ((), y_pred.dtype)], name=loss.name
    )
    if over_weights:
        return trace.reduced(tf.math.divide_no_nan, [value, weights], (), name=loss.name)
    return trace.reduced(lambda v: v / count, [value], (), name=loss.name)


def lower_metric(
    trace: Trace,
    metric: keras.metrics.Metric,
    y_true: SpatialTensor,
    y_pred: SpatialTensor,
    weight: SpatialTensor | None,
) -> list[SpatialTensor]:
    """What one batch adds to a metric: a `SumsMetric`'s sums, or the increments of a Keras metric's variables.

    A Keras metric's state must be sums over voxels, as those of all of Keras's mean, accuracy, confusion-matrix and
    intersection-over-union metrics are.
    """
    if isinstance(metric, SumsMetric):
        y_pred = trace.cast(y_pred, metric.dtype)
        return [sums_of_cases(trace, metric.sums, y_true, y_pred, weight, name=metric.name)]
    masks = _masks(trace, y_pred, weight)
    if not metric.variables:
        raise ValueError(f"Metric '{metric.name}' has no state to add to. Received: {metric!r}")

    def increments(t: tf.Tensor, p: tf.Tensor, *masks: tf.Tensor) -> tuple[tf.Tensor, ...]:
        weights = None
        for mask in masks:
            mask = voxel_weights(mask, p)
            weights = mask if weights is None else weights * mask
        if weights is not None:
            weights = tf.broadcast_to(weights, p.shape[:-1])
        zeros = [tf.zeros(v.shape, v.dtype) for v in metric.variables]
        return tuple(metric.stateless_update_state(zeros, t, p, sample_weight=weights))

    outputs = [(tuple(Axis(f"state{i}", size) for i, size in enumerate(v.shape)), v.dtype) for v in metric.variables]
    return trace.local(increments, [y_true, y_pred, *masks], outputs, name=metric.name)


def update_metric(metric: keras.metrics.Metric, increments: Sequence[tf.Tensor]) -> None:
    """Add what `lower_metric` found, brought back from the mesh, to the metric."""
    if isinstance(metric, SumsMetric):
        metric.update_from_sums(increments[0])
    else:
        for variable, increment in zip(metric.variables, increments, strict=True):
            variable.assign_add(increment)


def sums_of_cases(trace: Trace, sums, y_true: SpatialTensor, y_pred: SpatialTensor, weight, name: str) -> SpatialTensor:
    """`sums` of every case of the batch, over its whole image, on every device: shape `(batch, number of sums)`."""
    masks = _masks(trace, y_pred, weight)
    batch = y_pred.axes[0]
    number = _number_of_sums(sums, y_true, y_pred)

    def on_slice(place: list, t: tf.Tensor, p: tf.Tensor, *masks: tf.Tensor) -> tuple[tf.Tensor, ...]:
        weights = None
        for mask in masks:
            mask = voxel_weights(mask, p)
            weights = mask if weights is None else weights * mask
        values = sums(t, p, weights)
        for coordinate in place:
            # Every device writes its own cases into a table of all; their sum is the whole table.
            values = among_blocks(values, 0, batch.blocks, coordinate)[: batch.size]
        return (tf.ensure_shape(values, [batch.size, number]),)

    axes = (Axis("cases", batch.size), Axis("sums", number))
    split = batch.split
    operation = LocalOperation(
        on_slice if split else lambda *slices: on_slice([], *slices),
        [t.value for t in (y_true, y_pred, *masks)],
        [(mesh_shape_of(axes), y_pred.dtype)],
        coordinates=[trace.mesh_axis(batch)] if split else [],
        name=name,
    )
    return SpatialTensor(operation.outputs[0], axes)


def _number_of_sums(sums, y_true: SpatialTensor, y_pred: SpatialTensor) -> int:
    specs = [tf.TensorSpec(x.shape, x.dtype) for x in (y_true, y_pred)]
    traced = tf.function(lambda t, p: sums(t, p, None), autograph=False).get_concrete_function(*specs)
    return traced.output_shapes[-1]


def _masks(trace: Trace, y_pred: SpatialTensor, weight: SpatialTensor | None) -> list[SpatialTensor]:
    inside = trace.inside(y_pred)
    return [mask for mask in (weight, inside) if mask is not None]


def _product(sizes: Sequence[int]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result
