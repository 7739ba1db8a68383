"""Resizing and cropping of volumes, which Keras has only for 2D images."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_spatial.layers.volumes import Shape, VolumeLayer, surplus, three_sizes

_INTERPOLATIONS = ("trilinear", "nearest")


@keras.saving.register_keras_serializable("keras_spatial")
class Resizing3D(VolumeLayer):
    """Resizes volumes to a given number of voxels, as `keras.layers.Resizing` does for images.

    Args:
        size: the number of voxels of the result along x, y and z, or one number for all three.
        interpolation: `"trilinear"` or `"nearest"`.
        antialias: whether a new voxel averages over the voxels that it covers when the volume gets smaller (only with
            trilinear interpolation).

    Raises:
        ValueError: if the size or the interpolation is invalid.

    Example:

    ```python
    smaller = ks.layers.Resizing3D((64, 64, 32), antialias=True)(volumes)
    ```
    """

    def __init__(
        self,
        size: int | Sequence[int],
        interpolation: str = "trilinear",
        antialias: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if interpolation not in _INTERPOLATIONS:
            raise ValueError(f"interpolation: expected one of {_INTERPOLATIONS}. Received: {interpolation!r}")
        self.size = three_sizes("size", size)
        self.interpolation, self.antialias = interpolation, antialias

    def call(self, inputs):
        interpolation = "bilinear" if self.interpolation == "trilinear" else self.interpolation
        for axis, size in enumerate(self.size, start=1):
            shape = ops.shape(inputs)
            if shape[axis] != size:
                # One axis at a time, as the rows of an image whose columns do not change.
                rest = math.prod(shape[axis + 1 :])
                image = ops.reshape(inputs, (-1, shape[axis], rest, 1))
                image = ops.image.resize(
                    image, (size, rest), interpolation, antialias=self.antialias, data_format="channels_last"
                )
                inputs = ops.reshape(image, (*shape[:axis], size, *shape[axis + 1 :]))
        return inputs

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], *self.size, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        options = {"size": self.size, "interpolation": self.interpolation, "antialias": self.antialias}
        return {**super().get_config(), **options}


@keras.saving.register_keras_serializable("keras_spatial")
class CenterCrop3D(VolumeLayer):
    """Crops volumes to their middle, as `keras.layers.CenterCrop` does for images.

    If an odd number of voxels is cropped along an axis, one more is cropped at its end.

    Args:
        size: the number of voxels along x, y and z that are kept, or one number for all three.

    Raises:
        ValueError: if the size is invalid; when the layer is called, if volumes are smaller.

    Example:

    ```python
    middle = ks.layers.CenterCrop3D((64, 64, 32))(volumes)
    ```
    """

    def __init__(self, size: int | Sequence[int], **kwargs: Any):
        super().__init__(**kwargs)
        self.size = three_sizes("size", size)

    def starts(self, shape: Shape) -> tuple[int, ...]:
        """The first voxel along x, y and z that is kept, for volumes of shape `[batch, x, y, z, channels]`."""
        return tuple(surplus(self.name, shape, self.size) // 2)

    def call(self, inputs):
        starts = self.starts(inputs.shape)
        return ops.slice(inputs, (0, *starts, 0), (ops.shape(inputs)[0], *self.size, inputs.shape[-1]))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], *self.size, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "size": self.size}
