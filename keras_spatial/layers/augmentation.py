"""Augmentation of volumes, which Keras has only for 2D images."""

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
    """Mirrors volumes at random while training, independently along each axis.

    Args:
        axes: the axes along which to mirror, some of "x", "y" and "z".
        seed: the seed of the random numbers.

    Raises:
        ValueError: if `axes` is invalid.

    Example:

    ```python
    flipped = ks.layers.RandomFlip3D("x")(volumes, training=True)  # Left and right.
    ```
    """

    def __init__(self, axes: str = _AXES, seed: int | None = None, **kwargs: Any):
        super().__init__(seed, **kwargs)
        self.axes = _check_axes(axes)

    def draw(self, batch: int):
        """Booleans of shape `[batch, 3, 1, 1, 1, 1]` that say whether each image is mirrored along x, y and z."""
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
        """One number between the factors for each image, of shape `[batch, 1, 1, 1, 1]`."""
        return random.uniform((batch, 1, 1, 1, 1), *self.factor, dtype=self.compute_dtype, seed=self.generator)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "factor": self.factor, "value_range": self.value_range}


@keras.saving.register_keras_serializable("keras_spatial")
class RandomBrightness3D(_RandomFactor):
    """Adds a random fraction of the value range to each volume while training, and clips the result to the range.

    Args:
        factor: the lowest and the highest fraction, from -1 to 1; a single number `f` means `(-f, f)`.
        value_range: the lowest and the highest value of the images.
        seed: the seed of the random numbers.

    Raises:
        ValueError: if `factor` or `value_range` is invalid.

    Example:

    ```python
    brighter = ks.layers.RandomBrightness3D(0.1, (0.0, 1.0))(volumes, training=True)
    ```
    """

    def call(self, inputs, training: bool = False):
        return self.adjust(inputs, self.draw(ops.shape(inputs)[0])) if training else inputs

    def adjust(self, images, factor):
        low, high = self.value_range
        return ops.clip(images + factor * (high - low), low, high)


@keras.saving.register_keras_serializable("keras_spatial")
class RandomContrast3D(_RandomFactor):
    """Scales the values of each volume around its mean while training, and clips the result to the value range.

    The mean is that of each channel over the whole volume, even if the volume is sharded over a mesh.

    Args:
        factor: the lowest and the highest number that is added to a scale of 1, from -1 to 1; a single number `f` means
            `(-f, f)`.
        value_range: the lowest and the highest value of the images.
        seed: the seed of the random numbers.

    Raises:
        ValueError: if `factor` or `value_range` is invalid.

    Example:

    ```python
    contrasted = ks.layers.RandomContrast3D(0.2, (0.0, 1.0))(volumes, training=True)
    ```
    """

    def call(self, inputs, training: bool = False):
        if not training:
            return inputs
        return self.adjust(inputs, ops.mean(inputs, (1, 2, 3), keepdims=True), self.draw(ops.shape(inputs)[0]))

    def adjust(self, images, mean, factor):
        return ops.clip((images - mean) * (1 + factor) + mean, *self.value_range)


