"""Test-time augmentation by flips."""

from collections.abc import Sequence
from itertools import chain, combinations

import numpy as np

from keras_spatial.inference.probabilities import Predict

_AXES = {"x": 1, "y": 2, "z": 3}


def flip_average(predict: Predict, axes: Sequence[str]) -> Predict:
    """Average the probabilities over an image and all its mirror images along the given axes, mirrored back.

    Args:
        predict: from images to class probabilities.
        axes: some of "x", "y", "z"; n axes cost 2^n predictions.

    Returns:
        `predict` itself if there are no axes.

    Raises:
        ValueError: on other names, or a name that stands twice.
    """
    if len(set(axes)) != len(axes) or any(axis not in _AXES for axis in axes):
        raise ValueError(f"flips: expected different ones of 'x', 'y', 'z'. Received: {tuple(axes)}")
    if not axes:
        return predict
    numbers = [_AXES[axis] for axis in axes]
    mirrors = list(chain.from_iterable(combinations(numbers, n) for n in range(len(numbers) + 1)))

    def averaged(images: np.ndarray) -> np.ndarray:
        total = None
        for mirror in mirrors:
            found = np.flip(predict(np.ascontiguousarray(np.flip(images, mirror))), mirror)
            total = found.copy() if total is None else np.add(total, found, out=total)
        assert total is not None
        return total / np.float32(len(mirrors))

    return averaged
