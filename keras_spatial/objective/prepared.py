"""Metrics that prepare labels and predictions and leave the rest to Keras: `argmax`, then `super().update_state`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras import ops

from keras_spatial import keras_private
from keras_spatial.objective.locality import NotTraceable, Traced, traced
from keras_spatial.objective.overrides import known_class, overridden


def prepares(metric: keras.metrics.Metric) -> bool:
    """Whether a metric extends one of Keras's own and overrides only `update_state`, which may call Keras's."""
    return known_class(metric) is not keras.metrics.Metric and (
        overridden(metric, "result", "reset_state") == {"update_state"}
    )


def prepared_arguments(metric: keras.metrics.Metric, y_true: Any, y_pred: Any, weight: Any) -> Traced:
    """What a metric passes to the `update_state` of the Keras class that it extends.

    Args:
        metric: a metric that `prepares`.
        y_true, y_pred, weight: anything with `shape` and `dtype`; `weight` may be None.

    Returns:
        The graph from labels, predictions and weights to the arguments of Keras's own method, which are labels,
        predictions and, if the metric passes them, weights.

    Raises:
        NotTraceable: if it does not call that method exactly once, or does anything that cannot be traced.
    """

    def passed(t: Any, p: Any, *weights: Any) -> list[Any]:
        with _recorded(known_class(metric)) as calls:
            metric.update_state(t, p, **({"sample_weight": weights[0]} if weights else {}))
        if len(calls) != 1:
            raise NotTraceable(f"its update_state calls that of Keras {len(calls)} times")
        given = [x for x in calls[0] if x is not None]
        if not all(isinstance(x, keras.KerasTensor) for x in given):
            raise NotTraceable("it passes values to Keras that are not computed from labels and predictions")
        return given

    return traced(passed, *(x for x in (y_true, y_pred, weight) if x is not None))


@contextmanager
def _recorded(cls: type) -> Iterator[list[tuple]]:
    calls: list[tuple] = []
    original = vars(cls).get("update_state")

    def record(_: Any, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        calls.append((y_true, y_pred, sample_weight))

    cls.update_state = record
    try:
        yield calls
    finally:
        if original is None:
            delattr(cls, "update_state")
        else:
            cls.update_state = original


def keras_own(metric: keras.metrics.Metric, *, with_channels: bool) -> keras.metrics.Metric:
    """The metric of Keras that a metric extends, with the same state.

    Args:
        metric: a metric that `prepares`.
        with_channels: whether its tensors have an added last axis of length 1. It is removed before Keras's method sees
            them, because class numbers have no channel axis.
    """
    cls: Any = known_class(metric)

    class WithoutChannels(cls):
        def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
            super().update_state(ops.squeeze(y_true, -1), ops.squeeze(y_pred, -1), sample_weight)

    # `known_class` recognises Keras's own classes by their module.
    WithoutChannels.__module__ = cls.__module__
    return keras_private.bare_copy(metric, WithoutChannels if with_channels else cls)
