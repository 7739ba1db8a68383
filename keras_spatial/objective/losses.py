"""Lower a loss to a scalar that is the same on every device and equals the value of Keras's own call."""

import math

import keras
import tensorflow as tf
from keras import tree

from keras_spatial import keras_private
from keras_spatial.engine.tensors import SpatialTensor
from keras_spatial.engine.trace import Trace
from keras_spatial.layout import Axis
from keras_spatial.losses import SumsLoss
from keras_spatial.objective.locality import NotTraceable, check_that_keras_takes, is_local, traced
from keras_spatial.objective.refusal import refusal
from keras_spatial.objective.sums import sums_of_cases
from keras_spatial.rules.replication import replicated
from keras_spatial.rules.walk import lower_graph
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
    if isinstance(loss, SumsLoss):
        sums = sums_of_cases(trace, loss.sums, y_true, y_pred, weight, loss.dtype, name)
        voxels = math.prod(y_pred.shape[1:-1])
        return trace.reduced(lambda s: loss.from_sums(s, voxels), [sums], (), name=name)
    if loss.reduction in (None, "none"):
        raise refusal("Loss", name, f"it has no reduction to a scalar (reduction={loss.reduction!r})", "Give it one")
    try:
        if is_per_voxel(loss, y_true, y_pred):
            return _per_voxel_loss(trace, loss, y_true, y_pred, weight)
        graph = traced(loss, y_true, y_pred, weight)
        return _by_rules(trace, loss, graph, y_true, y_pred, weight)
    except NotTraceable as error:
        check_that_keras_takes(loss, y_true, y_pred, weight)
        if trace.replicate:
            return _replicated(trace, loss, y_true, y_pred, weight, str(error))
        raise refusal("Loss", name, f"it does not consist only of keras.ops ({error})", _INSTEAD) from error


def is_per_voxel(loss: keras.losses.Loss, y_true: SpatialTensor, y_pred: SpatialTensor) -> bool:
    """Whether `loss.call` computes one value for each voxel, independently of the others.

    Raises:
        NotTraceable: if it does not consist of `keras.ops`.
    """
    if len(y_pred.shape) < 2:
        return False

    def values(t: keras.KerasTensor, p: keras.KerasTensor):
        return loss.call(*(keras.ops.convert_to_tensor(x, dtype=loss.dtype) for x in (t, p)))

    return is_local(traced(values, y_true, y_pred), y_pred.shape[:-1])


def _per_voxel_loss(
    trace: Trace,
    loss: keras.losses.Loss,
    y_true: SpatialTensor,
    y_pred: SpatialTensor,
    weight: SpatialTensor | None,
) -> SpatialTensor:
    """`keras.losses.Loss.__call__` with all-reduced sums: the sum of the values, of the weights and of the mask."""
    dtype = tf.as_dtype(loss.dtype)
    values_axes = y_pred.axes[:-1]
    count = math.prod(axis.size for axis in values_axes)
    weights = [] if weight is None else [_aligned_weight(trace, loss, weight, values_axes)]
    masks: list[bool] = []

    def total(t: tf.Tensor, p: tf.Tensor, *weights: tf.Tensor) -> tuple[tf.Tensor, ...]:
        values = tf.convert_to_tensor(loss.call(tf.cast(t, dtype), tf.cast(p, dtype)))
        mask = keras_private.mask_of(values)
        factors = [tf.cast(w, dtype) for w in weights]
        if mask is not None:
            factors.append(tf.cast(mask, dtype))
        masks[:] = [mask is not None]
        factor = None
        for other in factors:
            factor = other if factor is None else factor * other
        valid = tf.zeros([], dtype) if mask is None else tf.reduce_sum(tf.cast(mask, dtype))
        weighed = tf.zeros([], dtype) if factor is None else tf.reduce_sum(tf.broadcast_to(factor, values.shape))
        values = values if factor is None else values * factor
        return tf.reduce_sum(values), valid, weighed

    with tf.init_scope():
        specs = [tf.TensorSpec(x.shape, x.dtype) for x in (y_true, y_pred, *weights)]
        tf.function(total, autograph=False).get_concrete_function(*specs)
    masked = masks[0]
    outputs = [((), dtype)] * 3
    value, valid, weighed = trace.local(total, [y_true, y_pred, *weights], outputs, name=loss.name)
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
    graph: keras.Model,
    y_true: SpatialTensor,
    y_pred: SpatialTensor,
    weight: SpatialTensor | None,
) -> SpatialTensor:
    """Lower a loss that is a function of the whole image, such as Dice: each operation of its call by its own rule."""
    if tuple(graph.outputs[0].shape):
        raise refusal("Loss", loss.name, f"its call returns a tensor of shape {graph.outputs[0].shape}", "Reduce it")
    inputs = [x for x in (y_true, y_pred, weight) if x is not None]
    try:
        (value, *_) = tree.flatten(lower_graph(graph, trace, inputs))
    except (ValueError, NotImplementedError, TypeError) as error:
        if trace.replicate:
            return _replicated(trace, loss, y_true, y_pred, weight, str(error))
        raise refusal("Loss", loss.name, str(error).split("\n")[0], _INSTEAD) from error
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if replicas > 1:
        # Keras divides a loss by the number of replicas, which then sum it; here it is whole in every replica.
        value = trace.pointwise(lambda v: v * scalar(replicas, v.dtype), [value], name="unscaled")
    return value


def _replicated(trace, loss, y_true, y_pred, weight, reason: str) -> SpatialTensor:
    """Run the loss unchanged on whole tensors on every device."""

    class Whole(keras.Operation):
        def call(self, *tensors: tf.Tensor) -> tf.Tensor:
            return loss(*tensors)

    tensors = tuple(x for x in (y_true, y_pred, weight) if x is not None)
    return replicated(Whole(name=loss.name), trace, tensors, {}, reason=reason)
