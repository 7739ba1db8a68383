"""Any segmentation data set in the layout of the Medical Segmentation Decathlon, of nnU-Net, or in a plain folder."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import tensorflow_datasets as tfds

from datasets.case_builder import CaseBuilder, CaseConfig
from datasets.cases import Case
from datasets.decathlon.layout import DESCRIPTION, read_layout
from datasets.decathlon.reader import TaskReader
from keras_spatial.volumes import Grid, Task


@dataclass
class DecathlonConfig(CaseConfig):
    """The configuration of a user's data set, which `datasets.decathlon.configure` makes for a folder.

    Attributes:
        task: the classes, channels, intensities and grid.
        intensities: how the intensities become the network's input, as the caller chose it; it is part of the name
            unless it is "auto".
        blocks, split, on_bad_case: see `CaseConfig`.
    """

    task: Task | None = None
    intensities: str = "auto"

    def __post_init__(self):
        if self.task is None:
            raise ValueError("task: expected the task of a folder; see datasets.decathlon.configure. Received: None")
        self._check()

    @property
    def grid(self) -> Grid:
        return cast(Task, self.task).grid

    def _parts(self) -> list[str]:
        name = re.sub(r"[^a-z0-9]+", "_", cast(Task, self.task).name.lower()).strip("_") or "task"
        kind = [] if self.intensities == "auto" else [self.intensities]
        return [name, *kind, *super()._parts()]


class Builder(CaseBuilder):
    """`decathlon/<config>`, built from a folder of the user."""

    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES: ClassVar = {
        "2.0.0": "Each split has whole volumes as its examples, even if they are stored in blocks.",
        "1.0.0": "First release.",
    }
    HOMEPAGE = "http://medicaldecathlon.com"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    A folder with dataset.json, imagesTr and labelsTr, as the tasks of http://medicaldecathlon.com and nnU-Net v2 have
    them, or with images and labels. Build it with datasets.decathlon.prepare, which reads its channels and labels.
    """

    def find_cases(self, folder: str) -> Sequence[Case]:
        """See `datasets.decathlon.layout.read_layout`."""
        return read_layout(folder, *self._given(folder)).cases

    def _given(self, folder: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The names of channels and labels for a plain folder without a description; empty for other folders."""
        described = (tfds.core.Path(folder) / DESCRIPTION).exists()
        return ((), ()) if described else (tuple(c.name for c in self.task.channels), self.task.labels)

    @property
    def task(self) -> Task:
        return cast(Task, cast(DecathlonConfig, self.builder_config).task)

    @property
    def reader(self) -> TaskReader:
        return TaskReader(self.task)
