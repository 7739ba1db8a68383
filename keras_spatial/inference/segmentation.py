"""From the volumes of a case to a label file on the same grid."""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import keras
import numpy as np

from keras_spatial.fitting import partition_to_fit
from keras_spatial.inference.flips import flip_average
from keras_spatial.inference.probabilities import ensemble_average, probabilities_of
from keras_spatial.inference.sliding import Blend, sliding_window
from keras_spatial.inference.tasks import check_fits, common_task
from keras_spatial.model import Model
from keras_spatial.volumes import (
    Limits,
    Series,
    Shape,
    Task,
    Volume,
    check_channels,
    check_hounsfield,
    check_output,
    components,
    from_canonical,
    hu_window,
    labels_from_probabilities,
    read_channels,
    resample_image,
    to_canonical,
    write_labels,
)

OneVolume = str | Path | Series | Volume
"""What `segment` takes as one volume: a file, a DICOM series, or a volume that was already read."""


@dataclass(frozen=True)
class Patches:
    """Predict patches of a resampled volume instead of the whole volume at once.

    Attributes:
        grid: voxels along x, y, z to which the volume is resampled; None takes the task's grid, and without a task the
            volume's own.
        overlap: the fraction by which neighbouring patches overlap, see `sliding_window`.
        blend: how overlapping predictions are weighted, see `sliding_window`.
        batch_size: the number of patches that are predicted at once.

    Example:

    ```python
    patches = ks.inference.Patches(grid=(96, 96, 96), overlap=0.25)
    ks.inference.segment(model, "case.nii.gz", "segmentation.nii.gz", patches=patches)
    ```
    """

    grid: tuple[int, int, int] | None = None
    overlap: float = 0.5
    blend: Blend = "gaussian"
    batch_size: int = 1


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A segmented volume.

    Attributes:
        labels: uint8 class numbers on the grid and in the array order of the file.
        volume: the volume as it was read.
        path: the file that was written, or None.
        seconds: the seconds of each step: read, resample, predict, label, write.
    """

    labels: np.ndarray
    volume: Volume
    path: Path | None
    seconds: Mapping[str, float]


def segment(
    model: keras.Model | Sequence[keras.Model],
    volume: OneVolume | Sequence[OneVolume],
    output: str | Path | None = None,
    *,
    patches: Patches | None = None,
    flips: Sequence[str] = (),
    largest_liver: bool = False,
    from_logits: bool = True,
    intensities: Callable[[np.ndarray], np.ndarray] | None = None,
    classes: Sequence[str] = (),
    limits: Limits | None = None,
    task: Task | Literal["lits"] | None = None,
    memory: int | str | None = None,
    offload: str | Path | None = None,
) -> Segmentation:
    """Segment a volume and write the labels with its header, orientation and affine.

    The volume is turned to RAS, normalised and resampled as the model's training images were, and predicted as a whole.
    The class probabilities are resampled to the volume's own grid, where every voxel gets its most probable class. The
    model's task, which is kept in its file, says how the training images were prepared. The data sets of this project
    are made in the same steps, with the same functions.

    Args:
        model: a plain or a partitioned model, whose input `[batch, x, y, z, channels]` has a known size and whose
            output has class scores. The probabilities of several models, such as the folds of a cross-validation, are
            averaged.
        volume: a file or a DICOM series, as for `ks.volumes.read_volume`, or a volume that was already read. For
            several channels, give one for each, or one file with all of them.
        output: the label file to write, `.nii` or `.nii.gz`, or `.dcm` for a DICOM segmentation of a DICOM series; None
            for no file. With several channels, the labels are written for the first one.
        patches: sliding windows of the model's input size; None to predict the whole volume at once.
        flips: the mirror axes, some of "x", "y" and "z", over whose mirror images the predictions are averaged.
        largest_liver: whether to keep only the largest connected liver and the lesions that touch it.
        from_logits: whether the model's outputs are logits, as those of `ks.models.UNet3D` are.
        intensities: a function from HU to the network's input, such as `ks.volumes.Window(-160, 240)`, which replaces
            the model's own task. By default, the task's; without a task, `hu_window`, and a volume whose values are not
            recognisably HU is refused; see `check_hounsfield`.
        classes: the names of the classes, beginning with 0, the background, which only a DICOM segmentation stores; by
            default those of the task.
        limits: the limits that the volume must keep; `Limits.current()` by default.
        task: the task of the data set on which the model was trained. By default, it is that of the model's file, if
            `ks.load_model` has found one there (`ks.volumes.task_of`); plain `keras.saving.load_model` does not read
            it. Its normalisation, channels and grid determine the network's input. An image that is smaller than the
            input is surrounded by zeros, as in training; a larger one is predicted in sliding windows of the input's
            size, whose overlap `patches` determines. Without a task, and with "lits", the data are treated as LiTS's:
            one CT, whose field of view is resampled to the model's input.
        memory: the memory of one device, such as "8GB", for models that are not partitioned. The image is cut into as
            few shards as fit, which are computed one after another. To plan once for many volumes, use
            `ks.partition_to_fit`.
        offload: with `memory`, the folder for shards that are not being computed; by default that of `output`, or else
            a temporary folder.

    Raises:
        VolumeError: if the file cannot be used; see `read_volume` and `check_hounsfield`. ChannelError if it does not
            hold the channels of the task, LimitError if its spacing asks for too many voxels of the task's grid.
        ValueError: if the model's inputs or outputs do not fit. Its subclass NothingFits, if they do not fit into
            `memory`.

    Example:

    ```python
    model = ks.load_model("liver.keras", distribution=distribution)
    ks.inference.segment(model, "case.nii.gz", "segmentation.nii.gz", largest_liver=True)
    ```
    """
    models = [model] if isinstance(model, keras.Model) else list(model)
    known = task if isinstance(task, Task) else None
    if task is None and intensities is None:
        known = common_task(models)
    if memory is not None:
        models = _in_shards(models, memory, offload or (None if output is None else Path(output).parent))
    elif offload is not None:
        raise ValueError("offload is the folder in which shards wait. Give memory as well, such as memory='8GB'")
    size = check_fits(models, known)
    predict = ensemble_average([probabilities_of(member, from_logits=from_logits) for member in models])
    predict = flip_average(predict, flips)
    clock = _Clock()
    found = prepare(volume, output, size, known, patches, intensities, limits, clock.lap)
    if found.windows is None:
        probabilities = predict(found.image[None])[0]
    else:
        probabilities = sliding_window(
            predict,
            found.image,
            size,
            overlap=found.windows.overlap,
            blend=found.windows.blend,
            batch_size=found.windows.batch_size,
            fill=fill_of(known),
        )
    clock.lap("predict")
    labels = labels_from_probabilities(probabilities, found.shape)
    labels = on_grid(labels, found.original, largest_liver=largest_liver)
    clock.lap("label")
    names = classes or (() if known is None else known.labels)
    path = None if output is None else write_labels(output, labels, found.original, classes=names)
    clock.lap("write")
    return Segmentation(labels, found.original, path, clock.seconds)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A volume as a network sees it.

    Attributes:
        original: the volume as it was read, or the first one of several channels.
        shape: the shape of that volume in canonical order.
        image: the network's input, float32 `[X, Y, Z, channels]`.
        windows: the patches into which the image is cut; None if it is predicted at once.
    """

    original: Volume
    shape: Shape
    image: np.ndarray
    windows: Patches | None


