"""How a case of LiTS is read and brought onto a grid."""

import numpy as np

from datasets.conversion import Arrays
from datasets.lits.cases import Case, check_header, read_case
from keras_spatial.volumes import Limits, Shape, Volume, hu_window, resample_image, resample_labels, to_canonical

# Scanners mark voxels outside their circle with -2000 or -3024 HU; averaged, that would spread into the body.
_AIR, _METAL = -1024, 3071
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
        """Whole HU, as scanners give them: the window then has 1025 values, all of them exact in float16."""
        hu = volumes[0].array
        if hu.min() < _AIR or hu.max() > _METAL:
            hu = np.clip(hu, _AIR, _METAL)
        image = np.rint(resample_image(hu, shape)) if hu.shape != shape or hu.dtype.kind == "f" else hu
        return Arrays(image, resample_labels(labels.array, shape, keep=(_LESION,)), _network_input)


def _network_input(hu: np.ndarray) -> np.ndarray:
    return hu_window(hu).astype(np.float16)[..., None]
