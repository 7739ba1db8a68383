"""Image axes and their shards, windows along an axis, and the text forms of meshes and layouts.

Everything here is computed on plain integers, without TensorFlow.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

AXIS_NAMES = ("batch", "x", "y", "z")
"""The axes of an image tensor that a layout can split, in the order of Keras's channels-last tensors."""


@dataclass(frozen=True)
class Axis:
    """One axis of a partitioned tensor.

    Attributes:
        name: `batch`, `x`, `y`, `z` or `channels`; the axes of tensors that are not images are called `axis1`,
            `axis2`, and so on.
        size: the logical size, which is the size that plain Keras would see.
        shards: the number of equal shards along the axis; 1 if the axis is not sharded.
        length: elements per shard. `shards * length` is at least `size`; elements beyond `size` have no meaning.
        scale: shard length relative to the model's input, such as 1/4 after two strides of 2.
        cut: the name by which planning knows this division into shards; for the model's input it is the axis's name.

    Example:

    ```python
    axis = ks.rules.Axis("x", size=60, shards=4, length=16)
    assert axis.padded and axis.resized(30, down=2).length == 8
    ```
    """

    name: str
    size: int
    shards: int = 1
    length: int = 0
    scale: Fraction = Fraction(1)
    cut: str = ""

    def __post_init__(self):
        if self.shards == 1:
            object.__setattr__(self, "length", self.size)
        elif self.shards * self.length < self.size:
            raise ShardsTooShort(
                self.cut or self.name, length=math.ceil(Fraction(-(-self.size // self.shards)) / self.scale)
            )

    @property
    def sharded(self) -> bool:
        return self.shards > 1

    @property
    def padded(self) -> bool:
        """Whether some shards hold elements beyond the logical size."""
        return self.shards * self.length != self.size

    def resized(self, size: int, *, up: int = 1, down: int = 1) -> "Axis":
        """The axis after an operation that turns every `down` elements into `up`, with the logical size `size`.

        Raises:
            ShardsTooShort: if a shard cannot be divided by `down`.
        """
        if not self.sharded:
            return replace(self, size=size, scale=self.scale * up / down)
        if self.length * up % down:
            needed = self.scale * up / down
            raise ShardsTooShort(self.cut or self.name, multiple=needed.denominator)
        return replace(self, size=size, length=self.length * up // down, scale=self.scale * up / down)

    def whole(self, size: int) -> "Axis":
        """The axis with another logical size, not sharded."""
        return Axis(self.name, size)

    def cut_like(self, other: "Axis") -> bool:
        """Whether elements with the same index along both axes lie on the same device."""
        if not (self.sharded or other.sharded):
            return True
        return (self.name, self.shards, self.length) == (other.name, other.shards, other.length)


class ShardsTooShort(Exception):
    """The model's input must be cut into longer shards: `Network` catches this and tries again with the given lengths.

    Attributes:
        axis: the `cut` of the axis.
        multiple: the shard length at the input must be a multiple of this.
        length: the shard length at the input must be at least this.
    """

    def __init__(self, axis: str, *, multiple: int = 1, length: int = 1):
        super().__init__(f"axis '{axis}' needs shards of at least {length} elements, a multiple of {multiple}")
        self.axis, self.multiple, self.length = axis, multiple, length


@dataclass(frozen=True)
class ShardLength:
    """How one image axis of the input is cut: its shard length is a multiple of `multiple` and at least `length`."""

    multiple: int = 1
    length: int = 1

    def including(self, needed: ShardsTooShort) -> "ShardLength":
        return ShardLength(math.lcm(self.multiple, needed.multiple), max(self.length, needed.length))

    def length_for(self, size: int, shards: int) -> int:
        """The smallest permitted shard length with which `shards` shards cover `size` elements."""
        minimum = max(-(-size // shards), self.length)
        return -(-minimum // self.multiple) * self.multiple


@dataclass(frozen=True)
class Padding:
    """What windows see around an image, where Keras's `"same"` or `"causal"` does not say it.

    Attributes:
        widths: the elements before and after each image axis.
        fill: their value.
    """

    widths: tuple[tuple[int, int], ...]
    fill: float = 0.0


@dataclass(frozen=True)
class Window:
    """A kernel or pooling window along one axis.

    Attributes:
        size: the number of taps.
        stride: the distance between neighbouring outputs, counted in inputs.
        dilation: the distance between neighbouring taps, counted in inputs.
    """

    size: int
    stride: int = 1
    dilation: int = 1

    @property
    def extent(self) -> int:
        """The number of inputs from the first tap to the last, inclusive."""
        return (self.size - 1) * self.dilation + 1

    def output_size(self, size: int, padding: str | tuple[int, int]) -> int:
        """The number of outputs for `size` inputs.

        Args:
            size: the number of inputs.
            padding: `"same"`, `"valid"` or `"causal"`, as in Keras, or the elements before and after the inputs.
        """
        if not isinstance(padding, str):
            return self.output_size(size + sum(padding), "valid")
        if padding == "valid":
            return (size - self.extent) // self.stride + 1
        return -(-size // self.stride)

    def padding_before(self, size: int, padding: str | tuple[int, int]) -> int:
        """The number of elements that stand before the first of `size` inputs."""
        if not isinstance(padding, str):
            return padding[0]
        if padding == "valid":
            return 0
        if padding == "causal":
            return self.extent - 1
        return max((self.output_size(size, padding) - 1) * self.stride + self.extent - size, 0) // 2

    def halo(self, before: int) -> tuple[int, int]:
        """The halo widths of a shard, before and after it, if its first window starts `before` inputs before the shard.

        The shard's length is a multiple of the stride, and the shard has `length / stride` outputs. If the stride is
        wider than the window, the shard's last inputs are not read, and the halo after it has width 0.
        """
        return before, max(self.extent - self.stride - before, 0)


@dataclass(frozen=True)
class TransposedWindow(Window):
    """A transposed convolution's kernel along one axis: `stride` outputs per input."""

    def output_size(self, size: int, padding: str, output_padding: int | None = None) -> int:
        if output_padding is None:
            return size * self.stride + (max(self.extent - self.stride, 0) if padding == "valid" else 0)
        crop = self.extent // 2 if padding == "same" else 0
        return (size - 1) * self.stride + self.extent - 2 * crop + output_padding

    def crop_before(self, size: int, padding: str, output_padding: int | None = None) -> int:
        """The number of outputs that TensorFlow's transposed convolution crops at the start for this output size."""
        if padding == "valid":
            return 0
        output = self.output_size(size, padding, output_padding)
        return max((size - 1) * self.stride + self.extent - output, 0) // 2

    def halo(self, before: int) -> tuple[int, int]:
        """The halo widths of a shard, before and after it, if `before` outputs are cropped at the image's start."""
        halo_before = max((self.extent - 1 - before) // self.stride, 0)
        halo_after = max((self.stride - 1 + before) // self.stride, 0)
        return halo_before, halo_after


def parse_pairs(text: str | Mapping[str, object] | Sequence[tuple[str, object]], what: str) -> list[tuple[str, str]]:
    """Turn `"rows:2, columns:2"`, a dict or a list of pairs into a list of pairs of strings.

    Args:
        text: the text, dict or pairs.
        what: what the text describes, for the error message.

    Raises:
        ValueError: if a pair lacks its colon or a name appears twice.
    """
    if isinstance(text, str):
        parts = [part.strip() for part in re.split(r"[,;]", text) if part.strip()]
        pairs = [tuple(item.strip() for item in part.split(":")) for part in parts]
    else:
        pairs = [(str(k), str(v)) for k, v in (text.items() if isinstance(text, Mapping) else text)]
    if not pairs or any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise ValueError(f"A {what} is written as 'name:value, name:value'. Received: {text!r}")
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError(f"A name may appear only once in a {what}. Received: {text!r}")
    return [(name, value) for name, value in pairs]


def parse_mesh(shape: str | Mapping[str, int]) -> dict[str, int]:
    """The axes of a mesh and their sizes, from `"rows:2, columns:2"` or a dict.

    Raises:
        ValueError: if the text is malformed, or a size is not a positive integer.
    """
    pairs = parse_pairs(shape, "mesh shape")
    for name, value in pairs:
        if not (value.isascii() and value.isdigit()) or int(value) < 1:
            raise ValueError(f"The size of mesh axis '{name}' must be a positive integer. Received: {shape!r}")
    return {name: int(value) for name, value in pairs}


def parse_layout(
    layout: str | Mapping[str, str] | Sequence[tuple[str, str]], mesh_axes: Sequence[str]
) -> dict[str, str]:
    """Turn a layout into a dict from image axis to mesh axis.

    Args:
        layout: text such as `"x:rows, y:columns"`, a dict or pairs.
        mesh_axes: the names of the mesh's axes.

    Raises:
        ValueError: if the layout is malformed, an axis is unknown, or a mesh axis appears twice.
    """
    pairs = parse_pairs(layout, "layout")
    for axis, mesh_axis in pairs:
        if axis not in AXIS_NAMES:
            raise ValueError(f"A layout maps the axes {', '.join(AXIS_NAMES)}. Received: '{axis}' in {layout!r}")
        if mesh_axis not in mesh_axes:
            raise ValueError(
                f"The layout maps '{axis}' to '{mesh_axis}', but the mesh has the axes {list(mesh_axes)}. "
                f"Received: layout={layout!r}"
            )
    used = [mesh_axis for _, mesh_axis in pairs]
    if len(set(used)) != len(used):
        raise ValueError(f"A layout may use each mesh axis only once. Received: {layout!r}")
    return dict(pairs)
