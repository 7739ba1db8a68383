"""The labels of held-out cases on the grid of their scans, and how predictions differ from them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from datasets.cases import check_same_shape, checked_labels
from datasets.decathlon.layout import read_layout
from datasets.lits.cases import find_cases
from keras_spatial.evaluation import CaseMetrics, LabelledCase, evaluate_case, evaluate_classes
from keras_spatial.volumes import Task, Volume, from_canonical, read_volume, to_canonical, write_labels
from keras_spatial.volumes.reading import read_grid
from keras_spatial.volumes.volume import Shape, canonical_shape


@dataclass(frozen=True)
class HeldOut:
    """A case that is scored.

    Attributes:
        name: the name of the case in tables.
        image: the first file of the scan.
        label: the file of the labels.
        result: the name of the file that gets the prediction.
        channels: the number of images in the file of the scan.
    """

    name: str
    image: Path
    label: Path
    result: str
    channels: int = 1

    @property
    def shape(self) -> Shape:
        """The shape of the scan in canonical order. Only the header is read."""
        return canonical_shape(*read_grid(self.image, self.channels))


def held_out(folder: str, names: Sequence[str], task: Task) -> list[HeldOut]:
    """Find cases in a folder of checked cases by their names, in the order of the names.

    Args:
        folder: the folder of the step ingest.
        names: the names of the cases in the data set, which are numbers for LiTS.
        task: the task of the data set.
    """
    if task.scores == "lits":
        known = {case.number: case for case in find_cases(folder)}
        found = [known[int(name)] for name in names]
        return [HeldOut(c.name, c.volume, c.segmentation, f"prediction-{c.number}.nii.gz") for c in found]
    cases = {case.name: case for case in read_layout(folder).cases}
    return [
        HeldOut(
            name,
            cases[name].images[0],
            cases[name].label,
            f"prediction-{name}.nii.gz",
            len(task.channels) if len(cases[name].images) == 1 else 1,
        )
        for name in names
    ]


def score(labels: np.ndarray, case: HeldOut, task: Task, folder: Path) -> tuple[CaseMetrics | LabelledCase, np.ndarray]:
    """Write the prediction of a case, and compare it with the case's labels on the grid of the scan.

    Args:
        labels: the predicted classes, uint8 `[X, Y, Z]`, on the canonical grid of the scan.
        case: the case.
        task: the task of the data set, which determines the metrics.
        folder: the folder of the predictions.

    Returns:
        The metrics, and the voxel counts, int64 `[true class, predicted class]`.
    """
    truth = read_truth(case.image, case.label, task.labels, case.channels)
    predicted = from_canonical(labels, truth)
    write_labels(folder / case.result, predicted, truth, classes=task.labels)
    counts = confusion_of(truth.array, predicted, len(task.labels))
    if task.scores == "lits":
        return evaluate_case(predicted, truth.array, truth.spacing, case=case.name), counts
    # Distances are computed in canonical order, as for other predictions of the case.
    canonical = to_canonical(truth)
    return evaluate_classes(labels, canonical.array, canonical.spacing, task.labels, case=case.name), counts


def read_truth(image: Path, label: Path, names: tuple[str, ...], channels: int = 1) -> Volume:
    """Read the labels of a case as uint8, with the affine from its scan's header.

    Args:
        image: the first file of the scan.
        label: the file of the labels.
        names: the names of the classes by number.
        channels: the number of images in the file of the scan.

    Raises:
        VolumeError: if a file cannot be used. The step ingest has checked both files.
    """
    shape, affine = read_grid(image, channels)
    labels = read_volume(label)
    check_same_shape(label, labels.array.shape, image, shape)
    return replace(labels, array=checked_labels(labels, names), affine=affine)


def confusion_of(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """The number of voxels of each true and predicted class, int64 `[classes, classes]`, counted plane by plane."""
    counts = np.zeros(classes**2, np.int64)
    for true, found in zip(truth, predicted, strict=True):
        pairs = true.astype(np.int64).ravel() * classes + found.ravel()
        counts += np.bincount(pairs, minlength=classes**2)
    return counts.reshape(classes, classes)
