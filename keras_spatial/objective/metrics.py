"""The changes that one batch makes to a metric's state, computed without gathering predictions if possible."""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
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
    check_traced,
    is_local,
    on_shards,
    symbolic,
    traced,
    traced_changes,
)
from keras_spatial.objective.overrides import is_of_keras, keeps_update, overridden
from keras_spatial.objective.prepared import keras_own, prepared_arguments, prepares
from keras_spatial.objective.probe import Merge, NoMerge, merge_of
from keras_spatial.objective.refusal import REFUSALS, refusal
from keras_spatial.objective.sums_of_cases import sums_of_cases
from keras_spatial.objective.whole import DrawsRandomNumbers, observed, on_whole
from keras_spatial.rules.walk import lower_graph
from keras_spatial.rules.weights import variable_tensor
from keras_spatial.runtimes.functions import scalar, static_sizes

_INSTEAD = "Write it with keras.ops alone, or as a ks.metrics.SumsMetric"


@dataclass(frozen=True)
class Update:
    """The changes that a batch makes to a metric.

    Attributes:
        metric: the metric.
        values: scalars or small tensors, the same on every device.
        apply: a function that takes the values as they were read from the mesh, and changes the metric's state.
        new: the metric's new state, by the `id` of each variable; empty if `apply` adds to the current state.
    """

    metric: keras.metrics.Metric
    values: list[SpatialTensor]
    apply: Callable[[Sequence[tf.Tensor]], None]
    new: dict[int, Any] = field(default_factory=dict)


def lower_metric(
    trace: Trace,
    metric: keras.metrics.Metric,
    y_true: SpatialTensor,
    y_pred: SpatialTensor,
    weight: SpatialTensor | None,
    before: Update | None = None,
) -> Update:
    """Lower a metric of labels and predictions.

    Args:
        trace: the trace of the step.
        metric: any Keras metric.
        y_true: the labels.
        y_pred: the predictions, channels last.
        weight: sample weights, or None.
        before: the update of the same metric for an earlier output of the model, if there is one.

    Raises:
        UnsupportedObjective: if there is no known way to merge its state from shards.
    """
    if isinstance(metric, SumsMetric) and not overridden(metric, "sums", "update_from_sums", "result", "reset_state"):
        try:
            sums = sums_of_cases(trace, metric.sums, y_true, y_pred, weight, metric.dtype, metric.name)
        except DrawsRandomNumbers as error:
            raise refusal("Metric", metric.name, str(error), _INSTEAD) from error
        return Update(metric, [sums], lambda values: metric.update_from_sums(values[0]))
    _build(metric, y_true, y_pred)
    earlier = {} if before is None else before.new
    try:
        update = _on_shards(trace, metric, y_true, y_pred, weight, earlier)
    except (NotTraceable, NoMerge) as error:
        reason = f"it does not consist only of keras.ops ({error})" if isinstance(error, NotTraceable) else str(error)
        update = _replicated(trace, metric, y_true, y_pred, weight, earlier, reason)
    if before is not None and bool(update.new) != bool(earlier):
        raise refusal("Metric", metric.name, "it is used for several outputs of different kinds", "Use one for each")
    return update


def _on_shards(
    trace: Trace,
    metric: keras.metrics.Metric,
    y_true: SpatialTensor,
    y_pred: SpatialTensor,
    weight: SpatialTensor | None,
    earlier: dict[int, Any],
) -> Update:
    if prepares(metric):
        with suppress(NotTraceable, NoMerge):
            return _prepared(trace, metric, y_true, y_pred, weight)
    if not keeps_update(metric):
        return _by_rules(trace, metric, y_true, y_pred, weight, earlier)
    if keras_private.is_mean_of_function(metric):
        try:
            return _mean_of_function(trace, metric, y_true, y_pred, weight)
        except NotTraceable:
            # Keras's own functions with operations that have no rule, such as top-k, may still be merged from parts.
            if not is_of_keras(keras_private.wrapped_function(metric)):
                raise
    return _merged(trace, metric, y_true, y_pred, weight, merge_of(metric, y_true, y_pred, weight))


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


def _lowered(
    trace: Trace, found: Traced, inputs: Sequence[SpatialTensor], earlier: dict[int, Any] | None = None
) -> list[SpatialTensor]:
    """Lower a traced function, each operation by its own rule.

    `earlier` has the new values of variables, by their `id`, that the step has already changed.
    """
    check_traced(found)
    known = earlier or {}
    inputs = [*inputs, *(known[id(v)] if id(v) in known else variable_tensor(trace, v) for v in found.variables)]
    try:
        return tree.flatten(lower_graph(found.graph, trace, inputs))
    except REFUSALS as error:
        raise NotTraceable(str(error).split("\n")[0]) from error


def _update_of(metric: keras.metrics.Metric) -> Callable[..., None]:
    """`metric.update_state` as a function of labels, predictions and, if there are any, weights."""

    def update(y_true: Any, y_pred: Any, *weights: Any) -> None:
        metric.update_state(y_true, y_pred, **({"sample_weight": weights[0]} if weights else {}))

    return update


