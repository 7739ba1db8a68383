"""Block-wise data: a process holds only its own blocks of the images and labels."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf


class LocalBlocks(tf.experimental.ExtensionType):
    """A batch of images or labels, as the blocks for the devices of this process.

    `fit`, `evaluate` and `predict_blocks` of a `ks.Model` take it wherever they take a whole tensor, alone or as an
    element of a `tf.data.Dataset`, so that no process ever holds a whole image. `ks.data.load(..., distribution=...)`
    makes it.

    Attributes:
        slices: one block for each device of this process, in the order of the mesh; all have the same shape and dtype.
        counts: the number of equal blocks along each axis of the tensor; 1 for an axis that is not sharded.

    Raises:
        ValueError: if there are no blocks, or a block does not have one axis for each of `counts`.

    Example:

    ```python
    # A process with two devices, which split the first image axis of 64 voxels.
    images = ks.LocalBlocks((images[:, :32], images[:, 32:]), counts=(1, 2, 1, 1, 1))
    ```
    """

    slices: tuple[tf.Tensor, ...]
    counts: tuple[int, ...]

    def __validate__(self):
        if not self.slices or any(s.shape.rank not in (None, len(self.counts)) for s in self.slices):
            raise ValueError(
                f"Each block needs one axis for each of counts={self.counts}. Received blocks of shapes "
                f"{[s.shape for s in self.slices]}"
            )

    @property
    def shape(self) -> tf.TensorShape:
        """The shape of the whole tensor."""
        sizes = self.slices[0].shape.as_list()
        return tf.TensorShape([None if n is None else n * count for n, count in zip(sizes, self.counts, strict=True)])

    @property
    def dtype(self) -> tf.DType:
        return self.slices[0].dtype

    def cast(self, dtype) -> "LocalBlocks":
        return self._each(lambda s: tf.cast(s, dtype), self.counts)

    def with_channels(self) -> "LocalBlocks":
        """The same blocks with an additional last axis of one channel."""
        return self._each(lambda s: tf.expand_dims(s, -1), (*self.counts, 1))

    def _each(self, function: Callable[[tf.Tensor], tf.Tensor], counts: tuple[int, ...]) -> "LocalBlocks":
        return LocalBlocks(tuple(function(s) for s in self.slices), counts)

    def check(self, lengths: tuple[int, ...], counts: tuple[int, ...], devices: int) -> None:
        """Check that the blocks are those that a model needs.

        Args:
            lengths: the number of elements of a block along each axis.
            counts: the number of blocks along each axis.
            devices: the number of devices of this process.

        Raises:
            ValueError: if the blocks are not those.
        """
        found = self.slices[0].shape.as_list()
        if (tuple(found), self.counts, len(self.slices)) != (lengths, counts, devices):
            raise ValueError(
                f"The model takes blocks of {lengths} elements, {counts} of them along the axes, "
                f"{devices} in this process; block-wise data are not padded, so choose an image size that these "
                f"divide. Received: {len(self.slices)} blocks of {tuple(found)} elements, {self.counts} along the axes"
            )


class Block:
    """A block of an array that a device of this process holds.

    Args:
        index: where the block lies in the array: one slice for each axis.
        values: the values of the block, or a function that reads them each time they are asked for.
    """

    def __init__(self, index: tuple[slice, ...], values: np.ndarray | Callable[[], np.ndarray]):
        self.index = index
        self._values = values

    @property
    def values(self) -> np.ndarray:
        """The values of the block."""
        return self._values() if callable(self._values) else self._values


def as_tensor(value) -> tf.Tensor | LocalBlocks:
    """A user's value as a tensor; `LocalBlocks` are returned unchanged."""
    return value if isinstance(value, LocalBlocks) else tf.convert_to_tensor(value)
