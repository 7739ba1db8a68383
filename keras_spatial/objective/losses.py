"""Lower a loss to a scalar that is the same on every device and equals the value of Keras's own call."""

import math

import keras
import tensorflow as tf
from keras import tree

from keras_spatial.engine.tensors import SpatialTensor
from keras_spatial.engine.trace import Trace
from keras_spatial.layout import Axis
from keras_spatial.losses import SumsLoss
from keras_spatial.objective.locality import (
    NotTraceable,
    Traced,
    check_traced,
    is_local,
    on_shards,
    traced,
)
from keras_spatial.objective.overrides import keeps_loss_call, overridden
from keras_spatial.objective.refusal import REFUSALS, refusal
from keras_spatial.objective.sums_of_cases import sums_of_cases
from keras_spatial.objective.whole import DrawsRandomNumbers, observed, on_whole
from keras_spatial.rules.walk import lower_graph
from keras_spatial.rules.weights import variable_tensor
from keras_spatial.runtimes.functions import scalar

_INSTEAD = "Write it only with keras.ops, or as a ks.losses.SumsLoss"


def lower_loss(
    trace: Trace, loss: keras.losses.Loss, y_true: SpatialTensor, y_pred: SpatialTensor, weight: SpatialTensor | None
) -> SpatialTensor:
    """Lower a loss of labels and predictions.

    Args:
        trace: the trace of the step.
        loss: any Keras loss.
        y_true: the labels.
        y_pred: the predictions, channels last.
        weight: sample weights, or None.

    Raises:
        UnsupportedObjective: if it cannot be computed on shards.
    """
    name = loss.name
    if isinstance(loss, SumsLoss) and not overridden(loss, "sums", "from_sums"):
        return _of_sums(trace, loss, y_true, y_pred, weight)
    own_call = isinstance(loss, SumsLoss) or not keeps_loss_call(loss)
    if loss.reduction in (None, "none") and not own_call:
        raise refusal("Loss", name, f"it has no reduction to a scalar (reduction={loss.reduction!r})", "Give it one")
    try:
        found = None if own_call else per_voxel(loss, y_true, y_pred)
        if found is not None:
            return _per_voxel_loss(trace, loss, found, y_true, y_pred, weight)
        return _by_rules(trace, loss, traced(loss, y_true, y_pred, weight), y_true, y_pred, weight)
    except NotTraceable as error:
        return _replicated(trace, loss, y_true, y_pred, weight, f"it does not consist only of keras.ops ({error})")


def _of_sums(
    trace: Trace, loss: SumsLoss, y_true: SpatialTensor, y_pred: SpatialTensor, weight: SpatialTensor | None
) -> SpatialTensor:
    voxels = math.prod(y_pred.shape[1:-1])
    try:
        sums = sums_of_cases(trace, loss.sums, y_true, y_pred, weight, loss.dtype, loss.name)
        found = observed(lambda s: loss.from_sums(s, voxels), sums)
    except DrawsRandomNumbers as error:
        raise refusal("Loss", loss.name, str(error), _INSTEAD) from error
    return trace.reduced(found, [sums], (), weights=found.variables, name=loss.name)


def per_voxel(loss: keras.losses.Loss, y_true: SpatialTensor, y_pred: SpatialTensor) -> Traced | None:
    """Trace `loss.call`, if it computes each voxel's value from that voxel alone; None if it does not.

    Raises:
        NotTraceable: if it does not consist of `keras.ops`.
    """
    if len(y_pred.shape) < 2:
        return None

    def values(t: keras.KerasTensor, p: keras.KerasTensor):
        return loss.call(*(keras.ops.convert_to_tensor(x, dtype=loss.dtype) for x in (t, p)))

    found = traced(values, y_true, y_pred)
    return found if is_local(found, y_pred.shape[:-1]) else None


