"""Writing class numbers in the format that the file's name asks for."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_spatial._paths import RESULTS, ending_of, fault_of_name, printable
from keras_spatial.volumes.dicom_segmentation import write_dicom_segmentation
from keras_spatial.volumes.files import write_nifti
from keras_spatial.volumes.volume import FileNameError, SeriesError, Volume, VolumeError


def check_output(path: str | Path, like: Volume) -> None:
    """Refuse a name under which the labels of a volume cannot be written; before they are computed.

    Raises:
        FileNameError: the name is too long or not UTF-8.
        SeriesError: a DICOM segmentation is asked for, and `like` was not read from a DICOM series.
        VolumeError: the name ends in none of `.nii`, `.nii.gz` and `.dcm`.
    """
    path = Path(path)
    if fault := fault_of_name(path):
        raise FileNameError(f"{printable(path)}: choose another name. Received: {fault}")
    if not ending_of(path, RESULTS):
        raise VolumeError(f"{path}: expected a name that ends in .nii, .nii.gz or .dcm. Received: {path.name!r}")
    if ending_of(path, RESULTS) == ".dcm" and like.series is None:
        raise SeriesError(
            f"{path}: expected the labels of a DICOM series. Received: those of {like.name}, which has no images that "
            "a DICOM segmentation could name. Choose a name that ends in .nii.gz"
        )


def write_labels(path: str | Path, labels: np.ndarray, like: Volume, *, classes: Sequence[str] = ()) -> Path:
    """Write class numbers on the grid of a volume: as NIfTI, or as a DICOM segmentation of the series they belong to.

    A NIfTI file has the header, orientation and affine of `like`. A DICOM segmentation is described in
    `keras_spatial.volumes.write_dicom_segmentation`. The file appears under its name only when it is complete.

    Args:
        path: ends in `.nii` or `.nii.gz`, or in `.dcm`.
        labels: integers 0 to 255 on the grid and in the array order of `like`.
        like: the volume as read by `read_volume`; for `.dcm` from a DICOM series.
        classes: names of the classes from 0, the background, on. Only a DICOM segmentation holds them.

    Raises:
        VolumeError: if the name or the shape do not fit, or `like` is no DICOM series.
    """
    path = Path(path)
    check_output(path, like)
    if ending_of(path, RESULTS) == ".dcm":
        return write_dicom_segmentation(path, labels, like, classes=classes)
    return write_nifti(path, labels, like)
