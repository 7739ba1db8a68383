"""Sliding-window inference with overlapping, blended patches: today's usual way if a whole image does not fit."""

from collections.abc import Iterator, Sequence
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
    probabilities = ks.inference.sliding_window(predict, image, (96, 96, 96), overlap=0.5)
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
    missing = [max(p - n, 0) for p, n in zip(patch, image.shape, strict=False)]
    value = float(image.min(initial=np.inf)) if fill is None else fill
    padded = np.pad(image, [(k // 2, k - k // 2) for k in missing] + [(0, 0)], constant_values=value)
    total, weight = None, np.zeros((*padded.shape[:3], 1), np.float32)
    starts = [window_starts(n, p, overlap) for n, p in zip(padded.shape, patch, strict=False)]
    for places in _batches(product(*starts), batch_size):
        boxes = [tuple(slice(a, a + p) for a, p in zip(place, patch, strict=True)) for place in places]
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
    return total[tuple(slice(k // 2, k // 2 + n) for k, n in zip(missing, image.shape, strict=False))]


def window_starts(size: int, patch: int, overlap: float) -> list[int]:
    """Where patches start along one axis: as few patches as the overlap allows, spread evenly from edge to edge.

    Args:
        size: the number of voxels of the image, at least `patch`.
        patch: the number of voxels of a patch.
        overlap: the smallest fraction of a patch that neighbouring patches share.

    Raises:
        ValueError: unless 0 <= overlap < 1.
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


def _batches(items: Iterator[tuple[int, ...]], size: int) -> Iterator[list[tuple[int, ...]]]:
    while batch := list(islice(items, size)):
        yield batch
