"""Compiled losses, metrics and regularizers, and the calls that Keras makes to them."""

import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf
from keras import tree
from keras.src.trainers.compile_utils import CompileLoss, CompileMetrics

from keras_spatial.keras_private.classes import defining_method


def compilation(model: keras.Model) -> dict[str, Any] | None:
    """The arguments with which a model was compiled; None if it was not compiled."""
    if not model.compiled:
        return None
    return {**model._compile_config.config, "optimizer": model.optimizer}


def compiled_copy(model: keras.Model) -> Any:
    """An object that is compiled like a model, but whose losses and metrics are not built yet."""
    configuration = compilation(model) or {}
    names = getattr(model, "output_names", None)
    loss, metrics = model._compile_loss, model._compile_metrics
    if loss is not None:
        loss = CompileLoss(configuration["loss"], configuration["loss_weights"], output_names=names)
    if metrics is not None:
        metrics = CompileMetrics(configuration["metrics"], configuration["weighted_metrics"], output_names=names)
    return types.SimpleNamespace(name=model.name, _compile_loss=loss, _compile_metrics=metrics)


def function_arguments(wrapper: Any) -> dict[str, Any]:
    """The arguments, besides labels and predictions, with which a loss or metric calls its function."""
    return dict(getattr(wrapper, "_fn_kwargs", {}))


def wrapped_function(metric: keras.metrics.MeanMetricWrapper) -> Callable:
    return metric._fn


def loss_dtype(model: keras.Model) -> str:
    """The dtype in which Keras adds up a compiled model's losses."""
    return model._compile_loss.dtype if model._compile_loss is not None else keras.config.floatx()


def update_loss_trackers(model: keras.Model, total: tf.Tensor, losses: dict[int, tf.Tensor], cases: int) -> None:
    """Give Keras the losses of a batch: the total, and each loss by its number among the compiled ones."""
    model._loss_tracker.update_state(total, sample_weight=cases)
    for number, tracker in enumerate(model._compile_loss.metrics if model._compile_loss is not None else ()):
        if number in losses:
            tracker.update_state(losses[number], sample_weight=cases)


def weight_regularization(
    variables: list[keras.Variable], scale: tf.Tensor | None = None
) -> tuple[tf.Tensor, list[tf.Tensor | None]]:
    """The loss that the regularizers of variables add, and its gradients times `scale`.

    Args:
        variables: a model's trainable variables. Only their regularizers count, as in Keras.
        scale: the factor by which the differentiated loss is multiplied; without it no gradients are computed.

    Returns:
        The loss, a scalar, and for each variable its gradient, or None if it has no regularizer.
    """
    regularized = [v for v in variables if v.regularizer is not None]
    if not regularized:
        return tf.zeros([]), [None] * len(variables)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        values = [v.value for v in regularized]
        tape.watch(values)
        total = tf.add_n([tf.cast(keras.ops.sum(v.regularizer(v)), keras.config.floatx()) for v in regularized])
    if scale is None:
        return total, []
    found = dict(zip(map(id, regularized), tape.gradient(total, values), strict=True))
    gradients = [found.get(id(v)) for v in variables]
    return total, [None if g is None else tf.convert_to_tensor(g) * tf.cast(scale, g.dtype) for g in gradients]


def has_state(model: Any) -> bool:
    """Whether a compiled model's losses and metrics have made their variables."""
    return all(part is None or part.built for part in (model._compile_loss, model._compile_metrics))


def build_state(model: Any, x: Any, y: Any, training: bool) -> None:
    """Make the variables of the optimizer, the losses and the metrics before a step would make them.

    Args:
        model: a compiled, partitioned model.
        x, y: a batch.
        training: whether the step trains the model.
    """
    if training and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    batch = tree.flatten(x)[0].shape[0]

    def handle(t: Any) -> keras.KerasTensor:
        return keras.KerasTensor(tuple(t.shape), dtype=keras.backend.standardize_dtype(t.dtype))

    specs = model._network.output_specs_for(x, training)
    outputs = tree.map_structure(lambda t: keras.KerasTensor((batch, *t.shape[1:]), t.dtype.name), specs)
    labels = tree.map_structure(handle, y)
    loss_calls(model, labels, outputs, None)
    metric_calls(model, labels, outputs, None)


