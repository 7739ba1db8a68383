"""Test-time augmentation by flips."""

from collections.abc import Sequence
from itertools import chain, combinations

import numpy as np

from keras_spatial.inference.probabilities import Predict

_AXES = {"x": 1, "y": 2, "z": 3}


def flip_average(predict: Predict, axes: Sequence[str]) -> Predict:
    """Average the probabilities over an image and its mirror images along the given axes, which are mirrored back.

    Args:
        predict: a function from images to class probabilities.
        axes: some of "x", "y" and "z"; n axes cost 2^n predictions.

    Returns:
        A function like `predict`; if there are no axes, `predict` itself.

    Raises:
        ValueError: if there are other names, or a name appears twice.

    Example:

    ```python
    predict = ks.inference.flip_average(ks.inference.probabilities_of(model), ("x", "y"))
    ```
    """
    if len(set(axes)) != len(axes) or any(axis not in _AXES for axis in axes):
        raise ValueError(f"flips: expected any of 'x', 'y', 'z', each once. Received: {tuple(axes)}")
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
