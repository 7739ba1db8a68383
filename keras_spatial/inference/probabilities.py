"""What a model says, as class probabilities, as a plain function of arrays."""

from collections.abc import Callable, Sequence

import keras
import numpy as np
from scipy import special

Predict = Callable[[np.ndarray], np.ndarray]
"""From images float32 `[batch, x, y, z, channels]` to class probabilities float32 `[batch, x, y, z, classes]`."""


def probabilities_of(model: keras.Model, *, from_logits: bool = True) -> Predict:
    """Wrap a model, partitioned or not, so that it maps images to class probabilities.

    Args:
        model: maps `[batch, x, y, z, channels]` to `[batch, x, y, z, classes]`, two classes or more.
        from_logits: whether its outputs are logits, as those of `ks.models.UNet3D` are.

    Returns:
        A function that raises `ValueError` when the model's outputs have another shape, are not finite, or are
        probabilities although `from_logits` says otherwise, or the other way about.
    """

    def predict(images: np.ndarray) -> np.ndarray:
        outputs = model.predict(images, verbose=0, batch_size=len(images))  # pyright: ignore[reportArgumentType]
        outputs = np.asarray(outputs, np.float32)
        if outputs.shape[:-1] != images.shape[:-1] or outputs.shape[-1] < 2:
            raise ValueError(
                f"model {model.name}: expected class scores [batch, x, y, z, classes] for every voxel, two classes or "
                f"more. Received: {outputs.shape} for images of shape {images.shape}"
            )
        if not np.isfinite(outputs).all():
            raise ValueError(f"model {model.name}: expected finite class scores. Received: NaN or infinite ones")
        normalised = outputs.min() >= 0 and np.allclose(outputs.sum(axis=-1), 1, atol=1e-2)
        if normalised == from_logits:
            kind = "probabilities" if normalised else "logits"
            raise ValueError(
                f"model {model.name}: its outputs are {kind}; pass from_logits={not from_logits}. "
                f"Received: from_logits={from_logits}"
            )
        return special.softmax(outputs, axis=-1) if from_logits else outputs

    return predict


def ensemble_average(members: Sequence[Predict]) -> Predict:
    """The mean of the probabilities of several networks, such as those of the folds of a cross-validation.

    Args:
        members: at least one, see `probabilities_of`.

    Raises:
        ValueError: without members.
    """
    if not members:
        raise ValueError("ensemble_average: expected at least one member. Received: none")

    def averaged(images: np.ndarray) -> np.ndarray:
        total = members[0](images)
        for member in members[1:]:
            total = total + member(images)
        return total / np.float32(len(members))

    return averaged
