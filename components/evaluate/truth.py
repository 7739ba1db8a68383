"""The labels of held-out cases on the grid of their scans, and how predictions differ from them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from datasets.cases import check_same_shape, checked_labels
from keras_spatial.volumes import (
    Volume,
    from_canonical,
    labels_from_probabilities,
    read_volume,
    to_canonical,
    write_labels,
)
from keras_spatial.volumes.reading import read_grid


def read_truth(image: Path, label: Path, names: tuple[str, ...], channels: int = 1) -> Volume:
    """The labels of a case, uint8, in the place of its scan, of which the header alone is read.

    Args:
        image: the first file of the scan.
        label: the file of the labels.
        names: the names of the classes by number.
        channels: the number of images in the file of the scan.

    Raises:
        VolumeError: if a file cannot be used; the step ingest has checked both.
    """
    shape, affine = read_grid(image, channels)
    labels = read_volume(label)
    check_same_shape(label, labels.array.shape, image, shape)
    return replace(labels, array=checked_labels(labels, names), affine=affine)


def write_prediction(probabilities: np.ndarray, truth: Volume, path: Path, names: Sequence[str]) -> np.ndarray:
    """Write the most probable class of each voxel of the scan; the classes, in the order of its file.

    Args:
        probabilities: `[x, y, z, classes]` over the field of view, in canonical order.
        truth: a volume on the grid of the scan.
        path: the file to write.
        names: the names of the classes by number.
    """
    labels = labels_from_probabilities(probabilities, to_canonical(truth).array.shape)
    labels = from_canonical(labels, truth)
    write_labels(path, labels, truth, classes=names)
    return labels


def confusion_of(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """The number of voxels by true and predicted class, int64; counted plane by plane."""
    counts = np.zeros(classes**2, np.int64)
    for true, found in zip(truth, predicted, strict=True):
        pairs = true.astype(np.int64).ravel() * classes + found.ravel()
        counts += np.bincount(pairs, minlength=classes**2)
    return counts.reshape(classes, classes)
