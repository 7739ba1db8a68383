"""Class probabilities of a model, as a plain function of arrays."""

from collections.abc import Callable, Sequence

import keras
import numpy as np
from scipy import special

Predict = Callable[[np.ndarray], np.ndarray]
"""A function from float32 images `[batch, x, y, z, channels]` to float32 probabilities `[batch, x, y, z, classes]`."""


def probabilities_of(model: keras.Model, *, from_logits: bool = True) -> Predict:
    """Wrap a model, partitioned or not, so that it maps images to class probabilities.

    Args:
        model: a model that maps `[batch, x, y, z, channels]` to `[batch, x, y, z, classes]`, with at least two classes.
        from_logits: whether the model's outputs are logits, as those of `ks.models.UNet3D` are.

    Returns:
        A function that raises `ValueError` if the model's outputs have another shape, are not finite, or are
        probabilities although `from_logits` is true, or logits although it is false.

    Example:

    ```python
    probabilities = ks.inference.probabilities_of(model)(images)
    ```
    """

    def predict(images: np.ndarray) -> np.ndarray:
        outputs = model.predict(images, verbose=0, batch_size=len(images))  # pyright: ignore[reportArgumentType]
        outputs = np.asarray(outputs, np.float32)
        if outputs.shape[:-1] != images.shape[:-1] or outputs.shape[-1] < 2:
            raise ValueError(
                f"model {model.name}: expected class scores [batch, x, y, z, classes] for every voxel, two classes or "
                f"more. Received: {outputs.shape} for images of shape {images.shape}"
            )
        return as_probabilities(str(model.name), outputs, from_logits=from_logits)

    return predict


def as_probabilities(model: str, scores: np.ndarray, *, from_logits: bool) -> np.ndarray:
    """Turn the class scores of a model, or of a block of them, into probabilities.

    Args:
        model: the name of the model.
        scores: float32 `[..., classes]`.
        from_logits: whether they are logits.

    Raises:
        ValueError: if the scores are not finite, or are probabilities although `from_logits` is true, or the other way
            round.
    """
    if not np.isfinite(scores).all():
        raise ValueError(f"model {model}: expected finite class scores. Received: NaN or infinite scores")
    normalised = scores.min() >= 0 and np.allclose(scores.sum(axis=-1), 1, atol=1e-2)
    if normalised == from_logits:
        kind = "probabilities" if normalised else "logits"
        raise ValueError(
            f"model {model}: its outputs are {kind}; pass from_logits={not from_logits}. "
            f"Received: from_logits={from_logits}"
        )
    return special.softmax(scores, axis=-1) if from_logits else scores


def ensemble_average(members: Sequence[Predict]) -> Predict:
    """Average the probabilities of several networks, such as those of the folds of a cross-validation.

    Args:
        members: at least one function from images to class probabilities; see `probabilities_of`.

    Returns:
        A function like its members.

    Raises:
        ValueError: if there are no members.

    Example:

    ```python
    functions = [ks.inference.probabilities_of(model) for model in models]
    predict = ks.inference.ensemble_average(functions)
    ```
    """
    if not members:
        raise ValueError("ensemble_average: expected at least one member. Received: none")

    def averaged(images: np.ndarray) -> np.ndarray:
        total = members[0](images)
        for member in members[1:]:
            total = total + member(images)
        return total / np.float32(len(members))

    return averaged