def prepare(
    volume: OneVolume | Sequence[OneVolume],
    output: str | Path | None,
    size: Shape,
    task: Task | None,
    patches: Patches | None,
    intensities: Callable[[np.ndarray], np.ndarray] | None,
    limits: Limits | None,
    lap: Callable[[str], None] = lambda step: None,
) -> Prepared:
    """Read a volume, and make the network's input from it.

    Args:
        volume, output, patches, intensities, limits: as for `segment`.
        size: the number of voxels of the network's input along x, y and z.
        task: the task, or None for LiTS's data.
        lap: a function that is called with the name of each step when it is done.

    Raises:
        VolumeError: as for `segment`.
    """
    accepted = limits or Limits.current()
    originals = _read(volume, task, intensities is None, accepted)
    if output is not None:
        check_output(output, originals[0])
    canonical = [to_canonical(v) for v in originals]
    lap("read")
    x, y, z = canonical[0].array.shape
    asked = None if patches is None else patches.grid
    if task is not None and asked is None:
        asked = task.grid.target_of(canonical[0], accepted)
    if task is None:
        grid = size if patches is None else asked or (x, y, z)
        image = (intensities or hu_window)(resample_image(canonical[0].array, grid))[..., None]
    else:
        image = task.image(canonical, asked)
    lap("resample")
    at_once = image.shape[:3] == size and patches is None
    return Prepared(originals[0], (x, y, z), image, None if at_once else patches or Patches())


