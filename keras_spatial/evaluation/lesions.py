"""Match predicted lesions with reference lesions, and measure how well the detected ones are outlined.

LiTS counts a lesion as detected if its overlap with the prediction, the intersection over union, is above 0.5. Lesions
that touch in the prediction, or fall apart in it, are merged first. A reference lesion belongs to the predicted lesion
that covers most of it, and the reference lesions of one predicted lesion form a group. A predicted lesion belongs to
the group with which it shares the most voxels, and the predicted lesions of a group are compared with it as a single
one.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from keras_spatial.evaluation.masks import MaskMetrics, compare_masks
from keras_spatial.evaluation.surfaces import Spacing
from keras_spatial.volumes import bounding_box, components

OVERLAP = 0.5


@dataclass(frozen=True)
class Lesion:
    """One connected component of the lesion label; voxels are connected if their faces touch.

    Attributes:
        volume: the volume in mm³.
        detected: whether it belongs to a matched pair with an intersection over union strictly above 0.5.
        touched: whether it shares at least one voxel with a lesion of the other side.
    """

    volume: float
    detected: bool
    touched: bool

    @property
    def diameter(self) -> float:
        """The diameter, in mm, of a sphere of the same volume."""
        return float((6 * self.volume / np.pi) ** (1 / 3))


@dataclass(frozen=True)
class LesionMatching:
    """The lesions of one case.

    Attributes:
        reference: the true lesions; one that is not `detected` is a false negative.
        predicted: the predicted lesions; one that is not `detected` is a false positive.
        pairs: the metrics of each detected pair. A pair may combine several touching lesions.
    """

    reference: tuple[Lesion, ...]
    predicted: tuple[Lesion, ...]
    pairs: tuple[MaskMetrics, ...]


@dataclass(frozen=True)
class _Pair:
    truth: tuple[int, ...]
    prediction: tuple[int, ...]


def match_lesions(prediction: np.ndarray, truth: np.ndarray, spacing: Spacing) -> LesionMatching:
    """Find, match and compare the lesions of one case.

    Args:
        prediction: the predicted lesion voxels, bool `[X, Y, Z]`.
        truth: the true lesion voxels, bool `[X, Y, Z]`.
        spacing: the voxel size along x, y and z in mm.

    Example:

    ```python
    found = ks.evaluation.match_lesions(prediction == 2, truth == 2, (0.8, 0.8, 2.5))
    print(sum(lesion.detected for lesion in found.reference), "of", len(found.reference))
    ```
    """
    box = bounding_box(prediction | truth)
    if box is None:
        return LesionMatching((), (), ())
    p, p_count = components(prediction[box])
    r, r_count = components(truth[box])
    p_size, r_size = np.bincount(p.ravel(), minlength=p_count + 1), np.bincount(r.ravel(), minlength=r_count + 1)
    shared = _shared_voxels(p, r)
    pairs = [pair for pair in _pairs(shared) if _overlap(pair, shared, p_size, r_size) > OVERLAP]
    return LesionMatching(
        _lesions(r_size, spacing, {i for pair in pairs for i in pair.truth}, {j for _, j in shared}),
        _lesions(p_size, spacing, {i for pair in pairs for i in pair.prediction}, {i for i, _ in shared}),
        _compare(pairs, p, r, spacing),
    )


def _shared_voxels(p: np.ndarray, r: np.ndarray) -> dict[tuple[int, int], int]:
    both = (p > 0) & (r > 0)
    found, counts = np.unique(np.stack([p[both], r[both]]), axis=1, return_counts=True)
    return {(int(i), int(j)): int(n) for (i, j), n in zip(found.T, counts, strict=True)}


def _pairs(shared: dict[tuple[int, int], int]) -> list[_Pair]:
    best: dict[int, tuple[int, int]] = {}
    for (i, j), n in sorted(shared.items()):
        if n > best.get(j, (0, 0))[0]:
            best[j] = n, i
    groups: dict[int, list[int]] = defaultdict(list)
    for j, (_, i) in best.items():
        groups[i].append(j)
    leader = {j: i for i, members in groups.items() for j in members}
    in_group: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for (i, j), n in shared.items():
        in_group[i][leader[j]] += n
    followers: dict[int, list[int]] = defaultdict(list)
    for i, counts in sorted(in_group.items()):
        followers[max(counts, key=lambda group: (counts[group], -group))].append(i)
    return [_Pair(tuple(groups[group]), tuple(members)) for group, members in followers.items()]


def _overlap(pair: _Pair, shared: dict[tuple[int, int], int], p_size: np.ndarray, r_size: np.ndarray) -> float:
    common = sum(shared.get((i, j), 0) for i in pair.prediction for j in pair.truth)
    total = sum(int(p_size[i]) for i in pair.prediction) + sum(int(r_size[j]) for j in pair.truth)
    return common / (total - common)


def _lesions(sizes: np.ndarray, spacing: Spacing, detected: set[int], touched: set[int]) -> tuple[Lesion, ...]:
    voxel = float(np.prod(spacing))
    return tuple(Lesion(float(sizes[i]) * voxel, i in detected, i in touched) for i in range(1, len(sizes)))


def _compare(pairs: list[_Pair], p: np.ndarray, r: np.ndarray, spacing: Spacing) -> tuple[MaskMetrics, ...]:
    if not pairs:
        return ()
    p_boxes, r_boxes = (ndimage.find_objects(numbered.astype(np.int32, copy=False)) for numbered in (p, r))
    result = []
    for pair in pairs:
        boxes = [p_boxes[i - 1] for i in pair.prediction] + [r_boxes[j - 1] for j in pair.truth]
        box = tuple(
            slice(min(b[axis].start for b in boxes), max(b[axis].stop for b in boxes)) for axis in range(p.ndim)
        )
        result.append(compare_masks(np.isin(p[box], pair.prediction), np.isin(r[box], pair.truth), spacing))
    return tuple(result)
