"""From the volumes of a case to a label file on the same grid."""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from keras_spatial.inference.flips import flip_average
from keras_spatial.inference.probabilities import Predict, ensemble_average, probabilities_of
from keras_spatial.inference.sliding import Blend, sliding_window
from keras_spatial.model import Model
from keras_spatial.sharing import partition_to_fit
from keras_spatial.volumes import (
    Limits,
    Series,
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
    read_volume,
    resample_image,
    to_canonical,
    write_labels,
)

OneVolume = str | Path | Series | Volume
"""What `segment` takes as one volume: a file, a DICOM series, or what was read already."""


@dataclass(frozen=True)
class Patches:
    """Predict patches of a resampled volume instead of the whole volume at once.

    Attributes:
        grid: voxels along x, y, z to which the volume is resampled; None keeps its own.
        overlap, blend, batch_size: see `sliding_window`.
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
        volume: the volume as read.
        path: the file written, or None.
        seconds: time by step: read, resample, predict, label, write.
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
    normalise: Callable[[np.ndarray], np.ndarray] = hu_window,
    classes: Sequence[str] = (),
    limits: Limits | None = None,
    task: Task | None = None,
    memory: int | str | None = None,
    offload: str | Path | None = None,
) -> Segmentation:
    """Segment a volume and write the labels with its header, orientation and affine.

    The volume is turned to RAS, resampled to the model's input size over its whole field of view, and predicted at
    once; the class probabilities are resampled to the volume's own grid, where every voxel gets its most probable
    class. These are the steps with which the data sets of this project are made, with the same functions.

    Args:
        model: plain or partitioned; input `[batch, x, y, z, channels]` of known size, output class scores. Of several,
            such as the folds of a cross-validation, the probabilities are averaged.
        volume: a file or a DICOM series, as for `ks.volumes.read_volume`, or a volume already read; of several channels
            one each, or one file that holds all of them.
        output: the label file to write, `.nii` or `.nii.gz`, or `.dcm` for a DICOM segmentation of a DICOM series; None
            writes none. For several channels it is that of the first one.
        patches: sliding windows of the model's input size instead of the whole volume.
        flips: mirror axes, some of "x", "y", "z", over whose mirror images predictions are averaged.
        largest_liver: keep only the largest connected liver, and the lesions that touch it.
        from_logits: whether the model's outputs are logits, as those of `ks.models.UNet3D` are.
        normalise: from HU to the network's input. With the default, a volume whose values cannot be told to be HU is
            refused; see `check_hounsfield`.
        classes: names of the classes from 0, the background, on, which a DICOM segmentation holds; those of the task by
            default.
        limits: what is accepted of the volume; `Limits.current()` by default.
        task: of the data set that the model was trained on (`ks.volumes.read_task`): its normalisation, channels and
            grid then take the place of `normalise` and of the field of view squeezed into the model's input. An image
            that is smaller than the input lies in the middle of zeros, as in training; a larger one is predicted in
            sliding windows of the input's size (`patches` says how they overlap). Without a task, the data are CT.
        memory: of one device, such as "8GB", for models that are not partitioned: the image is cut into as few shards
            as fit, which are computed one after another (`ks.partition_to_fit`, which is also the way to plan once for
            many volumes).
        offload: with `memory`, the folder for shards that wait; by default that of `output`, else a temporary one.

    Raises:
        VolumeError: if the file cannot be used; see `read_volume` and `check_hounsfield`. ChannelError if it does not
            hold the channels of the task.
        ValueError: if the model's inputs or outputs do not fit. NothingFits, which is one, if they do not fit into
            `memory`.

    Example:

    ```python
    model = ks.load_model("liver.keras", distribution=distribution)
    ks.inference.segment(model, "volume-0.nii.gz", "segmentation-0.nii.gz", largest_liver=True)
    ```
    """
    models = [model] if isinstance(model, keras.Model) else list(model)
    if memory is not None:
        models = _in_shards(models, memory, offload or (None if output is None else Path(output).parent))
    elif offload is not None:
        raise ValueError("offload is where shards wait that fit into memory. Give memory as well, such as memory='8GB'")
    size = _input_size(models, 1 if task is None else len(task.channels))
    predict = ensemble_average([probabilities_of(member, from_logits=from_logits) for member in models])
    predict = flip_average(predict, flips)
    if task is not None:
        return _segment_task(
            predict,
            volume,
            output,
            size,
            task,
            windows=patches or Patches(),
            largest_liver=largest_liver,
            classes=classes or task.labels,
            limits=limits,
        )
    if not isinstance(volume, OneVolume):
        if len(volume) != 1:
            raise ValueError(f"volume: expected one; several channels need a task. Received: {len(volume)}")
        (volume,) = volume
    clock = _Clock()
    original = volume if isinstance(volume, Volume) else read_volume(volume, limits)
    if output is not None:
        check_output(output, original)
    limits = limits or Limits.current()
    # Another window than the CT's is the caller's word that the values are what it takes.
    if normalise is hu_window and limits.hounsfield:
        check_hounsfield(original)
    canonical = to_canonical(original)
    clock.lap("read")
    grid = size if patches is None else patches.grid or canonical.array.shape
    image = normalise(resample_image(canonical.array, grid))[..., None]
    clock.lap("resample")
    if patches is None:
        probabilities = predict(image[None])[0]
    else:
        probabilities = sliding_window(
            predict, image, size, overlap=patches.overlap, blend=patches.blend, batch_size=patches.batch_size
        )
    clock.lap("predict")
    labels = labels_from_probabilities(probabilities, canonical.array.shape)
    if largest_liver:
        labels = keep_largest_liver(labels)
    labels = from_canonical(labels, original)
    clock.lap("label")
    path = None if output is None else write_labels(output, labels, original, classes=classes)
    clock.lap("write")
    return Segmentation(labels, original, path, clock.seconds)


def _in_shards(models: Sequence[keras.Model], memory: int | str, offload: str | Path | None) -> list[keras.Model]:
    for model in models:
        if isinstance(model, Model) and model.distribution is not None:
            raise ValueError(
                f"memory says how to partition a plain model. Received: '{model.name}', which is partitioned over "
                f"{model.distribution}"
            )
    folder = tempfile.gettempdir() if offload is None else offload
    return [partition_to_fit(model, memory, folder, training=False)[0] for model in models]


def _segment_task(
    predict: Predict,
    volume: OneVolume | Sequence[OneVolume],
    output: str | Path | None,
    size: tuple[int, int, int],
    task: Task,
    *,
    windows: Patches,
    largest_liver: bool,
    classes: Sequence[str],
    limits: Limits | None,
) -> Segmentation:
    clock = _Clock()
    originals = _channels(volume, task, limits)
    if output is not None:
        check_output(output, originals[0])
    clock.lap("read")
    canonical = [to_canonical(v) for v in originals]
    image = task.image(canonical)
    clock.lap("resample")
    probabilities = sliding_window(
        predict, image, size, overlap=windows.overlap, blend=windows.blend, batch_size=windows.batch_size, fill=0.0
    )
    clock.lap("predict")
    if probabilities.shape[-1] != len(task.labels):
        raise ValueError(
            f"task {task.name}: expected a model with scores of the {len(task.labels)} classes {task.labels}. "
            f"Received: {probabilities.shape[-1]} classes"
        )
    labels = labels_from_probabilities(probabilities, canonical[0].array.shape)
    if largest_liver:
        labels = keep_largest_liver(labels)
    labels = from_canonical(labels, originals[0])
    clock.lap("label")
    path = None if output is None else write_labels(output, labels, originals[0], classes=classes)
    clock.lap("write")
    return Segmentation(labels, originals[0], path, clock.seconds)


def _channels(volume: OneVolume | Sequence[OneVolume], task: Task, limits: Limits | None) -> list[Volume]:
    """The channels of a case on one grid."""
    given = [volume] if isinstance(volume, OneVolume) else list(volume)
    count = len(task.channels) if len(given) == 1 else 1
    volumes = [
        channel
        for one in given
        for channel in ([one] if isinstance(one, Volume) else read_channels(one, count, limits))
    ]
    for channel, found in zip(task.channels, volumes, strict=False):
        if channel.is_ct and (limits or Limits.current()).hounsfield:
            check_hounsfield(found)
    return check_channels(volumes, [channel.name for channel in task.channels])


def keep_largest_liver(labels: np.ndarray) -> np.ndarray:
    """Set everything to background but the largest connected component (faces touching) of labels >= 1.

    Args:
        labels: uint8 `[X, Y, Z]`: 0 background, 1 liver, 2 lesion.
    """
    numbered, count = components(labels >= 1)
    if count < 2:
        return labels
    sizes = np.zeros(count + 1, np.int64)
    for plane in numbered:
        sizes += np.bincount(plane.ravel(), minlength=count + 1)
    return np.where(numbered == 1 + np.argmax(sizes[1:]), labels, 0).astype(labels.dtype)


def _input_size(models: Sequence[keras.Model], channels: int) -> tuple[int, int, int]:
    shape = None
    for model in models:
        first, shape = shape, model.input_shape
        if not isinstance(shape, tuple) or len(shape) != 5 or None in shape[1:4] or shape[4] != channels:
            raise ValueError(
                f"model {model.name}: expected one input [batch, x, y, z, {channels}] of known size. Received: {shape}"
            )
        if first is not None and first[1:] != shape[1:]:
            raise ValueError(f"model {model.name}: expected the input of the others, {first}. Received: {shape}")
    if shape is None:
        raise ValueError("model: expected at least one. Received: none")
    return shape[1], shape[2], shape[3]


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self._last = now