def fill_of(task: Task | None) -> float | None:
    """The value around an image that is smaller than a patch; None for the image's lowest value."""
    return None if task is None else 0.0


def on_grid(labels: np.ndarray, original: Volume, *, largest_liver: bool) -> np.ndarray:
    """Turn labels in canonical order into those of the file, cleaned if that is asked for."""
    return from_canonical(keep_largest_liver(labels) if largest_liver else labels, original)


def _in_shards(models: Sequence[keras.Model], memory: int | str, offload: str | Path | None) -> list[keras.Model]:
    for model in models:
        if isinstance(model, Model) and model.distribution is not None:
            raise ValueError(
                f"memory says how to partition a plain model. Received: '{model.name}', which is partitioned over "
                f"{model.distribution}"
            )
    folder = tempfile.gettempdir() if offload is None else offload
    return [partition_to_fit(model, memory, folder, training=False)[0] for model in models]


def _read(
    volume: OneVolume | Sequence[OneVolume], task: Task | None, in_hounsfield: bool, limits: Limits
) -> list[Volume]:
    """Read the channels of a case on one grid.

    Args:
        volume, task, limits: as for `segment`.
        in_hounsfield: whether a volume without a task must be in HU. It need not be if the caller passes `intensities`.
    """
    given = [volume] if isinstance(volume, OneVolume) else list(volume)
    if task is None and len(given) != 1:
        raise ValueError(f"volume: expected one; several channels need a task. Received: {len(given)}")
    count = 1 if task is None or len(given) > 1 else len(task.channels)
    volumes = [v for one in given for v in ([one] if isinstance(one, Volume) else read_channels(one, count, limits))]
    are_ct = [in_hounsfield] if task is None else [channel.is_ct for channel in task.channels]
    for found, is_ct in zip(volumes, are_ct, strict=False):
        if is_ct and limits.hounsfield:
            check_hounsfield(found)
    return volumes if task is None else check_channels(volumes, [channel.name for channel in task.channels])


def keep_largest_liver(labels: np.ndarray) -> np.ndarray:
    """Set everything to background but the largest connected component (faces touching) of labels >= 1.

    Args:
        labels: uint8 `[X, Y, Z]`: 0 background, 1 liver, 2 lesion.

    Example:

    ```python
    segmentation = ks.inference.keep_largest_liver(segmentation)
    ```
    """
    numbered, count = components(labels >= 1)
    if count < 2:
        return labels
    sizes = np.zeros(count + 1, np.int64)
    for plane in numbered:
        sizes += np.bincount(plane.ravel(), minlength=count + 1)
    return np.where(numbered == 1 + np.argmax(sizes[1:]), labels, 0).astype(labels.dtype)


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self._last = now
