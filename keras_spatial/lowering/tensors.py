"""Tensors of a partitioned model: logical sizes beside the padded sizes that are laid out on the mesh."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import tensorflow as tf

from keras_spatial.mtf.compatibility import mtf


@dataclass(frozen=True)
class Axis:
    """One axis of a partitioned tensor.

    Attributes:
        name: `batch`, `x`, `y`, `z` or `channels`; other tensors' further axes are called `axis1`, `axis2`, ...
        size: the logical size, which is the size that plain Keras would see.
        blocks: into how many equal blocks the axis is split; 1 if it is whole.
        length: elements per block. `blocks * length` is at least `size`; what lies beyond it has no meaning.
        scale: block length relative to the model's input, such as 1/4 after two strides of 2.
        cut: what `plan_blocks` calls the division into blocks; that of the model's input has the axis's own name.
    """

    name: str
    size: int
    blocks: int = 1
    length: int = 0
    scale: Fraction = Fraction(1)
    cut: str = ""

    def __post_init__(self):
        if self.blocks == 1:
            object.__setattr__(self, "length", self.size)
        elif self.blocks * self.length < self.size:
            raise BlocksTooShort(
                self.cut or self.name, length=math.ceil(Fraction(-(-self.size // self.blocks)) / self.scale)
            )

    @property
    def split(self) -> bool:
        return self.blocks > 1

    @property
    def padded(self) -> bool:
        """Whether some blocks hold elements beyond the logical size."""
        return self.blocks * self.length != self.size

    @property
    def dimension(self) -> mtf.Dimension:
        """The Mesh-TF dimension. The layout knows the plain names, so a whole axis goes by another one."""
        return mtf.Dimension(self.name if self.split else f"whole_{self.name}", self.blocks * self.length)

    def resized(self, size: int, *, up: int = 1, down: int = 1) -> "Axis":
        """The axis after an operation that turns every `down` elements into `up`, with the logical size `size`.

        Raises:
            BlocksTooShort: if a block cannot be divided by `down`.
        """
        if not self.split:
            return replace(self, size=size, scale=self.scale * up / down)
        if self.length * up % down:
            needed = self.scale * up / down
            raise BlocksTooShort(self.cut or self.name, multiple=needed.denominator)
        return replace(self, size=size, length=self.length * up // down, scale=self.scale * up / down)

    def whole(self, size: int) -> "Axis":
        return Axis(self.name, size)

    def cut_like(self, other: "Axis") -> bool:
        """Whether elements with the same index lie on the same device."""
        if not (self.split or other.split):
            return True
        return (self.name, self.blocks, self.length) == (other.name, other.blocks, other.length)


class BlocksTooShort(Exception):
    """The model's input must be cut into other blocks: `plan_blocks` catches it, and tries again with these.

    Attributes:
        axis: the name of the axis's cut.
        multiple: the block length at the input must be a multiple of this.
        length: the block length at the input must be at least this.
    """

    def __init__(self, axis: str, *, multiple: int = 1, length: int = 1):
        super().__init__(f"axis '{axis}': blocks of a multiple of {multiple}, at least {length}")
        self.axis, self.multiple, self.length = axis, multiple, length


@dataclass(frozen=True)
class Blocks:
    """How one image axis of the input is cut: block length `multiple`-divisible and at least `length`."""

    multiple: int = 1
    length: int = 1

    def including(self, needed: BlocksTooShort) -> "Blocks":
        return Blocks(math.lcm(self.multiple, needed.multiple), max(self.length, needed.length))

    def length_for(self, size: int, blocks: int) -> int:
        least = max(-(-size // blocks), self.length)
        return -(-least // self.multiple) * self.multiple


@dataclass(frozen=True)
class SpatialTensor:
    """A tensor of a partitioned model.

    Attributes:
        value: the Mesh-TF tensor, of padded sizes.
        axes: one `Axis` per dimension, batch first, channels last.
        parts: the tensors that it was made of by putting their channels one after the other. An operation that can do
            with them leaves their concatenation uncomputed.
    """

    value: mtf.Tensor
    axes: tuple[Axis, ...]
    parts: tuple["SpatialTensor", ...] = ()

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

    def axis_index(self, name: str) -> int:
        return [axis.name for axis in self.axes].index(name)


def mesh_shape_of(axes: Sequence[Axis]) -> mtf.Shape:
    return mtf.Shape([axis.dimension for axis in axes])


def broadcast_axes(tensors: Sequence[SpatialTensor]) -> tuple[Axis, ...]:
    """Axes of the result of an elementwise operation, by NumPy's rules.

    Raises:
        ValueError: if the shapes do not broadcast.
    """
    rank = max(x.ndim for x in tensors)
    axes: list[Axis] = []
    for i in range(-rank, 0):
        candidates = [x.axes[i] for x in tensors if x.ndim >= -i]
        largest = max(candidates, key=lambda axis: axis.size)
        for axis in candidates:
            if axis.size not in (1, largest.size):
                raise ValueError(f"Shapes do not broadcast. Received: {[x.shape for x in tensors]}")
            if axis.size == largest.size and (axis.blocks, axis.length) != (largest.blocks, largest.length):
                raise ValueError(
                    f"Tensors of shapes {[x.shape for x in tensors]} are cut into different blocks along "
                    f"'{axis.name}': {axis} and {largest}."
                )
        axes.append(largest)
    return tuple(axes)


def axis_names(rank: int) -> tuple[str, ...]:
    """Names of the axes of a channels-last tensor: `batch, x, y, z, channels` for rank 5."""
    if rank == 0:
        return ()
    if rank == 1:
        return ("batch",)
    image = ("x", "y", "z") if rank <= 5 else ("x", "y", "z", *(f"axis{i}" for i in range(4, rank - 1)))
    return ("batch", *image[: rank - 2], "channels")
