"""Read cases of LiTS and resample them to a grid."""

import functools
from dataclasses import dataclass

import numpy as np

from datasets.conversion import Arrays
from datasets.lits.cases import Case, check_header, read_case
from keras_spatial.volumes import Limits, Shape, Volume, Window, resample_labels, to_canonical, whole_hounsfield

_LESION = 2
_PAPER = Window(-512, 512)


@dataclass(frozen=True)
class LitsReader:
    """The `datasets.conversion.Reader` of LiTS, which accepts its known faults, rounds to whole HU and keeps every
    lesion.

    Attributes:
        window: the window from Hounsfield units to the network's input.
    """

    window: Window = _PAPER

    @property
    def name(self) -> str:
        """See `datasets.conversion.Reader`."""
        return "" if self.window == _PAPER else f"hu{self.window.low:g}to{self.window.high:g}"

    def check_header(self, case: Case, limits: Limits) -> None:
        """See `datasets.lits.cases.check_header`."""
        check_header(case, limits)

    def read(self, case: Case, limits: Limits) -> tuple[list[Volume], Volume]:
        """See `datasets.lits.cases.read_case`."""
        volume, labels = read_case(case, limits)
        return [to_canonical(volume)], to_canonical(labels)

    def resample(self, volumes: list[Volume], labels: Volume, shape: Shape) -> Arrays:
        """See `datasets.conversion.Reader`. HU are rounded to whole numbers, see `whole_hounsfield`."""
        image = whole_hounsfield(volumes[0].array, shape)
        return Arrays(
            image, resample_labels(labels.array, shape, keep=(_LESION,)), functools.partial(_network_input, self.window)
        )


def _network_input(window: Window, hu: np.ndarray) -> np.ndarray:
    return window(hu).astype(np.float16)[..., None]
