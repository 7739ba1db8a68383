"""Sliding-window inference with overlapping, blended patches, common practice if a whole image does not fit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Literal

import numpy as np

from keras_spatial.inference.probabilities import Predict

Blend = Literal["gaussian", "constant"]


def sliding_window(
    predict: Predict,
    image: np.ndarray,
    patch_size: Sequence[int],
    *,
    overlap: float = 0.5,
    blend: Blend = "gaussian",
    batch_size: int = 1,
    fill: float | None = None,
) -> np.ndarray:
    """Compute the class probabilities of an image from those of overlapping patches.

    The probabilities of a voxel are the mean over the patches that contain it, weighted by its position in each patch.
    An image smaller than a patch is padded on all sides. Every call of `predict` gets the same shape, so that a model
    is traced only once. Besides the image, the function holds one array of the size of the result and one batch of
    patches in memory.

    Args:
        predict: a function from images to class probabilities; see `probabilities_of`.
        image: a float32 image `[X, Y, Z, channels]`.
        patch_size: the number of voxels of a patch along x, y and z.
        overlap: the smallest fraction of a patch's length that neighbouring patches share, at least 0 and below 1.
        blend: "gaussian" gives the most weight to the middle of a patch, where the network saw the most context (as in
            nnU-Net and MONAI, with a standard deviation of an eighth of the patch); "constant" weights all voxels
            equally.
        batch_size: the number of patches per call of `predict`.
        fill: the value of the padding; the image's lowest value by default.

    Returns:
        Class probabilities, float32 `[X, Y, Z, classes]`.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    ```python
    predict = ks.inference.probabilities_of(model)
    probabilities = ks.inference.sliding_window(predict, image, (64, 64, 64), overlap=0.5)
    ```
    """
    patch = tuple(int(n) for n in patch_size)
    if image.ndim != 4:
        raise ValueError(f"image: expected [X, Y, Z, channels]. Received: shape {image.shape}")
    if len(patch) != 3 or min(patch) < 1:
        raise ValueError(f"patch_size: expected three positive sizes. Received: {tuple(patch_size)}")
    if batch_size < 1:
        raise ValueError(f"batch_size: expected 1 or more. Received: {batch_size}")
    weights = importance(patch, blend)[..., None]
    windows = Windows.over(image.shape[:3], patch, overlap)
    padded = windows.pad(image, fill)
    total, weight = None, np.zeros((*padded.shape[:3], 1), np.float32)
    for boxes in _batches(windows.boxes(), batch_size):
        # The last batch is filled up with its first patch, because another shape would trace the model again.
        filled = boxes + boxes[:1] * (batch_size - len(boxes))
        found = predict(np.stack([padded[box] for box in filled]))
        if total is None:
            total = np.zeros((*padded.shape[:3], found.shape[-1]), np.float32)
        for box, patch_found in zip(boxes, found, strict=False):
            total[box] += patch_found * weights
            weight[box] += weights
    assert total is not None
    total /= weight
    return total[windows.inside]


Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Windows:
    """The positions of the patches that cover an image.

    Attributes:
        shape: the number of voxels of the image along x, y and z.
        patch: the number of voxels of a patch.
        overlap: the smallest fraction of a patch that neighbouring patches share.
    """

    shape: tuple[int, int, int]
    patch: tuple[int, int, int]
    overlap: float

    @classmethod
    def over(cls, shape: Sequence[int], patch: Sequence[int], overlap: float) -> "Windows":
        """Make the windows for these sizes, which may be any sequences."""
        return cls((shape[0], shape[1], shape[2]), (patch[0], patch[1], patch[2]), overlap)

    @property
    def padded(self) -> tuple[int, int, int]:
        """The number of voxels of the image after it is padded to at least a patch."""
        x, y, z = (max(n, p) for n, p in zip(self.shape, self.patch, strict=True))
        return x, y, z

    @property
    def inside(self) -> Box:
        """Where the image lies in the padded image, which is the middle."""
        x, y, z = (slice((m - n) // 2, (m - n) // 2 + n) for m, n in zip(self.padded, self.shape, strict=True))
        return x, y, z

    def pad(self, image: np.ndarray, fill: float | None) -> np.ndarray:
        """Pad an image `[X, Y, Z, channels]` on all sides, with its lowest value where `fill` is None."""
        value = float(image.min(initial=np.inf)) if fill is None else fill
        around = [(s.start, m - s.stop) for s, m in zip(self.inside, self.padded, strict=True)]
        return np.pad(image, [*around, (0, 0)], constant_values=value)

    def boxes(self) -> Iterator[Box]:
        """The patches of the padded image, the last axis fastest."""
        starts = [window_starts(n, p, self.overlap) for n, p in zip(self.padded, self.patch, strict=True)]
        for place in product(*starts):
            x, y, z = (slice(a, a + p) for a, p in zip(place, self.patch, strict=True))
            yield x, y, z


def window_starts(size: int, patch: int, overlap: float) -> list[int]:
    """Where patches start along one axis: as few patches as the overlap allows, spread evenly from edge to edge.

    Args:
        size: the number of voxels of the image, at least `patch`.
        patch: the number of voxels of a patch.
        overlap: the smallest fraction of a patch that neighbouring patches share.

    Raises:
        ValueError: unless 0 <= overlap < 1.

    Example:

    ```python
    assert ks.inference.window_starts(200, 96, overlap=0.5) == [0, 35, 69, 104]
    ```
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap: expected at least 0 and below 1. Received: {overlap}")
    step = max(int(patch * (1 - overlap)), 1)
    count = -(-(size - patch) // step) + 1
    return [round(i * (size - patch) / max(count - 1, 1)) for i in range(count)]


def importance(patch: Sequence[int], blend: Blend) -> np.ndarray:
    """The weight of each voxel of a patch, float32 of shape `patch`: 1 in the middle, and never below a thousandth.

    Raises:
        ValueError: if `blend` is neither "gaussian" nor "constant".

    Example:

    ```python
    weights = ks.inference.importance((96, 96, 96), "gaussian")
    ```
    """
    if blend == "constant":
        return np.ones(tuple(patch), np.float32)
    if blend != "gaussian":
        raise ValueError(f"blend: expected 'gaussian' or 'constant'. Received: {blend!r}")
    result = np.ones((), np.float64)
    for n in patch:
        distance = np.arange(n) - (n - 1) / 2
        result = result[..., None] * np.exp(-0.5 * (distance / (n / 8)) ** 2)
    return np.maximum(result / result.max(), 1e-3).astype(np.float32)


def _batches(items: Iterator[Box], size: int) -> Iterator[list[Box]]:
    while batch := list(islice(items, size)):
        yield batch
