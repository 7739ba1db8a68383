"""Oversampling: cases with rare classes are drawn more often than they occur in the data set."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keras_spatial.data.boxes import Index
from keras_spatial.data.classes import CaseClasses
from keras_spatial.data.hashing import hashed

# Added to the seed for the draws of an example; the other draws hash with seed, seed + 1 and seed + 2.
_SEED = 3


@dataclass(frozen=True)
class Example:
    """One example of an epoch.

    Attributes:
        case: the position of the case in the split.
        number: the number of the example, which determines its transform.
        place: a voxel of the case that the example's box must hold, if it holds less than the whole image; None where
            any box will do.
    """

    case: int
    number: int
    place: Index | None = None


@dataclass(frozen=True)
class Oversampling:
    """Replaces a share of the examples by cases that have a rare class.

    The method is that of nnU-Net (Isensee et al., Nature Methods 18, 2021), which applies it to a third of its patches:
    for each of these examples a class is drawn, then a case that has it, then one of its voxels. The number of examples
    in an epoch does not change, so other cases are seen less often. The share of examples with a rare class is higher
    than `share`, because some of the other examples have one, too. If the images are not cropped, only the case is
    drawn. If they are cropped (`size` of `ks.data.load`), the box contains the voxel, wherever the augmentation has
    moved it.

    The draws depend only on the seed and on the number of the example, so all processes draw the same, and a resumed
    run draws what an uninterrupted one would have drawn.

    Attributes:
        share: the fraction of the examples that are replaced.
        found: where the classes of each case are, from `ks.data.read_classes`.
        classes: the numbers of the rare classes, each of which is drawn equally often.

    Raises:
        ValueError: if the share is not from 0 to 1, there are no classes, or no case has one of them.

    Example:

    ```python
    found = ks.data.read_classes(ks.data.open_builder("data/lits/64/2.0.0"), "train")
    lesions = ks.data.Oversampling(0.33, found, classes=(2,))
    dataset = ks.data.load("data/lits/64/2.0.0", "train", shuffle=True, oversampling=lesions)
    ```
    """

    share: float
    found: Sequence[CaseClasses]
    classes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share: expected a number from 0 to 1. Received: {self.share!r}")
        if not self.classes:
            raise ValueError(f"classes: expected at least one number. Received: {self.classes!r}")
        for number in self.classes:
            if not self.cases_with(number):
                there = sorted({n for case in self.found for n in case.classes})
                raise ValueError(
                    f"classes: expected numbers of classes that some case has, of {there}. Received: {number}"
                )

    def cases_with(self, number: int) -> list[int]:
        """The positions of the cases that have a class."""
        return [case for case, facts in enumerate(self.found) if number in facts.classes]

    def draw(self, case: int, number: int, seed: int) -> Example:
        """The example that takes the place of a case.

        Args:
            case: the case that the order of the epoch has.
            number: the number of the example.
            seed: the seed of the order.
        """
        bits = hashed(np.arange(4, dtype=np.uint64) + np.uint64(4 * number), seed + _SEED).tolist()
        if bits[0] / 2**64 >= self.share:
            return Example(case, number)
        wanted = self.classes[bits[1] % len(self.classes)]
        cases = self.cases_with(wanted)
        drawn = cases[bits[2] % len(cases)]
        places = self.found[drawn].classes[wanted].places
        return Example(drawn, number, places[bits[3] % len(places)])


def rare_classes(found: Sequence[CaseClasses]) -> tuple[int, ...]:
    """The numbers of the rare classes: all foreground classes except the one with the most voxels, or that one if it is
    the only one.

    Example:

    ```python
    found = ks.data.read_classes(ks.data.open_builder("data/lits/64/2.0.0"), "train")
    lesions = ks.data.Oversampling(0.33, found, ks.data.rare_classes(found))
    ```
    """
    voxels: dict[int, int] = {}
    for case in found:
        for number, places in case.classes.items():
            voxels[number] = voxels.get(number, 0) + places.voxels
    foreground = sorted(number for number in voxels if number)
    if len(foreground) < 2:
        return tuple(foreground)
    most = max(foreground, key=lambda number: voxels[number])
    return tuple(number for number in foreground if number != most)
