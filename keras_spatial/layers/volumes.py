"""What layers for volumes share, where Keras has them for 2D images alone. Names and arguments follow its layers."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import random

Shape = Sequence[int | None]


class VolumeLayer(keras.Layer):
    """A layer of volumes `[batch, x, y, z, channels]`."""

    def build(self, input_shape: Shape) -> None:
        if len(input_shape) != 5:
            raise ValueError(f"Layer '{self.name}' takes [batch, x, y, z, channels]. Received: {tuple(input_shape)}")
        super().build(input_shape)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape


class RandomVolumeLayer(VolumeLayer):
    """Draws numbers from a seed of its own."""

    def __init__(self, seed: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.seed = seed
        self.generator = random.SeedGenerator(seed)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "seed": self.seed}


def three_sizes(name: str, size: int | Sequence[int]) -> tuple[int, int, int]:
    """Voxels along x, y, z.

    Raises:
        ValueError: if they are not three positive numbers, or one for all.
    """
    sizes = (size,) * 3 if isinstance(size, int) else tuple(int(n) for n in size)
    if len(sizes) != 3 or min(sizes) < 1:
        raise ValueError(f"{name}: expected a positive number of voxels, or three of them. Received: {size!r}")
    return sizes  # pyright: ignore[reportReturnType]  Three, as checked.


def surplus(name: str, shape: Shape, sizes: Sequence[int]) -> np.ndarray:
    """How many voxels along each image axis a volume has more than `sizes`.

    Raises:
        ValueError: if it has less.
    """
    more = [-1 if n is None else n - size for n, size in zip(shape[1:4], sizes, strict=True)]
    if min(more) < 0:
        raise ValueError(f"Layer '{name}' crops to {tuple(sizes)} voxels. Received: volumes of {tuple(shape[1:4])}")
    return np.array(more)
