"""Find out on small random data how a metric's state is merged from parts of a batch.

Keras does not say what the state of its metrics means, so they are probed with labels and predictions like the
model's: is what the whole adds to each variable the sum of what the parts add, or the parts' mean over voxels? If
neither holds for one of several draws and cuts, the state has no known merge, and the metric is refused. Some draws are
nearly empty or have values of very different sizes, because a state that saturates could otherwise look like a mean.
Users' own metrics are never probed: they might do anything for values that were not drawn.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_spatial.objective.overrides import known_class, overridden

_BATCH, _SIZE = 4, 6
_TOLERANCE = 2e-5
_DRAWS = 5
_NEARLY_EMPTY, _OF_ALL_SIZES = 3, 4


@dataclass(frozen=True)
class Merge:
    """How each variable of a metric is merged: `"sum"` over parts, or `"mean"` over the voxels of each case."""

    kinds: tuple[str, ...]


class NoMerge(Exception):
    """A metric's state has no known merge; the message says why."""


# The results of probing Keras's own metrics, because they are needed when a model is compiled and in each traced step.
_answers: dict[tuple, Merge | str] = {}


def merge_of(
    metric: keras.metrics.Metric, y_true: Any, y_pred: Any, weight: Any, *, uniform_state: bool = True
) -> Merge:
    """Find how a metric's state is merged from parts of the image and of the batch.

    A metric of Keras is probed once in a process for labels and predictions of the same kinds.

    Args:
        metric: a metric.
        y_true, y_pred, weight: anything with `shape` and `dtype`; `weight` may be None.
        uniform_state: whether to check that what a batch adds does not depend on the state.

    Raises:
        NoMerge: if it has no known merge.
    """
    like = _Like.of(y_true, y_pred, weight)
    configuration = _configuration(metric)
    if configuration is None:
        return _probed(metric, like, uniform_state)
    key = (type(metric), configuration, like, uniform_state, keras.config.floatx(), keras.config.epsilon())
    if key not in _answers:
        try:
            _answers[key] = _probed(metric, like, uniform_state)
        except NoMerge as error:
            _answers[key] = str(error)
    answer = _answers[key]
    if isinstance(answer, str):
        raise NoMerge(answer)
    return answer


def _configuration(metric: keras.metrics.Metric) -> str | None:
    """A text that is the same for equal metrics of a Keras class; None for others, which equal no metric."""
    if type(metric) is not known_class(metric) or overridden(metric):
        return None
    state = [(tuple(v.shape), v.dtype) for v in metric.variables]
    try:
        return json.dumps([{**metric.get_config(), "name": ""}, state], sort_keys=True)
    except (TypeError, NotImplementedError):
        return None


def _probed(metric: keras.metrics.Metric, like: "_Like", uniform_state: bool) -> Merge:
    if not metric.variables:
        raise NoMerge("it has no state")
    with tf.init_scope():
        possible = [{"sum", "mean"} for _ in metric.variables]
        draws = list(_draws(like))
        failures = []
        for draw in draws:
            try:
                _narrow(metric, draw, possible, uniform_state)
            except NoMerge:
                raise
            except Exception as error:  # A metric may raise anything for labels of a kind that it does not take.
                failures.append(str(error).strip().split("\n")[0][:200] or type(error).__name__)
        if len(failures) == len(draws):
            raise NoMerge(f"it fails on labels and predictions like the model's ({failures[0]})")
        for variable, kinds in zip(metric.variables, possible, strict=True):
            if not kinds:
                raise NoMerge(
                    f"its state '{variable.name}' is neither a sum over voxels nor a mean over cases, so the results "
                    "of the shards cannot be merged"
                )
    return Merge(tuple("sum" if "sum" in kinds else "mean" for kinds in possible))


def _narrow(metric: keras.metrics.Metric, draw: "_Draw", possible: list[set[str]], uniform_state: bool) -> None:
    zeros = [np.zeros(v.shape, v.dtype) for v in metric.variables]
    whole = _added(metric, zeros, draw.arguments(lambda t: t))
    if uniform_state:
        ones = [np.ones(v.shape, v.dtype) for v in metric.variables]
        from_ones = _added(metric, ones, draw.arguments(lambda t: t))
        for variable, a, b in zip(metric.variables, whole, from_ones, strict=True):
            if not _close(a, b):
                raise NoMerge(f"the change that a batch makes to its state '{variable.name}' depends on the state")
    for cut, shares in draw.cuts():
        parts = [_added(metric, zeros, draw.arguments(part)) for part in cut]
        for number, kinds in enumerate(possible):
            found = [part[number] for part in parts]
            if not _close(np.sum(found, axis=0), whole[number]):
                kinds.discard("sum")
            if not _close(np.sum([f * s for f, s in zip(found, shares, strict=True)], axis=0), whole[number]):
                kinds.discard("mean")


def _added(metric: keras.metrics.Metric, state: Sequence[np.ndarray], arguments: tuple) -> list[np.ndarray]:
    y_true, y_pred, weight = arguments
    given = {} if weight is None else {"sample_weight": weight}
    new = metric.stateless_update_state([tf.constant(s) for s in state], y_true, y_pred, **given)
    return [np.asarray(n, "float64") - np.asarray(s, "float64") for n, s in zip(new, state, strict=True)]


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    scale = max(float(np.max(np.abs(b), initial=0.0)), 1e-3)
    return bool(np.allclose(a, b, rtol=0, atol=_TOLERANCE * scale, equal_nan=True))


