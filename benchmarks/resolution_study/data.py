"""The files of the phantoms, and the training batches of an arm."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.resolution_study.settings import RECIPES, Arm, Settings
from datasets.phantom import write_lits_folder
from keras_spatial.volumes import Window, read_volume, resample_image, resample_labels, to_canonical

# As in nnU-Net, one patch in three is placed around a foreground voxel.
_AROUND_FOREGROUND = 1 / 3


@dataclass(frozen=True, eq=False)
class Cases:
    """Training cases at one resolution.

    Attributes:
        images: float32 `[n, X, Y, Z, 1]`.
        labels: uint8 `[n, X, Y, Z]`.
    """

    images: np.ndarray
    labels: np.ndarray


def phantoms(folder: Path, settings: Settings) -> tuple[list[int], list[int]]:
    """Write the phantoms unless they exist, and return the numbers of the training and test cases."""
    count = settings.train + settings.test
    if not all((folder / f"segmentation-{n}.nii.gz").exists() for n in range(count)):
        write_lits_folder(folder, count, seed=0, size=settings.native, difficulty=settings.difficulty)
    return list(range(settings.train)), list(range(settings.train, count))


def load(folder: Path, numbers: list[int], arm: Arm) -> Cases:
    """Read and resample cases with the same functions as data sets and inference."""
    shape = (arm.resolution,) * 3
    intensities = window(arm)
    images, labels = [], []
    for number in numbers:
        volume = to_canonical(read_volume(folder / f"volume-{number}.nii.gz"))
        truth = to_canonical(read_volume(folder / f"segmentation-{number}.nii.gz"))
        images.append(intensities(resample_image(volume.array, shape))[..., None])
        labels.append(resample_labels(truth.array, shape))
    return Cases(np.stack(images), np.stack(labels))


def window(arm: Arm) -> Window:
    """The function that makes the network's input from Hounsfield units."""
    return Window(*RECIPES[arm.recipe].window)


def batches(cases: Cases, arm: Arm, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield training batches without end: cases in shuffled rounds, and flipped if the arm's recipe says so."""
    flips = RECIPES[arm.recipe].flips
    rng = np.random.default_rng(seed)
    while True:
        for index in rng.permutation(len(cases.images)):
            image, label = cases.images[index], cases.labels[index]
            cut = [_patch(image, label, arm, rng) for _ in range(arm.batch_size)]
            shown = [_flip(*pair, rng) for pair in cut] if flips else cut
            yield np.stack([i for i, _ in shown]), np.stack([t for _, t in shown])


def _patch(image: np.ndarray, label: np.ndarray, arm: Arm, rng: np.random.Generator):
    if arm.patch is None:
        return image, label
    limit = arm.resolution - arm.patch
    start = rng.integers(0, limit + 1, 3)
    foreground = np.argwhere(label == label.max()) if rng.random() < _AROUND_FOREGROUND else ()
    if len(foreground):
        start = np.clip(foreground[rng.integers(len(foreground))] - arm.patch // 2, 0, limit)
    box = tuple(slice(a, a + arm.patch) for a in start)
    return image[box], label[box]


def _flip(image: np.ndarray, label: np.ndarray, rng: np.random.Generator):
    axes = tuple(int(axis) for axis in np.flatnonzero(rng.random(3) < 0.5))
    return np.flip(image, axes), np.flip(label, axes)