@dataclass(frozen=True)
class Call:
    """A loss or a metric, and the arguments with which Keras calls it.

    Attributes:
        called: the loss or the metric.
        y_true, y_pred, sample_weight: the tensors, or structures of them; `sample_weight` may be None.
        number: the number of a loss among the compiled ones.
        factor: the factor of a loss in the total.
    """

    called: Any
    y_true: Any
    y_pred: Any
    sample_weight: Any
    number: int = 0
    factor: float = 1.0


@dataclass
class _Recorder:
    """Stands in for a loss or a list of metrics, and records the arguments with which it is called."""

    value: float = 0.0
    arguments: tuple[Any, Any, Any] | None = None

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
        self.arguments = (y_true, y_pred, sample_weight)
        return self.value

    update_state = __call__


def bare_copy(value: Any, cls: type | None = None) -> Any:
    """A copy with the same attributes, of another class if one is given; Keras's own copies are serialized."""
    result = object.__new__(cls or type(value))
    vars(result).update(vars(value))
    return result


def loss_calls(model: keras.Model, y_true: Any, y_pred: Any, sample_weight: Any) -> list[Call]:
    """The calls that Keras would make to a compiled model's losses, found by running Keras's own code with stand-ins.

    Args:
        model: a compiled model.
        y_true, y_pred, sample_weight: structures of anything with `shape` and `dtype`.
    """
    compiled = model._compile_loss
    if compiled is None:
        return []
    recorders: list[_Recorder] = []
    stand_in = bare_copy(compiled)

    def adopt() -> None:
        recorders[:] = [_Recorder() for _ in compiled._flat_losses]
        vars(stand_in).update(vars(compiled))
        pairs = zip(compiled._flat_losses, recorders, strict=True)
        vars(stand_in)["_flat_losses"] = [loss._replace(loss=recorder) for loss, recorder in pairs]
        # Keras iterates over losses and their metrics together.
        vars(stand_in)["_metrics"] = [None] * len(recorders)

    def build(y_true: Any, y_pred: Any) -> None:
        compiled.build(y_true, y_pred)
        adopt()

    if compiled.built:
        adopt()
    else:
        vars(stand_in)["build"] = build
    with tf.init_scope():
        # The total is linear in the losses, so a loss's factor is the total when that loss is 1 and the others are 0.
        stand_in.call(y_true, y_pred, sample_weight)
        factors = []
        for recorder in recorders:
            recorder.value = 1.0
            factors.append(float(stand_in.call(y_true, y_pred, sample_weight)))
            recorder.value = 0.0
    return [
        Call(loss.loss, *recorder.arguments, number=number, factor=factor)
        for number, (loss, recorder, factor) in enumerate(zip(compiled._flat_losses, recorders, factors, strict=True))
        if recorder.arguments is not None
    ]


def metric_calls(model: keras.Model, y_true: Any, y_pred: Any, sample_weight: Any) -> list[Call]:
    """The calls that Keras would make to a compiled model's metrics; see `loss_calls`."""
    compiled = model._compile_metrics
    if compiled is None:
        return []
    if not compiled.built:
        compiled.build(y_true, y_pred)
    stand_in = bare_copy(compiled)
    calls = []
    for name in ("_flat_metrics", "_flat_weighted_metrics"):
        recorders = [None if metrics is None else _Recorder() for metrics in getattr(compiled, name)]
        vars(stand_in)[name] = recorders
        calls.append((getattr(compiled, name), recorders))
    type(compiled).update_state(stand_in, y_true, y_pred, sample_weight)
    return [
        Call(metric, *recorder.arguments)
        for lists, recorders in calls
        for metrics, recorder in zip(lists, recorders, strict=True)
        if recorder is not None and recorder.arguments is not None
        for metric in metrics.metrics
    ]


def build_metric(metric: keras.metrics.Metric, y_true: tf.Tensor, y_pred: tf.Tensor) -> None:
    """Build a metric whose state depends on the shapes of its first batch, without counting that batch."""
    if getattr(metric, "_built", True):
        return
    metric.update_state(y_true, y_pred)
    metric.reset_state()


def is_mean_of_function(metric: keras.metrics.Metric) -> bool:
    """Whether a metric is Keras's mean over cases of a function of labels and predictions."""
    return (
        isinstance(metric, keras.metrics.MeanMetricWrapper)
        and defining_method(metric, "update_state") is keras.metrics.MeanMetricWrapper
    )