class _RandomAffine3D(RandomVolumeLayer):
    """Samples each voxel of the result at the position in the volume that an affine map gives.

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
        """Draw maps from a voxel of the result to its position in a volume of `sizes` voxels.

        Returns:
            Affine matrices, float32 `[batch, 3, 4]`, in voxels.
        """
        matrices, shifts = self._maps(self._draw(batch), tf.constant(sizes, tf.float32))
        matrices = tf.broadcast_to(matrices, [batch, 3, 3])
        # The middle of the volume does not move, except by the shift.
        center = (tf.constant(sizes, tf.float32) - 1) / 2
        offsets = center - tf.linalg.matvec(matrices, tf.broadcast_to(center, [batch, 3])) + shifts
        return tf.concat([matrices, tf.expand_dims(offsets, -1)], -1)

    def _draw(self, batch: int) -> tf.Tensor:
        """Draw a number for each axis, 0 for those that are not in `axes`: float32 `[batch, 3]`."""
        drawn = random.uniform((batch, 3), *self.factor, dtype="float32", seed=self.generator)
        return drawn * tf.constant([float(axis in self.axes) for axis in _AXES])

    def _maps(self, drawn: tf.Tensor, sizes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The matrices `[batch, 3, 3]` and shifts `[batch, 3]`, in voxels, for the drawn numbers."""
        raise NotImplementedError

    @staticmethod
    def positions(index: Sequence[tf.Tensor], matrices: tf.Tensor) -> list[tf.Tensor]:
        """The positions in the volume, along each axis, of the result's voxels with the given indices."""
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
    """Rotates volumes about their middle while training, about each axis by its own random angle.

    Args:
        factor: the lowest and the highest angle, as a fraction of a full turn, from -1 to 1; a single number `f` means
            `(-f, f)`. A positive angle about z turns x towards y, about x it turns y towards z, about y it turns z
            towards x.
        axes: the axes to rotate about, some of "x", "y" and "z"; "z" rotates the axial slices of a CT. The volume is
            rotated about x first, then y, then z.
        spacing: the size of a voxel along x, y and z, in mm or any other unit, so that angles are those of the body and
            not of the voxel grid.
        fill_mode: the values beyond the volume: `"constant"`, `"nearest"`, `"reflect"` or `"wrap"`, as in Keras.
        interpolation: `"trilinear"` or `"nearest"`.
        seed: the seed of the random numbers.
        fill_value: the value beyond the volume if `fill_mode` is `"constant"`, such as -1024 for air in HU.

    Raises:
        ValueError: if an argument is invalid.

    Example:

    ```python
    rotate = ks.layers.RandomRotation3D(15 / 360, spacing=(0.7, 0.7, 2.5))
    rotated = rotate(volumes, training=True)
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
        # A voxel of the result is sampled where the inverse rotation puts it.
        return tf.linalg.matrix_transpose(turn) * spacing[None, None, :] / spacing[None, :, None], tf.zeros([3])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "spacing": self.spacing}


def _rotation(angle: tf.Tensor, axis: int) -> tf.Tensor:
    """Matrices `[batch, 3, 3]` that rotate about one axis, turning the next axis towards the one after it."""
    cosine, sine, zero, one = tf.cos(angle), tf.sin(angle), tf.zeros_like(angle), tf.ones_like(angle)
    rows = [[one, zero, zero], [zero, cosine, -sine], [zero, sine, cosine]]
    order = [(k - axis) % 3 for k in range(3)]
    return tf.stack([tf.stack([rows[i][k] for k in order], -1) for i in order], -2)


@keras.saving.register_keras_serializable("keras_spatial")
class RandomTranslation3D(_RandomAffine3D):
    """Shifts volumes while training, along each axis by its own random distance.

    Args:
        factor: the lowest and the highest shift, as a fraction of the volume's size along the axis, from -1 to 1; a
            single number `f` means `(-f, f)`. A positive shift moves the image towards higher indices.
        axes: the axes to shift along, some of "x", "y" and "z".
        fill_mode, interpolation, seed, fill_value: as for `RandomRotation3D`.

    Raises:
        ValueError: if an argument is invalid.

    Example:

    ```python
    shifted = ks.layers.RandomTranslation3D(0.1, axes="xy")(volumes, training=True)
    ```
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
    """Zooms volumes about their middle while training, by the same factor along all axes.

    Args:
        factor: the lowest and the highest relative change of the size of the field of view, above -1 and up to 1; a
            single number `f` means `(-f, f)`. A positive number zooms out, as in Keras's `RandomZoom`.
        fill_mode, interpolation, seed, fill_value: as for `RandomRotation3D`.

    Raises:
        ValueError: if an argument is invalid.

    Example:

    ```python
    zoomed = ks.layers.RandomZoom3D((-0.2, 0.1))(volumes, training=True)
    ```
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
            raise ValueError(
                f"factor: expected more than -1, which would leave no field of view. Received: factor={factor}"
            )

    def _maps(self, drawn: tf.Tensor, sizes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return (1 + drawn[:, :1, None]) * tf.eye(3), tf.zeros([3])

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["axes"]
        return config


@keras.saving.register_keras_serializable("keras_spatial")
class RandomCrop3D(RandomVolumeLayer):
    """Crops volumes at a random position while training, the same for a whole batch; otherwise to their middle.

    Args:
        size: the number of voxels along x, y and z that are kept, or one number for all three.
        seed: the seed of the random numbers.

    Raises:
        ValueError: if the size is invalid; when the layer is called, if volumes are smaller.

    Example:

    ```python
    part = ks.layers.RandomCrop3D((64, 64, 32))(volumes, training=True)
    ```
    """

    def __init__(self, size: int | Sequence[int], seed: int | None = None, **kwargs: Any):
        super().__init__(seed, **kwargs)
        self.size = three_sizes("size", size)

    def draw(self, shape: Shape) -> tf.Tensor:
        """Draw the first voxel along x, y and z that is kept, for volumes of a shape: int32 `[3]`."""
        drawn = random.uniform((3,), dtype="float32", seed=self.generator)
        most = surplus(self.name, shape, self.size)
        return tf.minimum(tf.cast(drawn * (most + 1).astype("float32"), tf.int32), most)

    def starts(self, shape: Shape) -> tuple[int, ...]:
        """The first voxel along x, y and z of the middle, for volumes of shape `[batch, x, y, z, channels]`."""
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
        raise ValueError(f"axes: expected one or more of 'x', 'y', 'z', each once, such as 'xy'. Received: {axes!r}")
    return axes
