"""Pure integers: image axes and their shards, windows along an axis, and the text forms of meshes and layouts.

Nothing here knows TensorFlow.
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
        name: `batch`, `x`, `y`, `z` or `channels`; other tensors' further axes are called `axis1`, `axis2`, ...
        size: the logical size, which is the size that plain Keras would see.
        shards: into how many equal shards the axis is split; 1 if it is whole.
        length: elements per shard. `shards * length` is at least `size`; what lies beyond it has no meaning.
        scale: shard length relative to the model's input, such as 1/4 after two strides of 2.
        cut: what planning calls the division into shards; that of the model's input has the axis's own name.
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
        return Axis(self.name, size)

    def cut_like(self, other: "Axis") -> bool:
        """Whether elements with the same index lie on the same device."""
        if not (self.sharded or other.sharded):
            return True
        return (self.name, self.shards, self.length) == (other.name, other.shards, other.length)


class ShardsTooShort(Exception):
    """The model's input must be cut into other shards: `Network` catches it, and tries again with these.

    Attributes:
        axis: the name of the axis's cut.
        multiple: the shard length at the input must be a multiple of this.
        length: the shard length at the input must be at least this.
    """

    def __init__(self, axis: str, *, multiple: int = 1, length: int = 1):
        super().__init__(f"axis '{axis}': blocks of a multiple of {multiple}, at least {length}")
        self.axis, self.multiple, self.length = axis, multiple, length


@dataclass(frozen=True)
class ShardLength:
    """How one image axis of the input is cut: shard length `multiple`-divisible and at least `length`."""

    multiple: int = 1
    length: int = 1

    def including(self, needed: ShardsTooShort) -> "ShardLength":
        return ShardLength(math.lcm(self.multiple, needed.multiple), max(self.length, needed.length))

    def length_for(self, size: int, blocks: int) -> int:
        least = max(-(-size // blocks), self.length)
        return -(-least // self.multiple) * self.multiple


@dataclass(frozen=True)
class Window:
    """A kernel or pooling window along one axis.

    Attributes:
        size: taps of the kernel.
        stride: distance of neighbouring outputs, in inputs.
        dilation: distance of neighbouring taps, in inputs.
    """

    size: int
    stride: int = 1
    dilation: int = 1

    @property
    def extent(self) -> int:
        """Inputs from the first tap to the last, inclusive."""
        return (self.size - 1) * self.dilation + 1

    def output_size(self, size: int, padding: str) -> int:
        """Outputs for `size` inputs under `"same"`, `"valid"` or `"causal"` padding, as in Keras."""
        if padding == "valid":
            return (size - self.extent) // self.stride + 1
        return -(-size // self.stride)

    def padding_before(self, size: int, padding: str) -> int:
        """Zeros that TensorFlow puts below an axis of `size` inputs."""
        if padding == "valid":
            return 0
        if padding == "causal":
            return self.extent - 1
        return max((self.output_size(size, padding) - 1) * self.stride + self.extent - size, 0) // 2

    def halo(self, before: int) -> tuple[int, int]:
        """Inputs that a shard needs below and above its own, for outputs that start `before` below its first input.

        The shard's length is a multiple of the stride, and it makes `length / stride` outputs. A negative halo
        above (a stride wider than the window) means that the shard's last inputs are not read: it counts as 0.
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
        """Outputs that are cut off below, as TensorFlow's transposed convolution does for this output size."""
        if padding == "valid":
            return 0
        output = self.output_size(size, padding, output_padding)
        return max((size - 1) * self.stride + self.extent - output, 0) // 2

    def halo(self, before: int) -> tuple[int, int]:
        """Inputs that a shard needs below and above its own, if `before` outputs are cut off below the image."""
        below = max((self.extent - 1 - before) // self.stride, 0)
        above = max((self.stride - 1 + before) // self.stride, 0)
        return below, above


def parse_pairs(text: str | Mapping[str, object] | Sequence[tuple[str, object]], what: str) -> list[tuple[str, str]]:
    """`"rows:2, columns:2"`, a dict or a list of pairs, as a list of pairs of strings.

    Raises:
        ValueError: if a pair lacks its colon or a name stands twice.
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
        raise ValueError(f"Every name of a {what} may stand only once. Received: {text!r}")
    return [(name, value) for name, value in pairs]


def parse_mesh(shape: str | Mapping[str, int]) -> dict[str, int]:
    """The axes of a mesh and their sizes, from `"rows:2, columns:2"` or a dict.

    Raises:
        ValueError: if the text is malformed, or a size is no positive integer.
    """
    pairs = parse_pairs(shape, "mesh shape")
    for name, value in pairs:
        if not (value.isascii() and value.isdigit()) or int(value) < 1:
            raise ValueError(f"The size of mesh axis '{name}' must be a positive integer. Received: {shape!r}")
    return {name: int(value) for name, value in pairs}


def parse_layout(
    layout: str | Mapping[str, str] | Sequence[tuple[str, str]], mesh_axes: Sequence[str]
) -> dict[str, str]:
    """Image axis to mesh axis, from `"x:rows, y:columns"`, a dict or pairs.

    Args:
        layout: the text.
        mesh_axes: the names of the mesh's axes.

    Raises:
        ValueError: if the text is malformed, an axis is unknown, or a mesh axis stands twice.
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
        raise ValueError(f"A layout may use every mesh axis only once. Received: {layout!r}")
    return dict(pairs)
