"""Read, check and resample cases with any channels and labels."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.cases import Case, MissingPairError, check_same_place, check_same_shape, checked_labels, shown
from datasets.conversion import Arrays
from datasets.decathlon.layout import PLAIN_IMAGES
from keras_spatial._paths import UNREAD, VOLUMES, ending_of
from keras_spatial.volumes import (
    ChannelError,
    Limits,
    Shape,
    Task,
    Volume,
    check_channels,
    check_hounsfield,
    read_channels,
    read_volume,
    resample_labels,
    to_canonical,
)
from keras_spatial.volumes.place import placed_on
from keras_spatial.volumes.reading import read_grid


@dataclass(frozen=True)
class TaskReader:
    """The `datasets.conversion.Reader` of a task.

    Attributes:
        task: the channels, labels and intensities. While the fingerprint of a data set is computed, the labels may
            still be unknown.
    """

    task: Task

    @property
    def name(self) -> str:
        """A digest of the task, because other intensities or another data set give other converted cases."""
        return hashlib.sha256(json.dumps(self.task.as_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def check_header(self, case: Case, limits: Limits) -> None:
        """Check that every file exists, and that the headers describe one grid.

        Raises:
            MissingPairError: if a channel or the labels are missing.
            ChannelError: if channels differ in shape, or there are too many.
            VolumeError: as for `read`, if the fault is in a header.
        """
        self._check_files(case)
        count = self._channels_of_a_file(case)
        shapes = [read_grid(path, count, limits)[0] for path in case.images]
        _check_shapes(case.images, shapes)
        if not case.images[0].is_dir() and ending_of(case.label, (*VOLUMES, *UNREAD)):
            check_same_shape(case.label, read_grid(case.label, 1, limits)[0], case.images[0], shapes[0])

    def read(self, case: Case, limits: Limits) -> tuple[list[Volume], Volume]:
        """See `datasets.conversion.Reader`.

        Raises:
            VolumeError: as for `check_header`, or an AffineMismatchError if files lie in different places, a
                LabelValueError if there are labels that the task does not have, or an IntensityError if a CT is not in
                Hounsfield units.
        """
        self.check_header(case, limits)
        volumes = self.read_images(case.images, limits)
        labels = self.read_labels(case, volumes[0], limits)
        array = checked_labels(labels, self.task.labels)
        labels = Volume(array, volumes[0].affine, labels.header, labels.path)
        return [to_canonical(v) for v in volumes], to_canonical(labels)

    def read_images(self, paths: tuple[Path, ...], limits: Limits) -> list[Volume]:
        """Read and check the channels of a case, in the array order of the files."""
        count = len(self.task.channels) if len(paths) == 1 else 1
        volumes = [v for path in paths for v in read_channels(path, count, limits)]
        volumes = check_channels(volumes, [c.name for c in self.task.channels])
        for channel, volume in zip(self.task.channels, volumes, strict=True):
            if channel.is_ct and limits.hounsfield:
                check_hounsfield(volume)
        return volumes

    def read_labels(self, case: Case, volume: Volume, limits: Limits) -> Volume:
        """Read the labels of a case on the grid of its image, without a check of their values.

        The labels of a DICOM series may have another orientation, because programs that convert series change it, and a
        DICOM segmentation leaves out slices without labels.
        """
        labels = read_volume(case.label, limits)
        if volume.series is not None or not ending_of(case.label, VOLUMES):
            return Volume(placed_on(labels, volume), volume.affine, labels.header, labels.path)
        check_same_shape(case.label, labels.array.shape, case.images[0], volume.array.shape)
        check_same_place(labels, volume)
        return labels

    def resample(self, volumes: list[Volume], labels: Volume, shape: Shape) -> Arrays:
        """See `datasets.conversion.Reader`. The intensities are normalised before they are resampled."""
        return Arrays(self.task.image(volumes), resample_labels(labels.array, shape, keep=()), _network_input)

    def _check_files(self, case: Case) -> None:
        expected = len(self.task.channels)
        if len(case.images) > expected:
            names = ", ".join(c.name for c in self.task.channels)
            raise ChannelError(
                f"{shown(case.images[-1])}: expected {expected} channels ({names}). Received: "
                f"{len(case.images)} files of case {case.name}.{_numbered(case)}"
            )
        for path in case.files:
            if not path.exists():
                part = "labels" if path == case.label else f"channel {case.images.index(path)}"
                raise MissingPairError(
                    f"{shown(path)}: case {case.name} has no {part}. Add the file, or remove the case.{_numbered(case)}"
                )
        if case.label.is_dir():
            raise MissingPairError(
                f"{shown(case.label)}: expected a file with the labels of case {case.name}. Received: a folder. If "
                "there is a DICOM segmentation in it, move it out of the folder, and give it the folder's name and "
                "the ending .dcm."
            )

    def _channels_of_a_file(self, case: Case) -> int:
        return len(self.task.channels) if len(case.images) == 1 else 1


def _numbered(case: Case) -> str:
    """A hint for the case that the number at the end of a name is not that of a channel; otherwise ""."""
    if not any(
        path.parent.name == PLAIN_IMAGES and path.name.startswith(f"{case.name}_") and path.exists()
        for path in case.images
    ):
        return ""
    last = Path(shown(case.images[-1])).name
    return f" If {last} is a case of its own and not a channel, its labels must have the same name."


def _check_shapes(paths: tuple[Path, ...], shapes: list[tuple[int, ...]]) -> None:
    for path, shape in zip(paths[1:], shapes[1:], strict=False):
        if shape != shapes[0]:
            raise ChannelError(
                f"{shown(path)}: expected the shape of {Path(shown(paths[0])).name}, {shapes[0]}. Received: {shape}"
            )


def _network_input(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float16)
