"""Segmentation tasks: classes, channels, intensities and grid. A task is stored with the data and with the model."""

import json
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np

from keras_spatial import model_tasks
from keras_spatial._paths import regular
from keras_spatial.volumes.grid import Grid
from keras_spatial.volumes.intensities import Intensities, Window, from_json, to_json
from keras_spatial.volumes.place import misplaced
from keras_spatial.volumes.resampling import resample_image
from keras_spatial.volumes.volume import ChannelError, Shape, Volume

TASK = model_tasks.MEMBER
"""The name under which a task is stored: in a model's `.keras` file, and as a file of its own."""
Scores = Literal["classes", "lits"]
# Scanners mark voxels outside their field of view with -2000 or -3024 HU, which means would spread into the body.
_AIR, _METAL = -1024, 3071


class TaskError(ValueError):
    """The description of a task is missing, damaged or contradictory."""


@dataclass(frozen=True)
class Channel:
    """One image of a case.

    Attributes:
        name: the modality or sequence, such as "CT" or "T2".
        intensities: how they become the network's input: `Window`, `Percentiles` or `ZScore`.

    Example:

    ```python
    channel = ks.volumes.Channel("CT", ks.volumes.Window(-160, 240))
    ```
    """

    name: str
    intensities: Intensities

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

    Example:

    ```python
    t2 = ks.volumes.read_volume("case_0000.nii.gz")
    adc = ks.volumes.read_volume("case_0001.nii.gz")
    t2, adc = ks.volumes.check_channels([t2, adc], ["T2", "ADC"])
    ```
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
    zones = ("background", "peripheral", "transition")
    channels = tuple(ks.volumes.Channel(name, ks.volumes.ZScore()) for name in ("T2", "ADC"))
    grid = ks.volumes.Grid(spacing=(0.6, 0.6, 3.6))
    task = ks.volumes.Task("prostate", zones, channels, grid)
    model = ks.load_model("prostate.keras")
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
        names = self.labels
        if not isinstance(names, tuple) or not all(isinstance(name, str) and name for name in names):
            raise TaskError(f"labels: expected a tuple of names. Received: {names!r:.200}")
        if not 2 <= len(names) <= 256 or len(set(names)) != len(names):
            raise TaskError(f"labels: expected 2 to 256 different names, background first. Received: {names}")
        of_metrics: dict[str, str] = {"mean": "the mean of all"}
        for name in names:
            other = of_metrics.setdefault(metric_name(name), name)
            if other != name:
                raise TaskError(
                    f"labels: expected names that differ in letters or digits, because metrics are named after them. "
                    f"Received: {name!r} beside {other!r}"
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

    def image(self, volumes: Sequence[Volume], shape: Shape | None = None) -> np.ndarray:
        """The network's input: the channels of one case, normalised and then resampled to the grid.

        Scans for LiTS are resampled before they are normalised, as its data set stores them; see `whole_hounsfield`.

        Args:
            volumes: one volume for each channel, in canonical (RAS) order, all on one grid.
            shape: the number of voxels along each axis; by default that of the task's grid.

        Returns:
            A float32 image `[X, Y, Z, channels]`. Its values are rounded to float16, in which the data sets are stored;
            that has 11 bits, a relative error of at most 0.05 %.

        Raises:
            ChannelError: if the channels do not fit together; see `check_channels`.
        """
        volumes = check_channels(volumes, [c.name for c in self.channels])
        target = self.target(volumes[0]) if shape is None else shape
        image = np.empty((*target, len(volumes)), np.float32)
        for index, (channel, volume) in enumerate(zip(self.channels, volumes, strict=True)):
            if self.scores == "lits":
                image[..., index] = channel.intensities(whole_hounsfield(volume.array, target))
                continue
            normalised = channel.intensities(volume.array)
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
            "channels": [{"name": c.name, "intensities": to_json(c.intensities)} for c in self.channels],
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
            where: the name of its source, for the message.

        Raises:
            TaskError: if something in it is missing or wrong.
        """
        try:
            return cls(
                name=_text(value["name"], "name"),
                labels=tuple(_text(name, "labels") for name in _list(value["labels"], "labels")),
                channels=tuple(
                    Channel(_text(c["name"], "channels"), from_json(c["intensities"]))
                    for c in _list(value["channels"], "channels")
                ),
                grid=_grid(value["grid"]),
                scores=value["scores"],
                loss_weights=tuple(_numbers(value["loss_weights"], "loss_weights")),
                largest=None if value["largest"] is None else _shape(value["largest"]),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise TaskError(
                f"{where}: expected the description of a task. Received: {type(error).__name__}: {error} in "
                f"{value!r:.200}"
            ) from error

    def same_input(self, other: "Task") -> bool:
        """Whether a network for the other task takes the same images and gives the same classes."""
        own, others = self.as_dict(), other.as_dict()
        return all(own[name] == others[name] for name in ("labels", "channels", "grid", "scores"))


def metric_name(name: str) -> str:
    """The name of a class within the name of a metric: lower-case letters of ASCII, digits and underscores.

    TensorFlow takes no others. Accents are left out, and any other letter beyond ASCII is written as its number in
    Unicode.

    Example:

    ```python
    print(ks.volumes.metric_name("Peripheral zone"))  # peripheral_zone
    ```
    """
    return "".join(map(_ascii, unicodedata.normalize("NFC", name.lower())))


def _ascii(character: str) -> str:
    letter = unicodedata.normalize("NFKD", character)[0]
    if letter.isascii():
        return letter if letter.isalnum() else "_"
    return f"u{ord(character):x}" if character.isalnum() else "_"


def whole_hounsfield(hu: np.ndarray, shape: Shape) -> np.ndarray:
    """Resample HU to a grid and round them to whole HU, as scanners give them.

    After LiTS's window there are then 1025 possible values, all of them exact in float16.

    Args:
        hu: the HU of a volume in canonical order `[X, Y, Z]`, of any real dtype.
        shape: the number of voxels along each axis of the grid.

    Returns:
        Whole numbers from -1024 to 3071, of that shape: float32 if anything was resampled or rounded, or else in the
        dtype of `hu`.

    Example:

    ```python
    hu = ks.volumes.whole_hounsfield(volume.array, (128, 128, 64))
    ```
    """
    if hu.min() < _AIR or hu.max() > _METAL:
        hu = np.clip(hu, _AIR, _METAL)
    return np.rint(resample_image(hu, shape)) if hu.shape != shape or hu.dtype.kind == "f" else hu


LITS = Task(
    "LiTS",
    ("background", "liver", "lesion"),
    (Channel("CT", Window(-512, 512)),),
    scores="lits",
    loss_weights=(1, 8, 16),
)
"""The task of the Liver Tumor Segmentation Benchmark, on the grid of the scans."""


def read_task(path: str | Path) -> Task:
    """Read the task of a model from its file.

    Args:
        path: the model's `.keras` file, which holds the task; or a `task.json`; or a folder with `model.keras` or
            `task.json`. Models of earlier versions have their task in a `task.json` beside `model.keras`.

    Raises:
        TaskError: if the task is missing or damaged.

    Example:

    ```python
    task = ks.volumes.read_task("prostate.keras")
    print(task.labels, [channel.name for channel in task.channels])
    ```
    """
    path = Path(path)
    try:
        if path.is_dir():
            path = path / (model_tasks.TRAINED if (path / model_tasks.TRAINED).exists() else TASK)
        regular(path)
        text = model_tasks.read_text(path) if path.suffix == ".keras" else path.read_text(encoding="utf-8")
        if text is None:
            raise FileNotFoundError("a model without a task")
        value = json.loads(text)
    except (OSError, ValueError, RecursionError, BadZipFile) as error:
        raise TaskError(
            f"{path}: expected the task of a model, which its .keras file holds; write it there with "
            f"ks.volumes.write_task, or train the model again. Received: {error}"
        ) from error
    return Task.of(value, str(path))


def write_task(path: str | Path, task: Task) -> None:
    """Put a task into a model's `.keras` file, in place of the one that it may hold.

    Plain Keras loads the file as before. `ks.load_model` also loads the task, which `ks.inference.segment` follows. A
    partitioned model keeps its task when it is saved again; a model that plain Keras loads and saves loses it.

    Args:
        path: the path of the file.
        task: the task of the data set on which the model was trained.

    Raises:
        TaskError: if the file is not a `.keras` file.

    Example:

    ```python
    model.save("prostate.keras")
    ks.volumes.write_task("prostate.keras", task)
    ```
    """
    try:
        model_tasks.write_member(path, json.dumps(task.as_dict(), allow_nan=False))
    except (BadZipFile, OSError) as error:
        raise TaskError(f"{path}: expected the .keras file of a model. Received: {error}") from error


def task_of(model: Any) -> Task | None:
    """The task that `ks.load_model` found in a model's file; None if there was none.

    Raises:
        TaskError: if the task is damaged.

    Example:

    ```python
    task = ks.volumes.task_of(ks.load_model("prostate.keras"))
    ```
    """
    text = model_tasks.attached(model)
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TaskError(f"model {model.name}: expected the description of a task. Received: {error}") from error
    return Task.of(value, f"model {model.name}")


def _list(value: Any, name: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name}: expected a list. Received: {value!r:.100}")
    return value


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name}: expected a text. Received: {value!r:.100}")
    return value


def _numbers(value: Any, name: str) -> list[float]:
    for number in _list(value, name):
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise ValueError(f"{name}: expected finite numbers. Received: {value!r:.100}")
    return [float(number) for number in value]


def _whole(value: Any, name: str) -> list[int]:
    """The numbers of a list as integers: numbers that went through KFP or protobuf come back as floats."""
    numbers = _numbers(value, name)
    if any(number != int(number) for number in numbers):
        raise ValueError(f"{name}: expected whole numbers. Received: {value!r:.100}")
    return [int(number) for number in numbers]


def _shape(value: Any) -> Shape:
    numbers = _whole(value, "largest")
    if len(numbers) != 3 or min(numbers) < 1:
        raise ValueError(f"largest: expected three positive numbers. Received: {value!r:.100}")
    return numbers[0], numbers[1], numbers[2]


def _grid(value: Mapping[str, Any]) -> Grid:
    resolution, spacing = value["resolution"], value["spacing"]
    if spacing is not None:
        edges = _numbers(spacing, "spacing")
        if len(edges) != 3:
            raise ValueError(f"spacing: expected three numbers. Received: {spacing!r:.100}")
        spacing = edges[0], edges[1], edges[2]
    return Grid(None if resolution is None else _whole([resolution], "resolution")[0], spacing)
