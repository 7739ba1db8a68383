"""Augmentation of volumes, which Keras has for 2D images alone."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops, random

from keras_spatial.engine.interpolation import FILL_MODES, interpolated, outside
from keras_spatial.layers.volumes import RandomVolumeLayer, Shape, surplus, three_sizes

_AXES = "xyz"
_INTERPOLATIONS = ("trilinear", "nearest")


@keras.saving.register_keras_serializable("keras_spatial")
class RandomFlip3D(RandomVolumeLayer):
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
        self.axes = _check_axes(axes)

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


class _RandomFactor(RandomVolumeLayer):
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


class _RandomAffine3D(RandomVolumeLayer):
    """Reads each voxel of the result at the place in the volume that an affine map says.

    Subclasses draw the maps.
    """

    def __init__(
        self,
        factor: float | Sequence[float],
        axes: str,
        fill_mode: str,
        interpolation: str,
        seed: int | None,
        fill_value: float,
        **kwargs: Any,
    ):
        super().__init__(seed, **kwargs)
        lower, upper = (-abs(factor), abs(factor)) if isinstance(factor, (int, float)) else tuple(factor)
        if not -1 <= lower <= upper <= 1:
            raise ValueError(
                f"factor: expected a number in [-1, 1], or a pair of them in order. Received: factor={factor}"
            )
        if fill_mode not in FILL_MODES:
            raise ValueError(f"fill_mode: expected one of {FILL_MODES}. Received: {fill_mode!r}")
        if interpolation not in _INTERPOLATIONS:
            raise ValueError(f"interpolation: expected one of {_INTERPOLATIONS}. Received: {interpolation!r}")
        self.factor, self.axes = (float(lower), float(upper)), _check_axes(axes)
        self.fill_mode, self.interpolation, self.fill_value = fill_mode, interpolation, float(fill_value)

    def draw(self, batch: int, sizes: Sequence[int]) -> tf.Tensor:
        """float32 `[batch, 3, 4]`: from a voxel of the result to its place in a volume of `sizes` voxels."""
        matrices, shifts = self._maps(self._draw(batch), tf.constant(sizes, tf.float32))
        matrices = tf.broadcast_to(matrices, [batch, 3, 3])
        # The middle of the volume stays where it is, but for the shift.
        center = (tf.constant(sizes, tf.float32) - 1) / 2
        offsets = center - tf.linalg.matvec(matrices, tf.broadcast_to(center, [batch, 3])) + shifts
        return tf.concat([matrices, tf.expand_dims(offsets, -1)], -1)

    def _draw(self, batch: int) -> tf.Tensor:
        """float32 `[batch, 3]`: a number for each axis, 0 for those that are not among `axes`."""
        drawn = random.uniform((batch, 3), *self.factor, dtype="float32", seed=self.generator)
        return drawn * tf.constant([float(axis in self.axes) for axis in _AXES])

    def _maps(self, drawn: tf.Tensor, sizes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Matrices `[batch, 3, 3]` and shifts `[batch, 3]`, in voxels."""
        raise NotImplementedError

    @staticmethod
    def positions(index: Sequence[tf.Tensor], matrices: tf.Tensor) -> list[tf.Tensor]:
        """Places in the volume along each axis, of the result's voxels with these indices along each axis."""
        row = [[matrices[:, i, k, None, None, None] for k in range(4)] for i in range(3)]
        return [a * index[0] + b * index[1] + c * index[2] + d for a, b, c, d in row]

    def call(self, inputs, training: bool = False):
        if not training:
            return inputs
        batch, sizes = ops.shape(inputs)[0], tuple(inputs.shape[1:4])
        index = [
            tf.reshape(tf.range(n, dtype=tf.float32), [-1 if i == k else 1 for i in range(4)])
            for k, n in enumerate(sizes, start=1)
        ]
        positions = self.positions(index, self.draw(batch, sizes))
        linear = self.interpolation == "trilinear"
        result = interpolated(inputs, positions, linear=linear, fill_mode=self.fill_mode)
        if self.fill_mode == "constant" and self.fill_value:
            beyond = outside(positions, sizes, linear=linear)
            result += tf.cast(self.fill_value * tf.expand_dims(beyond, -1), result.dtype)
        return result

    def get_config(self) -> dict[str, Any]:
        options = {"factor": self.factor, "axes": self.axes, "fill_mode": self.fill_mode}
        return {
            **super().get_config(),
            **options,
            "interpolation": self.interpolation,
            "fill_value": self.fill_value,
        }


@keras.saving.register_keras_serializable("keras_spatial")
class RandomRotation3D(_RandomAffine3D):
    """Turns volumes about their middle while training, about each axis by an angle of its own.

    Args:
        factor: least and largest angle, as a share of a whole turn, from -1 to 1; one number stands for both signs of
            it. A positive angle about z turns x towards y, about x it turns y towards z, about y it turns z towards x.
        axes: the axes to turn about, some of "x", "y", "z"; "z" turns the axial slices of a CT. The volume is turned
            about x first, then y, then z.
        spacing: size of a voxel along x, y, z, in mm or any other unit: angles are angles of the body, not of the grid.
        fill_mode: what stands beyond the volume: `"constant"`, `"nearest"`, `"reflect"` or `"wrap"`, as in Keras.
        interpolation: `"trilinear"` or `"nearest"`.
        seed: of the random numbers.
        fill_value: what stands there if `fill_mode` is `"constant"`, such as -1024 for air in HU.

    Raises:
        ValueError: for a bad argument.

    Example:

    ```python
    turned = ks.layers.RandomRotation3D(15 / 360, spacing=(0.7, 0.7, 2.5))(volumes, training=True)
    ```
    """

    def __init__(
        self,
        factor: float | Sequence[float],
        axes: str = "z",
        spacing: Sequence[float] = (1.0, 1.0, 1.0),
        fill_mode: str = "reflect",
        interpolation: str = "trilinear",
        seed: int | None = None,
        fill_value: float = 0.0,
        **kwargs: Any,
    ):
        super().__init__(factor, axes, fill_mode, interpolation, seed, fill_value, **kwargs)
        self.spacing = tuple(float(s) for s in spacing)
        if len(self.spacing) != 3 or min(self.spacing) <= 0:
            raise ValueError(f"spacing: expected three positive numbers. Received: {spacing!r}")

    def _maps(self, drawn: tf.Tensor, sizes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        turn = tf.eye(3)
        for axis in range(3):
            turn = _rotation(2 * math.pi * drawn[:, axis], axis) @ turn
        spacing = tf.constant(self.spacing)
        # A voxel of the result is read where the inverse turn puts it.
        return tf.linalg.matrix_transpose(turn) * spacing[None, None, :] / spacing[None, :, None], tf.zeros([3])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "spacing": self.spacing}


