"""Segmentation tasks: classes, channels, intensities and grid. A task is stored with the data and with the model."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from keras_spatial.volumes.grid import Grid
from keras_spatial.volumes.normalisation import Normalisation, Window, from_json, to_json
from keras_spatial.volumes.place import misplaced
from keras_spatial.volumes.resampling import resample_image
from keras_spatial.volumes.volume import ChannelError, Shape, Volume

TASK = "task.json"
"""The name of the file with a model's task, in the same folder as the model."""
Scores = Literal["classes", "lits"]


class TaskError(ValueError):
    """The description of a task is missing, damaged or contradictory."""


@dataclass(frozen=True)
class Channel:
    """One image of a case.

    Attributes:
        name: the modality or sequence, such as "CT" or "T2".
        normalisation: how its intensities become the network's input.
    """

    name: str
    normalisation: Normalisation

    @property
    def is_ct(self) -> bool:
        """Whether the name says that the image is a CT, with values in Hounsfield units."""
        return self.name.strip().lower() == "ct"


def check_channels(volumes: Sequence[Volume], names: Sequence[str]) -> list[Volume]:
    """Check that the channels of a case are on the same grid, and give them the affine of the first one.

    Args:
        volumes: one volume for each channel.
        names: the names of the channels.

    Returns:
        The volumes, on the grid of the first one.

    Raises:
        ChannelError: if there are not as many volumes as names, their shapes differ, or they lie in different places.
    """
    first = volumes[0] if volumes else None
    if first is None or len(volumes) != len(names):
        raise ChannelError(
            f"{first.name if first else 'no volume'}: expected {len(names)} channels ({', '.join(names)}). "
            f"Received: {len(volumes)}"
        )
    # The path of a series may contain the patient's name.
    known = first.path.name if first.series is None else first.name
    for volume in volumes[1:]:
        if volume.array.shape != first.array.shape:
            raise ChannelError(
                f"{volume.name}: expected the shape of {known}, {first.array.shape}. Received: {volume.array.shape}"
            )
        if fault := misplaced(volume, first):
            raise ChannelError(
                f"{volume.name}: {fault}; register the channels to one grid. Received: orientation "
                f"{volume.orientation} against {first.orientation}"
            )
    return [replace(v, affine=first.affine) for v in volumes]


