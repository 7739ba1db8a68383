"""Write class numbers in the format that the ending of the file's name selects."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_spatial._paths import RESULTS, ending_of, fault_of_name, printable
from keras_spatial.volumes.dicom_segmentation import write_dicom_segmentation
from keras_spatial.volumes.files import write_nifti
from keras_spatial.volumes.volume import FileNameError, SeriesError, Volume, VolumeError


def check_output(path: str | Path, like: Volume) -> None:
    """Refuse a name under which the labels of a volume cannot be written. Call it before computing the labels.

    Args:
        path: the path of the file to write.
        like: the volume to which the labels belong.

    Raises:
        FileNameError: if the name is too long or not UTF-8.
        SeriesError: if the name is that of a DICOM segmentation, and `like` was not read from a DICOM series.
        VolumeError: if the name does not end in `.nii`, `.nii.gz` or `.dcm`.

    Example:

    ```python
    ks.volumes.check_output("labels.nii.gz", ks.volumes.read_volume("case.nii.gz"))
    ```
    """
    path = Path(path)
    if fault := fault_of_name(path):
        raise FileNameError(f"{printable(path)}: choose another name. Received: {fault}")
    if not ending_of(path, RESULTS):
        raise VolumeError(f"{path}: expected a name that ends in .nii, .nii.gz or .dcm. Received: {path.name!r}")
    if ending_of(path, RESULTS) == ".dcm" and like.series is None:
        raise SeriesError(
            f"{path}: expected the labels of a DICOM series. Received: those of {like.name}, which has no images that "
            "a DICOM segmentation could refer to. Choose a name that ends in .nii.gz"
        )


def write_labels(path: str | Path, labels: np.ndarray, like: Volume, *, classes: Sequence[str] = ()) -> Path:
    """Write class numbers on the grid of a volume: as NIfTI, or as a DICOM segmentation of the series they belong to.

    A NIfTI file gets the header, orientation and affine of `like`. A DICOM segmentation is described in
    `keras_spatial.volumes.write_dicom_segmentation`. The file appears under its name only when it is complete.

    Args:
        path: a path that ends in `.nii`, `.nii.gz` or `.dcm`.
        labels: integer class numbers from 0 to 255, on the grid and in the array order of `like`.
        like: a volume as `read_volume` has read it; for `.dcm`, from a DICOM series.
        classes: the names of the classes by number, beginning with 0, the background. Only a DICOM segmentation stores
            them.

    Returns:
        The path.

    Raises:
        VolumeError: if the name or the shape does not fit, or `.dcm` is asked for and `like` is not a DICOM series.

    Example:

    ```python
    volume = ks.volumes.read_volume("case.nii.gz")
    ks.volumes.write_labels("bones.nii.gz", volume.array > 300, volume)
    ```
    """
    path = Path(path)
    check_output(path, like)
    if ending_of(path, RESULTS) == ".dcm":
        return write_dicom_segmentation(path, labels, like, classes=classes)
    return write_nifti(path, labels, like)
