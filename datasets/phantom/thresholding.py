"""What an intensity threshold reaches: the yardstick that says whether phantoms are hard enough.

The best band of HU for a class is the one with the highest mean Dice per case on the training cases; no network that
only looks at single voxels can do better by much.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_LOW, _HIGH, _STEP = -200, 300, 5


@dataclass(frozen=True)
class Band:
    """Voxels from `low` HU to below `high` HU, and the mean Dice per case on the cases it was chosen on."""

    low: int
    high: int
    dice: float


Case = tuple[np.ndarray, np.ndarray]


def best_band(cases: Sequence[Case], lesion: bool) -> Band:
    """The band of HU, in steps of 5 HU from -200 to 300, with the highest mean Dice per case.

    Args:
        cases: pairs of HU and labels, `[X, Y, Z]` each.
        lesion: whether the lesions are sought, or the liver with its lesions (as LiTS scores it).

    Raises:
        ValueError: if there are no cases.
    """
    if not cases:
        raise ValueError("best_band: expected at least one case. Received: none")
    edges = np.arange(_LOW, _HIGH + _STEP, _STEP)
    score = np.zeros((edges.size, edges.size))
    for hu, labels in cases:
        truth = labels == 2 if lesion else labels > 0
        inside = np.concatenate([[0], np.cumsum(np.histogram(hu[truth], edges)[0])])
        marked = np.concatenate([[0], np.cumsum(np.histogram(hu, edges)[0])])
        both = 2 * (inside[None, :] - inside[:, None])
        total = marked[None, :] - marked[:, None] + int(truth.sum())
        score += np.where(total > 0, both / np.maximum(total, 1), 1.0)
    score = np.triu(score, 1) / len(cases)
    low, high = np.unravel_index(int(score.argmax()), score.shape)
    return Band(int(edges[low]), int(edges[high]), float(score[low, high]))


def dice(cases: Sequence[Case], band: Band, lesion: bool) -> float:
    """Mean Dice per case of a band on other cases; 1 for a case where nothing is sought and nothing found."""
    scores = []
    for hu, labels in cases:
        truth = labels == 2 if lesion else labels > 0
        found = (hu >= band.low) & (hu < band.high)
        total = int(truth.sum()) + int(found.sum())
        scores.append(2 * int((truth & found).sum()) / total if total else 1.0)
    return float(np.mean(scores))