@dataclass(frozen=True)
class Task:
    """A segmentation task.

    Attributes:
        name: the name of the data set.
        labels: the names of the classes by number; the first one is the background.
        channels: the channels of an image.
        grid: the voxel grid that the network sees.
        scores: "classes" for overlap and surface metrics of each class; "lits" for those of the Liver Tumor
            Segmentation Benchmark, whose class 1 (liver) includes class 2 (lesion).
        loss_weights: the weights of the classes in the cross-entropy; empty if they are equal.
        largest: the number of voxels along each axis of the smallest box that can contain every image on the grid; None
            if it is unknown.

    Raises:
        TaskError: if the attributes are invalid or contradict each other.

    Example:

    ```python
    task = ks.volumes.Task("prostate", ("background", "peripheral", "transition"),
                           (Channel("T2", ZScore()), Channel("ADC", ZScore())), Grid(spacing=(0.6, 0.6, 3.6)))
    ks.inference.segment(model, ["case_0000.nii.gz", "case_0001.nii.gz"], task=task)
    ```
    """

    name: str
    labels: tuple[str, ...]
    channels: tuple[Channel, ...]
    grid: Grid = Grid()  # noqa: RUF009 - a frozen value.
    scores: Scores = "classes"
    loss_weights: tuple[float, ...] = ()
    largest: Shape | None = None

    def __post_init__(self) -> None:
        if not 2 <= len(self.labels) <= 256 or len(set(self.labels)) != len(self.labels) or not all(self.labels):
            raise TaskError(f"labels: expected 2 to 256 different names, background first. Received: {self.labels}")
        if "mean" in self.labels:
            raise TaskError(
                f"labels: a class cannot be called 'mean', which means the mean of all classes. Received: {self.labels}"
            )
        if not self.channels:
            raise TaskError(f"channels: expected at least one. Received: {self.channels}")
        if self.scores not in ("classes", "lits") or (self.scores == "lits" and len(self.labels) != 3):
            raise TaskError(
                f'scores: expected "classes", or "lits" for background, liver and lesion. Received: {self.scores!r} '
                f"for {len(self.labels)} labels"
            )
        if self.loss_weights and len(self.loss_weights) != len(self.labels):
            raise TaskError(
                f"loss_weights: expected {len(self.labels)}, one for each label. Received: {self.loss_weights}"
            )

    @property
    def foreground(self) -> tuple[str, ...]:
        """The names of the classes that are not the background."""
        return self.labels[1:]

    def image(self, volumes: Sequence[Volume]) -> np.ndarray:
        """Compute the network's input: the channels of one case, normalised and then resampled to the grid.

        Args:
            volumes: one volume for each channel, in canonical (RAS) order, on the same grid.

        Returns:
            A float32 image `[X, Y, Z, channels]`. Its values are rounded to float16, in which the data sets are stored;
            that has 11 bits, a relative error of at most 0.05 %.

        Raises:
            ChannelError: if the channels do not fit together; see `check_channels`.
        """
        volumes = check_channels(volumes, [c.name for c in self.channels])
        target = self.target(volumes[0])
        image = np.empty((*target, len(volumes)), np.float32)
        for index, (channel, volume) in enumerate(zip(self.channels, volumes, strict=True)):
            normalised = channel.normalisation(volume.array)
            image[..., index] = normalised if normalised.shape == target else resample_image(normalised, target)
        return image.astype(np.float16).astype(np.float32)

    def target(self, volume: Volume) -> Shape:
        """The shape, in voxels, of a volume in canonical order on the task's grid."""
        x, y, z = volume.array.shape
        return self.grid.target((x, y, z), volume.spacing)

    def as_dict(self) -> dict[str, Any]:
        """The task as plain dicts, lists and numbers, for JSON; `of` reads it."""
        return {
            "name": self.name,
            "labels": list(self.labels),
            "channels": [{"name": c.name, "normalisation": to_json(c.normalisation)} for c in self.channels],
            "grid": self.grid.as_dict(),
            "scores": self.scores,
            "loss_weights": list(self.loss_weights),
            "largest": None if self.largest is None else list(self.largest),
        }

    @classmethod
    def of(cls, value: Any, where: str = "task") -> "Task":
        """Make a task from a dictionary that `as_dict` made.

        Args:
            value: the dictionary.
            where: where it was read from, for the message.

        Raises:
            TaskError: if something in it is missing or wrong.
        """
        try:
            # Integers that pass through KFP or protobuf become floats.
            resolution, spacing, largest = value["grid"]["resolution"], value["grid"]["spacing"], value["largest"]
            return cls(
                name=str(value["name"]),
                labels=tuple(map(str, value["labels"])),
                channels=tuple(Channel(str(c["name"]), from_json(c["normalisation"])) for c in value["channels"]),
                grid=Grid(None if resolution is None else int(resolution), tuple(spacing) if spacing else None),
                scores=value["scores"],
                loss_weights=tuple(map(float, value["loss_weights"])),
                largest=None if largest is None else (int(largest[0]), int(largest[1]), int(largest[2])),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise TaskError(
                f"{where}: expected the description of a task. Received: {type(error).__name__}: {error} in "
                f"{value!r:.200}"
            ) from error


LITS = Task(
    "LiTS",
    ("background", "liver", "lesion"),
    (Channel("CT", Window(-512, 512)),),
    scores="lits",
    loss_weights=(1, 8, 16),
)
"""The task of the Liver Tumor Segmentation Benchmark, on the grid of the scans."""


def read_task(folder: str | Path) -> Task:
    """Read the task of the model in a folder.

    Raises:
        TaskError: if `task.json` is missing or damaged.
    """
    path = Path(folder) / TASK
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TaskError(f"{path}: cannot be read; train the model again. Received: {error}") from error
    return Task.of(value, str(path))
