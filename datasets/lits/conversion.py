"""How a case of LiTS is read and brought onto a grid."""

import numpy as np

from datasets.conversion import Arrays
from datasets.lits.cases import Case, check_header, read_case
from keras_spatial.volumes import Limits, Shape, Volume, hu_window, resample_labels, to_canonical, whole_hounsfield

_LESION = 2


class LitsReader:
    """The `datasets.conversion.Reader` of LiTS: quirks of its files, whole Hounsfield units, no lesion lost."""

    name = ""

    def check_header(self, case: Case, limits: Limits) -> None:
        """See `datasets.lits.cases.check_header`."""
        check_header(case, limits)

    def read(self, case: Case, limits: Limits) -> tuple[list[Volume], Volume]:
        """See `datasets.lits.cases.read_case`."""
        volume, labels = read_case(case, limits)
        return [to_canonical(volume)], to_canonical(labels)

    def resample(self, volumes: list[Volume], labels: Volume, shape: Shape) -> Arrays:
        """Whole HU, see `whole_hounsfield`."""
        image = whole_hounsfield(volumes[0].array, shape)
        return Arrays(image, resample_labels(labels.array, shape, keep=(_LESION,)), _network_input)


def _network_input(hu: np.ndarray) -> np.ndarray:
    return hu_window(hu).astype(np.float16)[..., None]