@dataclass(frozen=True)
class _Like:
    """The kinds of a model's labels, predictions and weights, which the random draws share.

    Attributes:
        rank: the number of axes of the predictions.
        channels: the number of channels of the predictions.
        labels_rank: the number of axes of the labels.
        dense: whether labels have the channels of the predictions.
        labels: the name of the labels' dtype.
        predictions: the name of the predictions' dtype.
        weights: for each axis of the weights, whether it is as long as that of the predictions; None without weights.
    """

    rank: int
    channels: int
    labels_rank: int
    dense: bool
    labels: str
    predictions: str
    weights: tuple[bool, ...] | None

    @classmethod
    def of(cls, y_true: Any, y_pred: Any, weight: Any) -> "_Like":
        rank, channels = len(y_pred.shape), y_pred.shape[-1]
        dense = len(y_true.shape) == rank and y_true.shape[-1] == channels
        weights = None
        if weight is not None:
            weights = tuple(n == m for n, m in zip(weight.shape, y_pred.shape, strict=False))
        labels, predictions = (tf.as_dtype(x.dtype).name for x in (y_true, y_pred))
        return cls(rank, channels, len(y_true.shape), dense, labels, predictions, weights)


@dataclass(frozen=True)
class _Draw:
    y_true: np.ndarray
    y_pred: np.ndarray
    weight: np.ndarray | None

    def arguments(self, part: Callable[[np.ndarray], np.ndarray]) -> tuple:
        return tuple(None if t is None else tf.constant(part(t)) for t in (self.y_true, self.y_pred, self.weight))

    def cuts(self) -> Iterator[tuple[list[Callable], list[float]]]:
        """Cuts of the batch and of each image axis into two uneven parts, with their shares of an image's voxels."""
        yield self._cut(0, _BATCH - 1, _BATCH), [1.0, 1.0]
        for axis in range(1, self.y_pred.ndim - 1):
            yield self._cut(axis, 2, _SIZE), [2 / _SIZE, 1 - 2 / _SIZE]

    def _cut(self, axis: int, place: int, size: int) -> list[Callable]:
        def part(start: int, stop: int) -> Callable[[np.ndarray], np.ndarray]:
            def take(t: np.ndarray) -> np.ndarray:
                if axis >= t.ndim or t.shape[axis] != size:
                    return t
                return t[(slice(None),) * axis + (slice(start, stop),)]

            return take

        return [part(0, place), part(place, size)]


def _draws(like: _Like) -> Iterator[_Draw]:
    generator = np.random.default_rng(0)
    rank, channels, dense = like.rank, like.channels, like.dense
    floating = tf.as_dtype(like.predictions).is_floating
    image = (_BATCH, *[_SIZE] * max(rank - 2, 0))
    p_shape = (*image, channels)[:rank] if rank > 1 else (_BATCH,)
    w_shape = None
    if like.weights is not None:
        small = (*p_shape, 1)
        w_shape = tuple(small[i] if equal else 1 for i, equal in enumerate(like.weights))
    for draw in range(_DRAWS):
        scores = generator.normal(size=p_shape)
        if not floating:
            predicted = generator.integers(0, 2, p_shape).astype("float64")
        elif rank > 1 and channels > 1:
            predicted = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        else:
            predicted = 1.0 / (1.0 + np.exp(-scores))
        if dense and rank > 1 and channels > 1:
            labels = np.eye(channels)[generator.integers(0, channels, p_shape[:-1])]
        elif dense:
            labels = generator.integers(0, 2, p_shape)
        else:
            labels = generator.integers(0, max(channels, 2), image[: max(rank - 1, 1)])
            labels = labels[..., None] if like.labels_rank == rank else labels
        if draw in (1, 2) and dense and tf.as_dtype(like.labels).is_floating:
            labels = generator.uniform(0, 1, p_shape) if draw == 1 else 2.0 * labels - 1.0
        if draw == _NEARLY_EMPTY:
            # Class 0 everywhere except for one voxel of the first case.
            place = (0, *[1] * (len(image) - 1))
            labels, predicted = np.zeros_like(labels), 0.1 * predicted
            predicted[..., 0] += 0.5 if rank > 1 and channels > 1 else 0.0
            predicted[place] = np.eye(channels)[-1] if rank > 1 and channels > 1 else 0.9 if floating else 1.0
            if dense and rank > 1 and channels > 1:
                labels[..., 0] = 1
                labels[place] = np.eye(channels)[-1]
            else:
                labels[place] = 1
        elif draw == _OF_ALL_SIZES and floating:
            # One voxel of most cases has a large value, and in the first case two voxels that are far apart.
            ends = [(0, *[-1] * (len(image) - 1)), (slice(0, -1), *[1] * (len(image) - 1))]
            for place in ends:
                predicted[place] *= 1e3
        weights = None if w_shape is None else generator.uniform(0.5, 2, w_shape).astype("float32")
        yield _Draw(labels.astype(like.labels), predicted.astype(like.predictions), weights)