def _per_voxel_loss(
    trace: Trace,
    loss: keras.losses.Loss,
    found: Traced,
    y_true: SpatialTensor,
    y_pred: SpatialTensor,
    weight: SpatialTensor | None,
) -> SpatialTensor:
    """`keras.losses.Loss.__call__` with all-reduced sums: the sum of the values, of the weights and of the mask."""
    dtype = tf.as_dtype(loss.dtype)
    values_axes = y_pred.axes[:-1]
    count = math.prod(axis.size for axis in values_axes)
    weights = [] if weight is None else [_aligned_weight(trace, loss, weight, values_axes)]
    masked = found.masked
    values_of = on_shards(found, len(values_axes))

    def total(t: tf.Tensor, p: tf.Tensor, *others: tf.Tensor) -> tuple[tf.Tensor, ...]:
        values, *mask = values_of(t, p, *others[len(weights) :])
        values = tf.cast(values, dtype)
        factors = [tf.cast(x, dtype) for x in (*others[: len(weights)], *mask)]
        factor = None
        for other in factors:
            factor = other if factor is None else factor * other
        valid = tf.reduce_sum(tf.cast(mask[0], dtype)) if mask else tf.zeros([], dtype)
        weighed = tf.zeros([], dtype) if factor is None else tf.reduce_sum(tf.broadcast_to(factor, values.shape))
        values = values if factor is None else values * factor
        return tf.reduce_sum(values), valid, weighed

    outputs = [((), dtype)] * 3
    inputs = [y_true, y_pred, *weights]
    value, valid, weighed = trace.local(
        total, inputs, outputs, weights=found.variables, differentiates=True, name=loss.name
    )
    if loss.reduction == "sum":
        return value
    if loss.reduction == "mean_with_sample_weight" and (masked or weights):
        if weights and not masked:
            # Keras sums the weights as they were given, before they are broadcast.
            share = math.prod(weights[0].shape) / count
            weighed = trace.pointwise(lambda w: w * scalar(share, w.dtype), [weighed], name="weights")
        return trace.reduced(tf.math.divide_no_nan, [value, weighed], (), name=loss.name)
    if masked and loss.reduction != "mean_with_sample_weight":
        return trace.reduced(tf.math.divide_no_nan, [value, valid], (), name=loss.name)
    return trace.reduced(lambda v: tf.math.divide_no_nan(v, scalar(count, v.dtype)), [value], (), name=loss.name)


def _aligned_weight(
    trace: Trace, loss: keras.losses.Loss, weight: SpatialTensor, values: tuple[Axis, ...]
) -> SpatialTensor:
    """Sample weights with one axis for each axis of the values, aligned from the right as in Keras.

    Raises:
        ValueError: if they do not broadcast to the values.
    """
    shape = list(weight.shape)
    sizes = [axis.size for axis in values]
    if len(shape) == len(sizes) + 1 and shape[-1] == 1:
        shape = shape[:-1]
    elif len(shape) + 1 == len(sizes) and sizes[-1] == 1:
        shape = [*shape, 1]
    shape = [1] * (len(sizes) - len(shape)) + shape
    if len(shape) != len(sizes) or any(n not in (1, size) for n, size in zip(shape, sizes, strict=True)):
        raise ValueError(
            f"Sample weights must broadcast to the values of loss '{loss.name}', as in Keras from the right: one per "
            f"voxel {tuple(sizes)}, or per case {(sizes[0], *[1] * (len(sizes) - 1))}. Received: {weight.shape}"
        )
    axes = [axis if n == axis.size and n > 1 else Axis(axis.name, 1) for n, axis in zip(shape, values, strict=True)]
    # Axes with more than one element keep their order; only axes of one element are added or removed.
    target = iter(a for a in weight.axes if a.size > 1)
    wanted = {a.name: axis for a, axis in zip(target, [a for a in axes if a.size > 1], strict=True)}
    weight = trace.reshard(weight, [wanted.get(a.name, a) if a.size > 1 else a for a in weight.axes])
    lengths = [axis.length for axis in axes]
    return trace.reduced(lambda w: tf.reshape(w, lengths), [weight], axes, name="weights")


def _by_rules(
    trace: Trace,
    loss: keras.losses.Loss,
    found: Traced,
    y_true: SpatialTensor,
    y_pred: SpatialTensor,
    weight: SpatialTensor | None,
) -> SpatialTensor:
    """Lower a loss of the whole image, such as Dice: each operation of its call is lowered by its own rule."""
    if tuple(found.graph.outputs[0].shape):
        shape = found.graph.outputs[0].shape
        raise refusal("Loss", loss.name, f"its call gives a tensor of shape {shape}", "Reduce it")
    check_traced(found)
    inputs = [x for x in (y_true, y_pred, weight) if x is not None]
    inputs += [variable_tensor(trace, v) for v in found.variables]
    try:
        (value, *_) = tree.flatten(lower_graph(found.graph, trace, inputs))
    except REFUSALS as error:
        return _replicated(trace, loss, y_true, y_pred, weight, str(error).split("\n")[0])
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if replicas > 1:
        # Keras divides a loss by the number of replicas, which then sum it; here it is whole in every replica.
        value = trace.pointwise(lambda v: v * scalar(replicas, v.dtype), [value], name="unscaled")
    return value


def _replicated(
    trace: Trace,
    loss: keras.losses.Loss,
    y_true: SpatialTensor,
    y_pred: SpatialTensor,
    weight: SpatialTensor | None,
    reason: str,
) -> SpatialTensor:
    """Compute the loss on whole tensors on every device, if the model allows that.

    Raises:
        UnsupportedObjective: if the model does not allow it.
        Exception: the error of Keras, if the loss fails in plain Keras too.
    """
    tensors = [x for x in (y_true, y_pred, weight) if x is not None]
    try:
        variables = observed(loss, *tensors).variables
    except DrawsRandomNumbers as error:
        raise refusal("Loss", loss.name, str(error), _INSTEAD) from error
    if not trace.replicate:
        raise refusal("Loss", loss.name, reason, _INSTEAD)
    return on_whole(trace, loss, tensors, variables, name=loss.name, reason=reason)
