"""The normalization between a convolution and its activation, which the ready-made networks offer by name."""

from typing import Literal

import keras
from keras import layers

Normalization = Literal["batch", "instance"] | None


def check_normalization(normalization: str | None) -> None:
    """Check the argument `normalization` of a network.

    Raises:
        ValueError: if it is not "batch", "instance" or None.
    """
    if normalization not in ("batch", "instance", None):
        raise ValueError(f"normalization must be 'batch', 'instance' or None. Received: {normalization!r}")


def normalized(
    x: keras.KerasTensor, normalization: Normalization, name: str, momentum: float = 0.99, epsilon: float = 1e-3
) -> keras.KerasTensor:
    """Normalise each channel, or return `x` for None.

    Args:
        x: features, `[batch, ..., channels]`.
        normalization: "batch" for Keras's `BatchNormalization`; "instance" for the statistics of each image, by
            `GroupNormalization` with a group for each channel, as nnU-Net does.
        name: the name of the layer.
        momentum, epsilon: the arguments of batch normalization.
    """
    if normalization == "batch":
        return layers.BatchNormalization(momentum=momentum, epsilon=epsilon, name=name)(x)
    if normalization == "instance":
        return layers.GroupNormalization(groups=-1, epsilon=1e-5, name=name)(x)
    return x
