"""Find the best intensity threshold, as a baseline for the results of networks.

The best band of HU for a class is the one with the highest mean Dice per case on the training cases; no network that
only looks at single voxels can do much better.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_LOW, _HIGH, _STEP = -200, 300, 5
_EDGES = np.arange(_LOW, _HIGH + _STEP, _STEP)


@dataclass(frozen=True)
class Band:
    """The voxels from `low` HU to below `high` HU, and their mean Dice per case on the cases on which the band was
    chosen.
    """

    low: int
    high: int
    dice: float


@dataclass(frozen=True, eq=False)
class Histogram:
    """How many voxels of a case have which HU. This is enough to choose and score bands.

    Attributes:
        marked: the number of voxels between the lowest edge of a band and each edge, int64.
        liver: the same for the voxels of the liver and its lesions.
        lesion: the same for the voxels of the lesions.
        sizes: the number of all voxels of the liver with its lesions, and of all voxels of the lesions.
    """

    marked: np.ndarray
    liver: np.ndarray
    lesion: np.ndarray
    sizes: tuple[int, int]

    def sought(self, lesion: bool) -> tuple[np.ndarray, int]:
        """The number of voxels of the lesions, or of the liver with its lesions, up to each edge and in total."""
        return (self.lesion, self.sizes[1]) if lesion else (self.liver, self.sizes[0])

    def as_json(self) -> list[Any]:
        """The histogram as lists and numbers; `of_json` reads them."""
        return [self.marked.tolist(), self.liver.tolist(), self.lesion.tolist(), list(self.sizes)]

    @classmethod
    def of_json(cls, value: list[Any]) -> "Histogram":
        *counts, (liver, lesion) = value
        marked, of_liver, of_lesion = (np.array(c, np.int64) for c in counts)
        return cls(marked, of_liver, of_lesion, (liver, lesion))


def histogram(slabs: Iterable[tuple[np.ndarray, np.ndarray]]) -> Histogram:
    """Count the voxels of a case.

    Args:
        slabs: the HU and the labels of the case, `[X, Y, planes]` each, slab by slab, so that neither has to be whole
            in memory.
    """
    counts = np.zeros((3, _EDGES.size), np.int64)
    sizes = np.zeros(2, np.int64)
    for hu, labels in slabs:
        masks = (np.ones(labels.shape, bool), labels > 0, labels == 2)
        for count, mask in zip(counts, masks, strict=True):
            values = hu[mask]
            # NumPy counts the last edge itself in the last bin; a band ends before its upper edge.
            found = np.histogram(values, _EDGES)[0]
            found[-1] -= np.count_nonzero(values == _HIGH)
            count[1:] += np.cumsum(found)
        sizes += [int(mask.sum()) for mask in masks[1:]]
    return Histogram(counts[0], counts[1], counts[2], (int(sizes[0]), int(sizes[1])))


def best_band(cases: Sequence[Histogram], lesion: bool) -> Band:
    """The band of HU, in steps of 5 HU from -200 to 300, with the highest mean Dice per case.

    Args:
        cases: the histograms of the cases.
        lesion: whether the lesions are sought, or the liver with its lesions (as LiTS scores it).

    Raises:
        ValueError: if there are no cases.
    """
    if not cases:
        raise ValueError("best_band: expected at least one case. Received: none")
    score = np.zeros((_EDGES.size, _EDGES.size))
    for case in cases:
        inside, size = case.sought(lesion)
        both = 2 * (inside[None, :] - inside[:, None])
        total = case.marked[None, :] - case.marked[:, None] + size
        score += np.where(total > 0, both / np.maximum(total, 1), 1.0)
    score = np.triu(score, 1) / len(cases)
    low, high = np.unravel_index(int(score.argmax()), score.shape)
    return Band(int(_EDGES[low]), int(_EDGES[high]), float(score[low, high]))


def dice(cases: Sequence[Histogram], band: Band, lesion: bool) -> float:
    """The mean Dice per case of a band on other cases; 1 for a case without voxels in the labels and in the band."""
    low, high = ((edge - _LOW) // _STEP for edge in (band.low, band.high))
    scores = []
    for case in cases:
        inside, size = case.sought(lesion)
        total = size + int(case.marked[high] - case.marked[low])
        scores.append(2 * int(inside[high] - inside[low]) / total if total else 1.0)
    return float(np.mean(scores))