def _rotation(angle: tf.Tensor, axis: int) -> tf.Tensor:
    """Matrices `[batch, 3, 3]` that turn about one axis, the next one towards the one after."""
    cosine, sine, zero, one = tf.cos(angle), tf.sin(angle), tf.zeros_like(angle), tf.ones_like(angle)
    rows = [[one, zero, zero], [zero, cosine, -sine], [zero, sine, cosine]]
    order = [(k - axis) % 3 for k in range(3)]
    return tf.stack([tf.stack([rows[i][k] for k in order], -1) for i in order], -2)


@keras.saving.register_keras_serializable("keras_spatial")
class RandomTranslation3D(_RandomAffine3D):
    """Moves volumes while training, along each axis by a number of its own.

    Args:
        factor: least and largest shift, as a share of the volume's size along the axis, from -1 to 1; one number
            stands for both signs of it. A positive shift moves what is seen towards higher indices.
        axes: the axes to move along, some of "x", "y", "z".
        fill_mode, interpolation, seed, fill_value: as for `RandomRotation3D`.

    Raises:
        ValueError: for a bad argument.
    """

    def __init__(
        self,
        factor: float | Sequence[float],
        axes: str = _AXES,
        fill_mode: str = "reflect",
        interpolation: str = "trilinear",
        seed: int | None = None,
        fill_value: float = 0.0,
        **kwargs: Any,
    ):
        super().__init__(factor, axes, fill_mode, interpolation, seed, fill_value, **kwargs)

    def _maps(self, drawn: tf.Tensor, sizes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.eye(3)[None], -drawn * sizes


@keras.saving.register_keras_serializable("keras_spatial")
class RandomZoom3D(_RandomAffine3D):
    """Zooms volumes about their middle while training, along all axes alike.

    Args:
        factor: least and largest change of the size of the field of view, above -1 and up to 1; one number stands for
            both signs of it. A positive number zooms out, as in Keras's `RandomZoom`.
        fill_mode, interpolation, seed, fill_value: as for `RandomRotation3D`.

    Raises:
        ValueError: for a bad argument.
    """

    def __init__(
        self,
        factor: float | Sequence[float],
        fill_mode: str = "reflect",
        interpolation: str = "trilinear",
        seed: int | None = None,
        fill_value: float = 0.0,
        **kwargs: Any,
    ):
        super().__init__(factor, _AXES, fill_mode, interpolation, seed, fill_value, **kwargs)
        if self.factor[0] <= -1:
            raise ValueError(f"factor: expected more than -1, which leaves nothing to see. Received: factor={factor}")

    def _maps(self, drawn: tf.Tensor, sizes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return (1 + drawn[:, :1, None]) * tf.eye(3), tf.zeros([3])

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["axes"]
        return config


@keras.saving.register_keras_serializable("keras_spatial")
class RandomCrop3D(RandomVolumeLayer):
    """A part of volumes: anywhere while training, the same for a whole batch; otherwise the middle.

    Args:
        size: voxels along x, y, z that are kept; one number for all three.
        seed: of the random numbers.

    Raises:
        ValueError: for a bad size; when it is called, for volumes that are smaller.
    """

    def __init__(self, size: int | Sequence[int], seed: int | None = None, **kwargs: Any):
        super().__init__(seed, **kwargs)
        self.size = three_sizes("size", size)

    def draw(self, shape: Shape) -> tf.Tensor:
        """int32 `[3]`: the first voxel along x, y, z that is kept of volumes of a shape."""
        drawn = random.uniform((3,), dtype="float32", seed=self.generator)
        most = surplus(self.name, shape, self.size)
        return tf.minimum(tf.cast(drawn * (most + 1).astype("float32"), tf.int32), most)

    def starts(self, shape: Shape) -> tuple[int, ...]:
        """The first voxel along x, y, z of the middle of volumes of a shape `[batch, x, y, z, channels]`."""
        return tuple(surplus(self.name, shape, self.size) // 2)

    def call(self, inputs, training: bool = False):
        starts = self.starts(inputs.shape)
        x, y, z = tf.unstack(self.draw(inputs.shape)) if training else starts
        return tf.slice(inputs, [0, x, y, z, 0], [-1, *self.size, -1])

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], *self.size, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "size": self.size}


def _check_axes(axes: str) -> str:
    if not axes or len(set(axes)) != len(axes) or set(axes) - set(_AXES):
        raise ValueError(f"axes: expected different ones of 'x', 'y', 'z', such as 'xy'. Received: {axes!r}")
    return axes
