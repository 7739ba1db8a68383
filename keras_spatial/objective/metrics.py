"""The changes that one batch makes to a metric's state, computed without gathering predictions if possible."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf
from keras import ops, tree

from keras_spatial import keras_private
from keras_spatial.engine.tensors import SpatialTensor
from keras_spatial.engine.trace import Trace
from keras_spatial.layout import Axis
from keras_spatial.metrics import SumsMetric
from keras_spatial.objective.locality import NotTraceable, is_local, traced
from keras_spatial.objective.probe import Merge, NoMerge, merge_of
from keras_spatial.objective.refusal import refusal
from keras_spatial.objective.sums import sums_of_cases
from keras_spatial.rules.replication import replicated
from keras_spatial.rules.walk import lower_graph
from keras_spatial.runtimes.functions import scalar, static_sizes

_INSTEAD = "Write it as a function that uses only keras.ops, or as a ks.metrics.SumsMetric"


@dataclass(frozen=True)
class Update:
    """The changes that a batch makes to a metric.

    Attributes:
        metric: the metric.
        values: scalars or small tensors that are the same on every device.
        apply: a function that assigns these values to the metric once they are read from the mesh.
    """

    metric: keras.metrics.Metric
    values: list[SpatialTensor]
    apply: Callable[[Sequence[tf.Tensor]], None]


def lower_metric(
    trace: Trace,
    metric: keras.metrics.Metric,
    y_true: SpatialTensor,
    y_pred: SpatialTensor,
    weight: SpatialTensor | None,
) -> Update:
    """Lower a metric of labels and predictions.

    Args:
        trace: the trace of the step.
        metric: any Keras metric.
        y_true: the labels.
        y_pred: the predictions, channels last.
        weight: sample weights, or None.

    Raises:
        UnsupportedObjective: if there is no known way to merge its state from shards.
    """
    if isinstance(metric, SumsMetric):
        sums = sums_of_cases(trace, metric.sums, y_true, y_pred, weight, metric.dtype, metric.name)
        return Update(metric, [sums], lambda values: metric.update_from_sums(values[0]))
    _build(metric, y_true, y_pred)
    try:
        if keras_private.is_mean_of_function(metric):
            try:
                return _mean_of_function(trace, metric, y_true, y_pred, weight)
            except NotTraceable:
                # A function whose operations are unknown, such as top-k, may still have a known merge.
                return _merged(trace, metric, y_true, y_pred, weight, merge_of(metric, y_true, y_pred, weight))
        return _merged(trace, metric, y_true, y_pred, weight, merge_of(metric, y_true, y_pred, weight))
    except (NotTraceable, NoMerge) as error:
        if trace.replicate:
            return _replicated(trace, metric, y_true, y_pred, weight, str(error))
        reason = f"it does not consist only of keras.ops ({error})" if isinstance(error, NotTraceable) else str(error)
        raise refusal("Metric", metric.name, reason, _INSTEAD) from error


def _build(metric: keras.metrics.Metric, y_true: SpatialTensor, y_pred: SpatialTensor) -> None:
    with tf.init_scope():
        keras_private.build_metric(metric, *(tf.zeros((1, *x.shape[1:]), x.dtype) for x in (y_true, y_pred)))


def add_to_state(metric: keras.metrics.Metric) -> Callable[[Sequence[tf.Tensor]], None]:
    def apply(values: Sequence[tf.Tensor]) -> None:
        for variable, value in zip(metric.variables, values, strict=True):
            variable.assign_add(tf.cast(value, variable.dtype))

    return apply


def _mean_of_function(
    trace: Trace,
    metric: Any,
    y_true: SpatialTensor,
    y_pred: SpatialTensor,
    weight: SpatialTensor | None,
) -> Update:
    """`keras.metrics.MeanMetricWrapper.update_state`: the sum of the cases' means, and the number of cases."""
    function = keras_private.wrapped_function(metric)
    arguments = keras_private.function_arguments(metric)

    def values_of(t: Any, p: Any) -> Any:
        return function(t, p, **arguments)

    graph = traced(values_of, y_true, y_pred)
    if len(y_pred.shape) > 1 and is_local(graph, y_pred.shape[:-1]):
        return _merged(trace, metric, y_true, y_pred, weight, Merge(("mean", "mean")))

    def state(t: Any, p: Any, w: Any = None) -> Any:
        values, weights = keras_private.reduce_to_samplewise_values(values_of(t, p), w, ops.mean, metric.dtype)
        if weights is not None:
            count = ops.sum(weights)
        else:
            count = ops.sum(ops.ones_like(values)) if len(values.shape) else ops.ones_like(values)
        return ops.stack([ops.sum(values), ops.cast(count, metric.dtype)])

    inputs = [x for x in (y_true, y_pred, weight) if x is not None]
    graph = traced(state, *inputs)
    try:
        (found,) = tree.flatten(lower_graph(graph, trace, inputs))
    except (ValueError, NotImplementedError, TypeError) as error:
        raise NotTraceable(str(error).split("\n")[0]) from error

    def apply(values: Sequence[tf.Tensor]) -> None:
        metric.total.assign_add(values[0][0])
        metric.count.assign_add(values[0][1])

    return Update(metric, [found], apply)


