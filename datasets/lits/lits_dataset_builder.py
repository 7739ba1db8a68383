"""The LiTS data set: liver and lesions in abdominal CT, at any resolution, whole or in blocks."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import tensorflow_datasets as tfds

from datasets.case_builder import CaseBuilder, CaseConfig
from datasets.lits.cases import Case, find_cases
from datasets.lits.conversion import LitsReader
from keras_spatial.volumes import LITS, Grid, Task, Window


@dataclass
class LitsConfig(CaseConfig):
    """A configuration of the data set. Its name follows from the other attributes unless it is given.

    Attributes:
        resolution: the number of voxels along each axis of a cube over the whole field of view, or None.
        spacing: the edge of cubic voxels in mm, or None. Without both, scans keep their own grid.
        window: the Hounsfield units that become 0 and 1.
        blocks, split, on_bad_case: see `CaseConfig`.

    Raises:
        ValueError: if the lower end of the window is not below the upper one.
    """

    resolution: int | None = None
    spacing: float | None = None
    window: tuple[float, float] = (-512, 512)

    def __post_init__(self):
        self.window = self.window[0], self.window[1]
        self._check()

    @property
    def reader(self) -> LitsReader:
        """The reader of the cases."""
        return LitsReader(Window(*self.window))

    def _parts(self) -> list[str]:
        return [*super()._parts(), *filter(None, [self.reader.name])]

    @property
    def grid(self) -> Grid:
        return Grid(self.resolution, self.spacing)


class Builder(CaseBuilder):
    """`lits/<config>`, built from a folder of the official files, or of the Medical Segmentation Decathlon's Task03."""

    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES: ClassVar = {
        "2.0.0": "Each split has whole volumes as its examples, even if they are stored in blocks.",
        "1.2.0": "The feature of the label names the classes, and the metadata hold the task.",
        "1.1.0": "Images are stored as float16.",
        "1.0.0": "First release.",
    }
    HOMEPAGE = "https://competitions.codalab.org/competitions/17094"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Register at https://competitions.codalab.org/competitions/17094, download Training_Batch1.zip and
    Training_Batch2.zip, and unpack both into the manual directory: volume-N.nii and segmentation-N.nii, N from 0 to
    130, in any subfolders. Or unpack Task03_Liver.tar of http://medicaldecathlon.com (imagesTr, labelsTr) there.
    """
    BUILDER_CONFIGS: ClassVar = [
        *(LitsConfig(resolution=n) for n in (64, 128, 256, 512)),
        *(LitsConfig(resolution=256, blocks=b) for b in ((2, 2, 1), (4, 4, 1))),
        LitsConfig(resolution=512, blocks=(16, 16, 1)),
        *(LitsConfig(spacing=s) for s in (1.0, 2.0, 3.0)),
        LitsConfig(),
        *(LitsConfig(resolution=128, split=f"fold-{k}-of-5") for k in range(5)),
    ]

    def find_cases(self, folder: str) -> Sequence[Case]:
        """See `datasets.lits.cases.find_cases`."""
        return find_cases(folder)

    @property
    def task(self) -> Task:
        config = cast(LitsConfig, self.builder_config)
        channel = dataclasses.replace(LITS.channels[0], intensities=Window(*config.window))
        return dataclasses.replace(LITS, channels=(channel,), grid=config.grid)

    @property
    def reader(self) -> LitsReader:
        return cast(LitsConfig, self.builder_config).reader

    def key(self, case: Any) -> int:
        return case.number
