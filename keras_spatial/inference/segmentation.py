"""From a CT file to a label file on the same grid."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from keras_spatial.inference.flips import flip_average
from keras_spatial.inference.probabilities import probabilities_of
from keras_spatial.inference.sliding import Blend, sliding_window
from keras_spatial.volumes import (
    Volume,
    components,
    from_canonical,
    hu_window,
    labels_from_probabilities,
    read_volume,
    resample_image,
    to_canonical,
    write_labels,
)


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
    model: keras.Model,
    volume: str | Path | Volume,
    output: str | Path | None = None,
    *,
    patches: Patches | None = None,
    flips: Sequence[str] = (),
    largest_liver: bool = False,
    from_logits: bool = True,
    normalise: Callable[[np.ndarray], np.ndarray] = hu_window,
) -> Segmentation:
    """Segment a CT volume and write the labels with its header, orientation and affine.

    The volume is turned to RAS, resampled to the model's input size over its whole field of view, and predicted at
    once; the class probabilities are resampled to the volume's own grid, where every voxel gets its most probable
    class. These are the steps with which the data sets of this project are made, with the same functions.

    Args:
        model: plain or partitioned; input `[batch, x, y, z, 1]` of known size, output class scores.
        volume: a `.nii` or `.nii.gz` file, or a volume already read.
        output: the label file to write; None writes none.
        patches: sliding windows of the model's input size instead of the whole volume.
        flips: mirror axes, some of "x", "y", "z", over whose mirror images predictions are averaged.
        largest_liver: keep only the largest connected liver, and the lesions that touch it.
        from_logits: whether the model's outputs are logits, as those of `ks.models.UNet3D` are.
        normalise: from HU to the network's input.

    Raises:
        VolumeError: if the file cannot be used; see `read_volume`.
        ValueError: if the model's inputs or outputs do not fit.

    Example:

    ```python
    model = ks.load_model("liver.keras", distribution=distribution)
    ks.inference.segment(model, "volume-0.nii.gz", "segmentation-0.nii.gz", largest_liver=True)
    ```
    """
    size = _input_size(model)
    predict = flip_average(probabilities_of(model, from_logits=from_logits), flips)
    clock = _Clock()
    original = volume if isinstance(volume, Volume) else read_volume(volume)
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
    path = None if output is None else write_labels(output, labels, original)
    clock.lap("write")
    return Segmentation(labels, original, path, clock.seconds)


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


def _input_size(model: keras.Model) -> tuple[int, int, int]:
    shape = model.input_shape
    if not isinstance(shape, tuple) or len(shape) != 5 or None in shape[1:4] or shape[4] != 1:
        raise ValueError(f"model {model.name}: expected one input [batch, x, y, z, 1] of known size. Received: {shape}")
    return shape[1], shape[2], shape[3]


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self._last = now
