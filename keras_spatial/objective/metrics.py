"""The changes that one batch makes to a metric's state, computed without gathering predictions if possible."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import keras
import tensorflow as tf
from keras import ops, tree

from keras_spatial import keras_private
from keras_spatial.engine.tensors import SpatialTensor
from keras_spatial.engine.trace import Trace
from keras_spatial.layout import Axis
from keras_spatial.metrics import SumsMetric
from keras_spatial.objective.locality import (
    NotTraceable,
    Traced,
    check_that_keras_takes,
    check_traced,
    is_local,
    on_shards,
    traced,
    traced_changes,
)
from keras_spatial.objective.overrides import is_of_keras, keeps_update, overridden
from keras_spatial.objective.probe import Merge, NoMerge, merge_of
from keras_spatial.objective.refusal import refusal
from keras_spatial.objective.sums import sums_of_cases
from keras_spatial.rules.products import variable_tensor
from keras_spatial.rules.replication import replicated
from keras_spatial.rules.walk import lower_graph
from keras_spatial.runtimes.functions import scalar, static_sizes

_INSTEAD = "Write it with keras.ops alone, or as a ks.metrics.SumsMetric"


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
    if isinstance(metric, SumsMetric) and not overridden(metric, "sums", "update_from_sums", "result", "reset_state"):
        sums = sums_of_cases(trace, metric.sums, y_true, y_pred, weight, metric.dtype, metric.name)
        return Update(metric, [sums], lambda values: metric.update_from_sums(values[0]))
    _build(metric, y_true, y_pred)
    try:
        if not keeps_update(metric):
            return _by_rules(trace, metric, y_true, y_pred, weight)
        if not keras_private.is_mean_of_function(metric):
            return _merged(trace, metric, y_true, y_pred, weight, merge_of(metric, y_true, y_pred, weight))
        try:
            return _mean_of_function(trace, metric, y_true, y_pred, weight)
        except NotTraceable:
            if not is_of_keras(keras_private.wrapped_function(metric)):
                raise
            # Of Keras's own functions whose operations have no rule, such as top-k, the parts may still tell.
            return _merged(trace, metric, y_true, y_pred, weight, merge_of(metric, y_true, y_pred, weight))
    except (NotTraceable, NoMerge) as error:
        given = [y_true, y_pred] if weight is None else [y_true, y_pred, weight]
        check_that_keras_takes(_update_of(metric), *given)
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

    found = traced(values_of, y_true, y_pred)
    if len(y_pred.shape) > 1 and is_local(found, y_pred.shape[:-1]):
        return _merged(trace, metric, y_true, y_pred, weight, Merge(("mean", "mean")), found)

    def state(t: Any, p: Any, w: Any = None) -> Any:
        values, weights = keras_private.reduce_to_samplewise_values(values_of(t, p), w, ops.mean, metric.dtype)
        if weights is not None:
            count = ops.sum(weights)
        else:
            count = ops.sum(ops.ones_like(values)) if len(values.shape) else ops.ones_like(values)
        return ops.stack([ops.sum(values), ops.cast(count, metric.dtype)])

    inputs = [x for x in (y_true, y_pred, weight) if x is not None]
    (value,) = _lowered(trace, traced(state, *inputs), inputs)

    def apply(values: Sequence[tf.Tensor]) -> None:
        metric.total.assign_add(values[0][0])
        metric.count.assign_add(values[0][1])

    return Update(metric, [value], apply)


def _lowered(trace: Trace, found: Traced, inputs: Sequence[SpatialTensor]) -> list[SpatialTensor]:
    """What a traced function gives, each operation by its own rule."""
    check_traced(found)
    inputs = [*inputs, *(variable_tensor(trace, v) for v in found.variables)]
    try:
        return tree.flatten(lower_graph(found.graph, trace, inputs))
    except (ValueError, NotImplementedError, TypeError) as error:
        raise NotTraceable(str(error).split("\n")[0]) from error


def _update_of(metric: keras.metrics.Metric) -> Callable[..., None]:
    """What a batch changes of a metric, from labels, predictions and, if there are any, weights."""

    def update(y_true: Any, y_pred: Any, *weights: Any) -> None:
        metric.update_state(y_true, y_pred, **({"sample_weight": weights[0]} if weights else {}))

    return update


def _by_rules(
    trace: Trace,
    metric: keras.metrics.Metric,
    y_true: SpatialTensor,
    y_pred: SpatialTensor,
    weight: SpatialTensor | None,
) -> Update:
    """The new state of any metric, every operation of its update by its own rule."""
    inputs = [x for x in (y_true, y_pred, weight) if x is not None]
    own = {id(v) for v in metric.variables}
    found, changes = traced_changes(_update_of(metric), *inputs)
    if others := [v.path for v, _ in changes if id(v) not in own]:
        raise NotTraceable(f"it changes the variables {others}, which are not its own")
    values = iter([] if found is None else _lowered(trace, found, inputs))
    new = [next(values) if isinstance(value, keras.KerasTensor) else value for _, value in changes]
    read = [value for value in new if isinstance(value, SpatialTensor)]

    def apply(found: Sequence[tf.Tensor]) -> None:
        remaining = iter(found)
        for (variable, _), value in zip(changes, new, strict=True):
            variable.assign(next(remaining) if isinstance(value, SpatialTensor) else value)

    return Update(metric, read, apply)


def _merged(
    trace: Trace,
    metric: keras.metrics.Metric,
    y_true: SpatialTensor,
    y_pred: SpatialTensor,
    weight: SpatialTensor | None,
    merge: Merge,
    found: Traced | None = None,
) -> Update:
    """Keras's own update on every shard, and the sum of what the shards add.

    `found` is what gives the values of a mean, if it is one of a function of voxels.
    """
    voxels = math.prod(y_pred.shape[1:-1])
    inputs = [y_true, y_pred] if weight is None else [y_true, y_pred, weight]
    _check_aligned(metric, inputs)

    values_of = None if found is None else on_shards(found, y_pred.ndim - 1)

    def increments(t: tf.Tensor, p: tf.Tensor, *others: tf.Tensor) -> tuple[tf.Tensor, ...]:
        start = [(v, tf.zeros(v.shape, v.dtype)) for v in metric.variables]
        weights = others[: len(inputs) - 2]
        given = {"sample_weight": weights[0]} if weights else {}
        with keras.StatelessScope(start) as scope:
            if values_of is None:
                metric.update_state(t, p, **given)
            else:
                values, *mask = values_of(t, p, *others[len(weights) :])
                keras_private.set_mask(values, *mask)
                keras.metrics.Mean.update_state(cast(Any, metric), values, **given)
        new = [tf.convert_to_tensor(scope.get_current_value(v)) for v in metric.variables]
        share = math.prod(static_sizes(p.shape)[1:-1]) / voxels
        return tuple(
            value if kind == "sum" or share == 1 else value * scalar(share, value.dtype)
            for value, kind in zip(new, merge.kinds, strict=True)
        )

    outputs = [(tuple(Axis(f"state{i}", size) for i, size in enumerate(v.shape)), v.dtype) for v in metric.variables]
    weights = () if found is None else found.variables
    values = trace.local(increments, inputs, outputs, weights=weights, name=metric.name)
    return Update(metric, values, add_to_state(metric))


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
