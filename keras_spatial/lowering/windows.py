"""Window arithmetic along one axis: which inputs an output needs, as pure functions of integers.

Everything follows from the map between output and input indices. Output `o` of a convolution or pooling reads the
inputs

    o * stride - before,  o * stride - before + dilation,  ...,  o * stride - before + (size - 1) * dilation

where `before` is the zero padding below the image. Output `o` of a transposed convolution reads the inputs `i` with
`i * stride + j * dilation - before = o` for some tap `j` of the kernel.
"""

from dataclasses import dataclass


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

    def margins(self, before: int) -> tuple[int, int]:
        """Inputs that a block needs below and above its own, for outputs that start `before` below its first input.

        The block's length is a multiple of the stride, and it makes `length / stride` outputs. A negative margin
        above (a stride wider than the window) means that the block's last inputs are not read: it counts as 0.
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

    def margins(self, before: int) -> tuple[int, int]:
        """Inputs that a block needs below and above its own, if `before` outputs are cut off below the image."""
        below = max((self.extent - 1 - before) // self.stride, 0)
        above = max((self.stride - 1 + before) // self.stride, 0)
        return below, above
