"""Base classes of the layers for volumes that Keras has only for 2D images; names and arguments follow Keras's."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import random

Shape = Sequence[int | None]


class VolumeLayer(keras.Layer):
    """A layer for volumes of shape `[batch, x, y, z, channels]`."""

    def build(self, input_shape: Shape) -> None:
        if len(input_shape) != 5:
            raise ValueError(f"Layer '{self.name}' takes [batch, x, y, z, channels]. Received: {tuple(input_shape)}")
        super().build(input_shape)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape


class RandomVolumeLayer(VolumeLayer):
    """A layer for volumes that draws random numbers from its own seed."""

    def __init__(self, seed: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.seed = seed
        self.generator = random.SeedGenerator(seed)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "seed": self.seed}


def three_sizes(name: str, size: int | Sequence[int]) -> tuple[int, int, int]:
    """Numbers of voxels along x, y and z, from three numbers or from one for all axes.

    Raises:
        ValueError: if they are not positive, or not one or three numbers.
    """
    sizes = (size,) * 3 if isinstance(size, int) else tuple(int(n) for n in size)
    if len(sizes) != 3 or min(sizes) < 1:
        raise ValueError(f"{name}: expected a positive number of voxels, or three of them. Received: {size!r}")
    return sizes  # pyright: ignore[reportReturnType]  Three, as checked.


def surplus(name: str, shape: Shape, sizes: Sequence[int]) -> np.ndarray:
    """By how many voxels along each image axis a volume is larger than `sizes`.

    Raises:
        ValueError: if it is smaller.
    """
    more = [-1 if n is None else n - size for n, size in zip(shape[1:4], sizes, strict=True)]
    if min(more) < 0:
        raise ValueError(f"Layer '{name}' crops to {tuple(sizes)} voxels. Received: volumes of {tuple(shape[1:4])}")
    return np.array(more)