def _by_rules(
    trace: Trace,
    metric: keras.metrics.Metric,
    y_true: SpatialTensor,
    y_pred: SpatialTensor,
    weight: SpatialTensor | None,
    earlier: dict[int, Any],
) -> Update:
    """Lower any metric to its new state: each operation of its update is lowered by its own rule."""
    inputs = [x for x in (y_true, y_pred, weight) if x is not None]
    own = {id(v) for v in metric.variables}
    found, changes = traced_changes(_update_of(metric), *inputs)
    if others := [v.path for v, _ in changes if id(v) not in own]:
        raise NotTraceable(f"it changes the variables {others}, which are not its own")
    values = iter([] if found is None else _lowered(trace, found, inputs, earlier))
    new = [next(values) if isinstance(value, keras.KerasTensor) else value for _, value in changes]
    read = [value for value in new if isinstance(value, SpatialTensor)]

    def apply(found: Sequence[tf.Tensor]) -> None:
        remaining = iter(found)
        for (variable, _), value in zip(changes, new, strict=True):
            variable.assign(next(remaining) if isinstance(value, SpatialTensor) else value)

    states = {
        id(variable): value if isinstance(value, SpatialTensor) else trace.constant(value)
        for (variable, _), value in zip(changes, new, strict=True)
    }
    return Update(metric, read, apply, earlier | states)


def _prepared(
    trace: Trace,
    metric: keras.metrics.Metric,
    y_true: SpatialTensor,
    y_pred: SpatialTensor,
    weight: SpatialTensor | None,
) -> Update:
    """Lower the metric's own preparation by the operations' rules, and then run Keras's update on the shards."""
    inputs = [x for x in (y_true, y_pred, weight) if x is not None]
    labels, predictions, *weights = _lowered(trace, prepared_arguments(metric, y_true, y_pred, weight), inputs)
    class_numbers = predictions.ndim == y_pred.ndim - 1
    if class_numbers:
        if labels.ndim != predictions.ndim or any(w.ndim > predictions.ndim for w in weights):
            raise NotTraceable("it passes class numbers to Keras together with labels or weights of another rank")
        labels, predictions = (_with_channels(trace, x) for x in (labels, predictions))
    elif predictions.ndim != y_pred.ndim or predictions.axes[-1].sharded:
        raise NotTraceable(f"it passes predictions of shape {predictions.shape} to Keras")
    own = keras_own(metric, with_channels=class_numbers)
    given = weights[0] if weights else None
    merge = merge_of(own, labels, predictions, given)
    return replace(_merged(trace, own, labels, predictions, given, merge), metric=metric)


def _with_channels(trace: Trace, x: SpatialTensor) -> SpatialTensor:
    symbol = symbolic(x)
    return lower_graph(keras.Model(symbol, ops.expand_dims(symbol, -1)), trace, [x])


def _merged(
    trace: Trace,
    metric: keras.metrics.Metric,
    y_true: SpatialTensor,
    y_pred: SpatialTensor,
    weight: SpatialTensor | None,
    merge: Merge,
    found: Traced | None = None,
) -> Update:
    """Run Keras's own update on every shard, and sum the contributions of the shards.

    For the mean of a function of voxels, `found` is that function.
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


def _replicated(
    trace: Trace,
    metric: keras.metrics.Metric,
    y_true: SpatialTensor,
    y_pred: SpatialTensor,
    weight: SpatialTensor | None,
    earlier: dict[int, Any],
    reason: str,
) -> Update:
    """Compute the metric's new state from whole tensors on every device, if the model allows that.

    Raises:
        UnsupportedObjective: if the model does not allow it.
        Exception: the error of Keras, if the metric fails in plain Keras too.
    """
    tensors = [x for x in (y_true, y_pred, weight) if x is not None]
    update = _update_of(metric)
    own = list(metric.variables)

    def new_state(start: Sequence[Any], *given: tf.Tensor) -> list[tf.Tensor]:
        with keras.StatelessScope([*zip(own, start, strict=True), *((v, tf.convert_to_tensor(v)) for v in others)]):
            update(*given)
            return [tf.convert_to_tensor(v) for v in own]

    others: list[keras.Variable] = []
    try:
        zeros = [tf.zeros(v.shape, v.dtype) for v in own]
        read = observed(lambda *given: new_state(zeros, *given), *tensors).variables
    except DrawsRandomNumbers as error:
        raise refusal("Metric", metric.name, str(error), _INSTEAD) from error
    if not trace.replicate:
        raise refusal("Metric", metric.name, reason, _INSTEAD)
    others += [v for v in read if not any(v is known for known in own)]
    state = [earlier[id(v)] if id(v) in earlier else trace.constant(tf.convert_to_tensor(v.value)) for v in own]

    def whole(*given: tf.Tensor) -> list[tf.Tensor]:
        return new_state(given[len(tensors) :], *given[: len(tensors)])

    found = on_whole(trace, whole, [*tensors, *state], others, name=metric.name, reason=reason)
    values = tree.flatten(found)

    def apply(new: Sequence[tf.Tensor]) -> None:
        for variable, value in zip(own, new, strict=True):
            variable.assign(value)

    return Update(metric, values, apply, {id(v): value for v, value in zip(own, values, strict=True)})