def _merged(
    trace: Trace,
    metric: keras.metrics.Metric,
    y_true: SpatialTensor,
    y_pred: SpatialTensor,
    weight: SpatialTensor | None,
    merge: Merge,
) -> Update:
    """Run Keras's own update on every shard, and sum what the shards add to the state."""
    voxels = math.prod(y_pred.shape[1:-1])
    inputs = [y_true, y_pred] if weight is None else [y_true, y_pred, weight]
    _check_aligned(metric, inputs)

    def increments(t: tf.Tensor, p: tf.Tensor, *weights: tf.Tensor) -> tuple[tf.Tensor, ...]:
        zeros = [tf.zeros(v.shape, v.dtype) for v in metric.variables]
        given = {"sample_weight": weights[0]} if weights else {}
        found = metric.stateless_update_state(zeros, t, p, **given)
        share = math.prod(static_sizes(p.shape)[1:-1]) / voxels
        return tuple(
            value if kind == "sum" or share == 1 else value * scalar(share, value.dtype)
            for value, kind in zip(found, merge.kinds, strict=True)
        )

    outputs = [(tuple(Axis(f"state{i}", size) for i, size in enumerate(v.shape)), v.dtype) for v in metric.variables]
    return Update(metric, trace.local(increments, inputs, outputs, name=metric.name), add_to_state(metric))


def _check_aligned(metric: keras.metrics.Metric, inputs: Sequence[SpatialTensor]) -> None:
    """Check that labels and weights are sharded like predictions, so that no shard is compared with a whole tensor.

    Raises:
        NoMerge: if they are not.
    """
    *others, _ = (inputs[0], *inputs[2:], inputs[1])
    y_pred = inputs[1]
    for x in others:
        for i, axis in enumerate(y_pred.axes[:-1]):
            if axis.sharded and i < x.ndim and x.axes[i].size != 1 and not x.axes[i].cut_like(axis):
                raise NoMerge(
                    f"its labels or weights of shape {x.shape} do not align with predictions of shape {y_pred.shape}"
                )


def _replicated(trace, metric, y_true, y_pred, weight, reason: str) -> Update:
    """Run the metric unchanged on whole tensors on every device, and take its new state."""
    states = [tf.convert_to_tensor(v.value) for v in metric.variables]

    class Whole(keras.Operation):
        def call(self, *tensors: tf.Tensor) -> list[tf.Tensor]:
            count = 2 if weight is None else 3
            given = {"sample_weight": tensors[2]} if count == 3 else {}
            return list(metric.stateless_update_state(list(tensors[count:]), *tensors[:2], **given))

    tensors = [x for x in (y_true, y_pred, weight) if x is not None]
    state = [trace.constant(value, name="state") for value in states]
    values = tree.flatten(replicated(Whole(name=metric.name), trace, (*tensors, *state), {}, reason=reason))

    def apply(new: Sequence[tf.Tensor]) -> None:
        for variable, value in zip(metric.variables, new, strict=True):
            variable.assign(value)

    return Update(metric, values, apply)
