"""Augmentation of volumes, which Keras has for 2D images alone. The names and arguments follow its layers."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops, random

_AXES = "xyz"


class _VolumeAugmentation(keras.Layer):
    """Draws numbers for each image of a batch `[batch, x, y, z, channels]`, from a seed of its own."""

    def __init__(self, seed: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.seed = seed
        self.generator = random.SeedGenerator(seed)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> Sequence[int | None]:
        return input_shape

    def build(self, input_shape: Sequence[int | None]) -> None:
        if len(input_shape) != 5:
            raise ValueError(f"Layer '{self.name}' takes [batch, x, y, z, channels]. Received: {tuple(input_shape)}")
        super().build(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "seed": self.seed}


@keras.saving.register_keras_serializable("keras_spatial")
class RandomFlip3D(_VolumeAugmentation):
    """Mirrors volumes at random, along each axis by itself, while training.

    Args:
        axes: some of "x", "y", "z".
        seed: of the random numbers.

    Example:

    ```python
    flipped = ks.layers.RandomFlip3D("x")(volumes, training=True)  # Left and right.
    ```
    """

    def __init__(self, axes: str = _AXES, seed: int | None = None, **kwargs: Any):
        super().__init__(seed, **kwargs)
        if not axes or len(set(axes)) != len(axes) or set(axes) - set(_AXES):
            raise ValueError(f"axes: expected different ones of 'x', 'y', 'z', such as 'xy'. Received: {axes!r}")
        self.axes = axes

    def draw(self, batch: int):
        """Bool `[batch, 3, 1, 1, 1, 1]`: whether each image is mirrored along x, y, z."""
        return random.uniform((batch, len(_AXES), 1, 1, 1, 1), seed=self.generator) < 0.5

    def call(self, inputs, training: bool = False):
        if not training:
            return inputs
        flips = self.draw(ops.shape(inputs)[0])
        for axis in self.axes:
            number = _AXES.index(axis)
            inputs = ops.where(flips[:, number], ops.flip(inputs, 1 + number), inputs)
        return inputs

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axes": self.axes}


class _RandomFactor(_VolumeAugmentation):
    def __init__(
        self, factor: float | Sequence[float], value_range: Sequence[float], seed: int | None = None, **kwargs: Any
    ):
        super().__init__(seed, **kwargs)
        lower, upper = (-factor, factor) if isinstance(factor, (int, float)) else tuple(factor)
        low, high = value_range
        if not -1 <= lower <= upper <= 1 or low >= high:
            raise ValueError(
                "Expected a factor in [-1, 1], or a pair of them in order, and a value_range (low, high). "
                f"Received: factor={factor}, value_range={value_range}"
            )
        self.factor, self.value_range = (float(lower), float(upper)), (float(low), float(high))

    def draw(self, batch: int):
        """`[batch, 1, 1, 1, 1]`: one number between the factors for each image."""
        return random.uniform((batch, 1, 1, 1, 1), *self.factor, dtype=self.compute_dtype, seed=self.generator)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "factor": self.factor, "value_range": self.value_range}


@keras.saving.register_keras_serializable("keras_spatial")
class RandomBrightness3D(_RandomFactor):
    """Adds a random part of the value range to each volume while training, and clips to the range.

    Args:
        factor: the least and the largest part, from -1 to 1; one number stands for both signs of it.
        value_range: lowest and highest value of the images.
        seed: of the random numbers.
    """

    def call(self, inputs, training: bool = False):
        return self.adjust(inputs, self.draw(ops.shape(inputs)[0])) if training else inputs

    def adjust(self, images, factor):
        low, high = self.value_range
        return ops.clip(images + factor * (high - low), low, high)


@keras.saving.register_keras_serializable("keras_spatial")
class RandomContrast3D(_RandomFactor):
    """Spreads or narrows the values of each volume around its mean while training, and clips to the range.

    The mean is that of each channel over the whole volume, also where it is split over a mesh.

    Args:
        factor: what 1 is changed by, least and largest, from -1 to 1; one number stands for both signs of it.
        value_range: lowest and highest value of the images.
        seed: of the random numbers.
    """

    def call(self, inputs, training: bool = False):
        if not training:
            return inputs
        return self.adjust(inputs, ops.mean(inputs, (1, 2, 3), keepdims=True), self.draw(ops.shape(inputs)[0]))

    def adjust(self, images, mean, factor):
        return ops.clip((images - mean) * (1 + factor) + mean, *self.value_range)
