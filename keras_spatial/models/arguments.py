"""Parts that the ready-made networks share: layers by the number of image axes, and checks of arguments."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keras import layers


@dataclass(frozen=True)
class Kit:
    """Keras's layers for images with a given number of axes."""

    convolution: Any
    transposed: Any
    pooling: Any
    upsampling: Any


KITS = {
    2: Kit(layers.Conv2D, layers.Conv2DTranspose, layers.MaxPooling2D, layers.UpSampling2D),
    3: Kit(layers.Conv3D, layers.Conv3DTranspose, layers.MaxPooling3D, layers.UpSampling3D),
}


def check_arguments(
    rank: int, input_shape: Sequence[int | None], *, levels: int, dropout: float, **counts: int
) -> None:
    """Check the arguments of a network that halves its image `levels - 1` times.

    Args:
        rank: the number of image axes.
        input_shape: the sizes of the image axes and the number of channels.
        levels: the number of levels of the network.
        dropout: the dropout rate.
        **counts: further arguments that must be positive integers.

    Raises:
        ValueError: if an argument is invalid; the message names it and its value.
    """
    if len(input_shape) != rank + 1:
        raise ValueError(
            f"input_shape must have {rank} image axes and the channels, without the batch. Received: {input_shape}"
        )
    for argument, value in {**counts, "levels": levels}.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{argument} must be a positive integer. Received: {argument}={value!r}")
    factor = 2 ** (levels - 1)
    odd = [size for size in input_shape[:-1] if size is not None and size % factor]
    if odd:
        wanted = tuple(size if size is None else -(-size // factor) * factor for size in input_shape[:-1])
        raise ValueError(
            f"With {levels} levels every image axis is halved {levels - 1} times, so its size must be a multiple of "
            f"{factor}: pad or resample the images to {wanted}, or use fewer levels. Received: "
            f"input_shape={tuple(input_shape)}"
        )
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be at least 0 and below 1. Received: dropout={dropout!r}")
