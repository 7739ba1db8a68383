"""A convolution over a block and its margins that never puts the two together.

A convolution is linear. So it is the block's own convolution, with zeros around it, plus what the margins contribute to
the outputs along the block's faces: thin convolutions of thin strips, added in place. Putting the block and its margins
together first would copy the whole activation once per split axis.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import tensorflow as tf

from keras_spatial.lowering.windows import Window
from keras_spatial.mtf.halo import Halo, add_rows, take


@dataclass(frozen=True)
class StripConvolution:
    """Where a convolution's margins contribute, along all axes of a block.

    Attributes:
        windows: by tensor axis, for every axis that the kernel spans.
        before: by tensor axis, the outputs' offset: how far below the block's first input the first output begins.
        lengths: by tensor axis, inputs of a block.
    """

    windows: Mapping[int, Window]
    before: Mapping[int, int]
    lengths: Mapping[int, int]

    def fits(self, halos: Sequence[Halo]) -> bool:
        """Whether zero padding around a block is what TensorFlow's `"same"` padding puts there, and its faces' outputs
        do not overlap."""
        for halo in halos:
            window, length = self.windows[halo.axis], self.lengths[halo.axis]
            if length % window.stride or window.padding_before(length, "same") != halo.before:
                return False
            below, above = self._outputs_below(halo), self._outputs_above(halo)
            if below + above > length // window.stride or max(halo.before, halo.after) > length:
                return False
        return all(
            window.padding_before(self.lengths[axis], "same") == self.before[axis]
            for axis, window in self.windows.items()
        )

    def _outputs_below(self, halo: Halo) -> int:
        return -(-halo.before // self.windows[halo.axis].stride)

    def _outputs_above(self, halo: Halo) -> int:
        window, length = self.windows[halo.axis], self.lengths[halo.axis]
        first = max(-(-(length + halo.before - window.extent + 1) // window.stride), 0)
        return length // window.stride - first if halo.after else 0

    def __call__(
        self,
        convolve: Callable[..., tf.Tensor],
        block: tf.Tensor,
        margins: Sequence[tf.Tensor],
        halos: Sequence[Halo],
        kernel: tf.Tensor,
    ) -> tf.Tensor:
        """The block's outputs.

        Args:
            convolve: from padding (`"same"` or `"valid"`), a tensor and a kernel whose first axes are the image's, to
                the convolution.
            block: a slice.
            margins: below and above, for each halo; zeros beyond the image.
            halos: the split axes, in the order of exchange.
            kernel: the kernel.
        """
        result = convolve("same", block, kernel)
        for number, halo in enumerate(halos):
            window, length = self.windows[halo.axis], self.lengths[halo.axis]
            extended = {earlier.axis for earlier in halos[:number]}
            below, above = margins[2 * number], margins[2 * number + 1]
            count = self._outputs_below(halo)
            if count:
                offset = 0  # of the strip's first element from the first input that output 0 reads
                rows = self._face(convolve, below, halo.axis, offset, count, extended, kernel)
                result = add_rows(result, rows, halo.axis, 0)
            count = self._outputs_above(halo)
            if count:
                first = length // window.stride - count
                offset = length - (first * window.stride - halo.before)
                rows = self._face(convolve, above, halo.axis, offset, count, extended, kernel)
                result = add_rows(result, rows, halo.axis, first)
        return result

    def _face(
        self,
        convolve: Callable[..., tf.Tensor],
        margin: tf.Tensor,
        axis: int,
        offset: int,
        count: int,
        extended: set[int],
        kernel: tf.Tensor,
    ) -> tf.Tensor:
        """What a margin adds to `count` outputs, the first of which reads its first tap `offset` below the margin."""
        window = self.windows[axis]
        padding = [(0, 0)] * margin.shape.rank
        for other, its_window in self.windows.items():
            if other != axis and other not in extended:
                padding[other] = self._padding(other, its_window)
        if count == 1:
            # Only some taps reach the margin: those alone are convolved.
            taps = [tap for tap in range(window.size) if 0 <= tap * window.dilation - offset < margin.shape[axis]]
            first = taps[0] * window.dilation - offset
            margin = take(margin, axis, first, (len(taps) - 1) * window.dilation + 1)
            kernel = take(kernel, axis - 1, taps[0], len(taps))
        else:
            needed = (count - 1) * window.stride + window.extent
            padding[axis] = (offset, max(needed - offset - margin.shape[axis], 0))
        if any(any(pair) for pair in padding):
            margin = tf.pad(margin, padding)
        return take(convolve("valid", margin, kernel), axis, 0, count)

    def _padding(self, axis: int, window: Window) -> tuple[int, int]:
        length, before = self.lengths[axis], self.before[axis]
        needed = (window.output_size(length, "same") - 1) * window.stride + window.extent
        return before, max(needed - length - before, 0)
