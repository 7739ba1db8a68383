"""Find out on small random data how a metric's state is merged from parts of a batch.

Keras does not say what the state of its own metrics is. So they are asked: on labels and predictions like the model's,
is what the whole adds to each variable the sum of what the parts add, or their mean over voxels? If it is neither, on
any of several draws and cuts, the state has no known merge, and the metric is refused. Some draws are nearly empty, or
of very different sizes, lest what saturates looks like a mean. Metrics of one's own are never asked: they might do
anything for values that were not drawn.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

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


def merge_of(
    metric: keras.metrics.Metric, y_true: Any, y_pred: Any, weight: Any, *, uniform_state: bool = True
) -> Merge:
    """Find how a metric's state is merged from parts of the image and of the batch.

    Args:
        metric: a metric.
        y_true, y_pred, weight: anything with `shape` and `dtype`; `weight` may be None.
        uniform_state: whether to check that what a batch adds does not depend on the state.

    Raises:
        NoMerge: if it has no known merge.
    """
    if not metric.variables:
        raise NoMerge("it has no state")
    with tf.init_scope():
        possible = [{"sum", "mean"} for _ in metric.variables]
        draws = list(_draws(y_true, y_pred, weight))
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


def _draws(y_true: Any, y_pred: Any, weight: Any) -> Iterator[_Draw]:
    generator = np.random.default_rng(0)
    rank, channels = len(y_pred.shape), y_pred.shape[-1]
    floating = tf.as_dtype(y_pred.dtype).is_floating
    image = (_BATCH, *[_SIZE] * max(rank - 2, 0))
    p_shape = (*image, channels)[:rank] if rank > 1 else (_BATCH,)
    dense = len(y_true.shape) == rank and y_true.shape[-1] == channels
    w_shape = None
    if weight is not None:
        sizes = zip(weight.shape, y_pred.shape, strict=False)
        small = (*p_shape, 1)
        w_shape = tuple(small[i] if n == m else 1 for i, (n, m) in enumerate(sizes))
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
            labels = labels[..., None] if len(y_true.shape) == rank else labels
        if draw in (1, 2) and dense and tf.as_dtype(y_true.dtype).is_floating:
            labels = generator.uniform(0, 1, p_shape) if draw == 1 else 2.0 * labels - 1.0
        if draw == _NEARLY_EMPTY:
            # Class 0 but for one voxel of the first case.
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
            # One voxel of most cases is large, and two far apart of the first.
            ends = [(0, *[-1] * (len(image) - 1)), (slice(0, -1), *[1] * (len(image) - 1))]
            for place in ends:
                predicted[place] *= 1e3
        weights = None if w_shape is None else generator.uniform(0.5, 2, w_shape).astype("float32")
        yield _Draw(labels.astype(_name(y_true.dtype)), predicted.astype(_name(y_pred.dtype)), weights)


def _name(dtype: Any) -> str:
    return tf.as_dtype(dtype).name
