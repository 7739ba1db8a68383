"""Lower the losses and metrics of a compiled model, combined as Keras combines them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf
from keras import tree

from keras_spatial import keras_private
from keras_spatial.engine.tensors import SpatialTensor
from keras_spatial.engine.trace import Trace
from keras_spatial.objective.losses import lower_loss
from keras_spatial.objective.metrics import Update, lower_metric
from keras_spatial.objective.refusal import UnsupportedObjective
from keras_spatial.runtimes.blocks import as_tensor
from keras_spatial.runtimes.functions import scalar


@dataclass(frozen=True)
class Objective:
    """The losses and metrics of a step.

    Attributes:
        loss: the total loss, a scalar, without the regularization of weights.
        losses: each loss by its number among the compiled ones.
        updates: the changes that the batch makes to the metrics.
    """

    loss: SpatialTensor
    losses: dict[int, SpatialTensor]
    updates: tuple[Update, ...]

    @property
    def read(self) -> list[SpatialTensor]:
        """All tensors that are read from the mesh."""
        return [self.loss, *self.losses.values(), *(value for update in self.updates for value in update.values)]


def lower_objective(trace: Trace, model: keras.Model, outputs: Any, labels: Any, sample_weight: Any) -> Objective:
    """Add a compiled model's losses and metrics to a forward pass.

    Args:
        trace: the trace of the step.
        model: a compiled model.
        outputs: the model's outputs, `SpatialTensor`s in the model's structure.
        labels, sample_weight: tensors or `LocalBlocks`, as they were given to Keras.

    Raises:
        ValueError: if there is no loss, or labels are missing.
        UnsupportedObjective: if a loss or metric cannot be computed on shards.
    """
    dtype = keras_private.loss_dtype(model)
    handles = _Handles(trace)
    y_pred, y_true, weights = (handles.of(x) for x in (outputs, labels, sample_weight))
    total, losses = None, {}
    for call in keras_private.loss_calls(model, y_true, y_pred, weights):
        loss = trace.cast(lower_loss(trace, call.called, *handles.tensors(call)), dtype)
        losses[call.number] = loss
        term = loss if call.factor == 1 else trace.pointwise(_times(call.factor), [loss], name="weighted")
        if call.factor:
            total = term if total is None else trace.pointwise(tf.add, [total, term], name="total_loss")
    for activity in trace.losses:
        term = trace.cast(activity, dtype)
        total = term if total is None else trace.pointwise(tf.add, [total, term], name="total_loss")
    if total is None:
        raise ValueError(f"Model '{model.name}' has no loss: compile it with one.")
    updates: list[Update] = []
    latest: dict[int, Update] = {}
    for call in keras_private.metric_calls(model, y_true, y_pred, weights):
        updates.append(lower_metric(trace, call.called, *handles.tensors(call), before=latest.get(id(call.called))))
        latest[id(call.called)] = updates[-1]
    return Objective(total, losses, tuple(updates))


def _times(factor: float) -> Callable[[tf.Tensor], tf.Tensor]:
    return lambda value: value * scalar(factor, value.dtype)


class _Handles:
    """Symbolic tensors that stand for labels, predictions and weights while Keras routes them to losses and metrics."""

    def __init__(self, trace: Trace):
        self._trace = trace
        self._known: dict[int, Any] = {}
        self._kept: list[keras.KerasTensor] = []

    def of(self, structure: Any) -> Any:
        return tree.map_structure(lambda x: None if x is None else self._handle(x), structure)

    def _handle(self, x: Any) -> keras.KerasTensor:
        x = x if isinstance(x, (SpatialTensor, tf.TensorSpec)) else as_tensor(x)
        handle = keras.KerasTensor(tuple(x.shape), dtype=keras.backend.standardize_dtype(x.dtype))
        self._known[id(handle)] = x
        self._kept.append(handle)
        return handle

    def tensors(self, call: keras_private.Call) -> tuple[SpatialTensor, SpatialTensor, SpatialTensor | None]:
        """The labels, predictions and weights of a call, on the mesh."""
        for what, value in (("labels", call.y_true), ("predictions", call.y_pred), ("weights", call.sample_weight)):
            if tree.is_nested(value):
                raise UnsupportedObjective(
                    f"'{call.called.name}' takes the {what} of several outputs at once, which cannot be partitioned. "
                    f"Give each output its own loss or metric. Received: {what} in the structure "
                    f"{tree.map_structure(lambda _: '*', value)}"
                )
        if call.y_true is None:
            raise ValueError(f"'{call.called.name}' has no labels: every output with a loss or metric needs labels.")
        y_pred = self._known[id(call.y_pred)]
        y_true = self._trace.input(self._known[id(call.y_true)], like=y_pred)
        if call.sample_weight is None:
            return y_true, y_pred, None
        return y_true, y_pred, self._trace.input(self._known[id(call.sample_weight)], like=y_pred)


def check_compiled(outputs_for_planning: Callable[[], tuple[Trace, Any] | None], model: keras.Model) -> None:
    """Refuse losses and metrics that cannot be computed on shards, before there are data.

    The labels are not known yet, so labels in the outputs' own shape and class numbers are tried, and it is enough if
    one kind works.

    Args:
        outputs_for_planning: a function that makes a fresh trace with the model's outputs, or returns None if they are
            not known.
        model: a compiled model.

    Raises:
        UnsupportedObjective: if a loss or metric is refused with every kind of labels that Keras accepts.
    """
    refusals: list[UnsupportedObjective] = []
    for kind in ("dense", "classes", "numbers"):
        found = outputs_for_planning()
        if found is None or keras_private.compilation(model) is None:
            return
        trace, outputs = found
        labels = tree.map_structure(lambda x, kind=kind: _labels(x, kind), outputs)
        try:
            # A copy, because Keras adapts losses and metrics to the first labels that they get.
            lower_objective(trace, keras_private.compiled_copy(model), outputs, labels, None)
            return
        except UnsupportedObjective as error:
            refusals.append(error)
        except Exception:
            # Keras does not accept this kind of labels, and raises the same error if a user gives it such labels.
            continue
    if refusals:
        raise refusals[0]


def _labels(x: SpatialTensor, kind: str) -> tf.TensorSpec:
    if kind == "dense" or x.ndim < 2:
        return tf.TensorSpec(x.shape, x.dtype)
    return tf.TensorSpec(x.shape[:-1] if kind == "classes" else (*x.shape[:-1], 1), tf.int32)
