"""Tensors of a partitioned model, with their logical sizes and the padded sizes that are laid out on the mesh."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import tensorflow as tf

from keras_spatial.layout import Axis
from keras_spatial.mesh_tensorflow import mtf


@dataclass(frozen=True)
class SpatialTensor:
    """A tensor of a partitioned model.

    Attributes:
        value: the Mesh-TF tensor, whose sizes are the padded ones.
        axes: one `Axis` per dimension, batch first, channels last.
        mask_source: the layer that made the mask which Keras would have attached to the tensor, or None.

    Example:

    ```python
    class Fade(keras.layers.Layer):
        def call(self, x):
            return x / x.shape[1]

    @ks.register_lowering(Fade)
    def lower_fade(layer, trace, x: ks.rules.SpatialTensor):
        size = x.shape[1]  # The logical size, whatever the shards.
        return trace.pointwise(lambda x: x / size, [x])
    ```
    """

    value: mtf.Tensor
    axes: tuple[Axis, ...]
    mask_source: Any = field(default=None, compare=False, repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """The logical shape, as plain Keras sees it."""
        return tuple(axis.size for axis in self.axes)

    @property
    def dtype(self) -> tf.DType:
        return self.value.dtype

    @property
    def ndim(self) -> int:
        return len(self.axes)

    @property
    def image_axes(self) -> tuple[Axis, ...]:
        return self.axes[1:-1]

    @property
    def padded_axes(self) -> list[int]:
        return [i for i, axis in enumerate(self.axes) if axis.padded]

    def masked(self, source: Any) -> "SpatialTensor":
        """The same tensor, as if its mask came from another layer, or from none."""
        return self if source is self.mask_source else replace(self, mask_source=source)


def dimension_of(axis: Axis) -> mtf.Dimension:
    """The Mesh-TF dimension of an axis. The layout shards the plain names, so an axis that is not sharded gets another
    name.
    """
    return mtf.Dimension(axis.name if axis.sharded else f"whole_{axis.name}", axis.shards * axis.length)


def mesh_shape_of(axes: Sequence[Axis]) -> mtf.Shape:
    dimensions: list[mtf.Dimension] = []
    for i, axis in enumerate(axes):
        dimension = dimension_of(axis)
        if not axis.sharded and any(dimension.name == other.name for other in dimensions):
            # Axes that are not sharded are identified by position, but Mesh-TensorFlow still needs unique names.
            dimension = mtf.Dimension(f"{dimension.name}_{i}", dimension.size)
        dimensions.append(dimension)
    return mtf.Shape(dimensions)


def broadcast_axes(tensors: Sequence[SpatialTensor]) -> tuple[Axis, ...]:
    """The axes of the result of an elementwise operation, by NumPy's rules.

    Raises:
        ValueError: if the shapes do not broadcast, or axes of the same size are cut into different shards.
    """
    rank = max(x.ndim for x in tensors)
    axes: list[Axis] = []
    for i in range(-rank, 0):
        candidates = [x.axes[i] for x in tensors if x.ndim >= -i]
        largest = max(candidates, key=lambda axis: axis.size)
        for axis in candidates:
            if axis.size not in (1, largest.size):
                raise ValueError(f"Shapes do not broadcast. Received: {[x.shape for x in tensors]}")
            if axis.size == largest.size and (axis.shards, axis.length) != (largest.shards, largest.length):
                raise ValueError(
                    f"Tensors of shapes {[x.shape for x in tensors]} are cut into different shards along "
                    f"'{axis.name}': {axis} and {largest}."
                )
        axes.append(largest)
    return tuple(axes)


def axis_names(rank: int) -> tuple[str, ...]:
    """The names of the axes of a channels-last tensor, such as `batch, x, y, z, channels` for rank 5."""
    if rank == 0:
        return ()
    if rank == 1:
        return ("batch",)
    image = ("x", "y", "z") if rank <= 5 else ("x", "y", "z", *(f"axis{i}" for i in range(4, rank - 1)))
    return ("batch", *image[: rank - 2], "channels")
