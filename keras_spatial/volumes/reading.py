"""Read a volume from any supported format: NIfTI, NRRD, MetaImage or DICOM."""

from pathlib import Path

import numpy as np

from keras_spatial._paths import DICOM, ITK, VOLUMES, ending_of
from keras_spatial.volumes.dicom import read_series, stacked
from keras_spatial.volumes.dicom_files import is_dicom, is_segmentation
from keras_spatial.volumes.dicom_segmentation import read_dicom_segmentation
from keras_spatial.volumes.files import read_nifti
from keras_spatial.volumes.headers import read_header
from keras_spatial.volumes.itk_files import read_itk, read_itk_header
from keras_spatial.volumes.limits import Limits
from keras_spatial.volumes.series import Series, only_series
from keras_spatial.volumes.volume import DimensionError, Shape, Volume


def read_volume(path: str | Path | Series, limits: Limits | None = None) -> Volume:
    """Read a three-dimensional volume: a NIfTI, NRRD or MetaImage file, or the folder of a DICOM series.

    Every field of a header is checked against the limits before memory is allocated for it. Trailing axes of length 1,
    which some LiTS files have, are dropped. A compressed file is read to its checksum, so that a flipped bit is an
    error and never a wrong voxel.

    The slices of a DICOM series, files or frames of an enhanced file, are ordered by their positions; orientation,
    spacing and values (Hounsfield units of a CT) are those of the headers. Series that are not a volume on a
    rectangular grid are refused, each with its own error. Messages call the series by a pseudonym; see `Series`. DICOM
    needs the `dicom` extra.

    Args:
        path: a `.nii`, `.nii.gz`, `.nrrd` or `.mha` file, a folder with the files of one DICOM series, an enhanced
            DICOM file with all frames of one, a series that `find_series` returns, or a DICOM segmentation.
        limits: the limits that the volume must keep; `Limits.current()` by default.

    Returns:
        The volume, in the array order of the file.

    Raises:
        UnreadableVolumeError: if the file is missing, truncated or damaged, or its format cannot be read.
        FileNameError: if the name is too long or not UTF-8.
        LimitError: if there are more voxels, extensions or trailing bytes than the limits allow.
        DimensionError: if the image is not three-dimensional; for DICOM also if there are several images at the same
            position (4D), or several frames in a file that does not say where they lie.
        AffineError: if the affine is singular or not finite, or its unit is not millimetres.
        SpacingError: an AffineError, if the size of the voxels is 0 or one that no scanner has.
        ScaleError: if the scale of the values is NaN or infinite.
        NonFiniteError: if there are NaN or infinite voxels.
        SeriesError: if the folder has no DICOM series or several, or its images do not belong together.
        SliceError: a SeriesError, if slices are missing or duplicated, or their distances differ.
        GantryTiltError: a SeriesError, if slices are not perpendicular to the line through them.
        ImportError: if the path is DICOM, and pydicom is not installed.

    Example:

    ```python
    volume = ks.volumes.read_volume("case.nii.gz")
    print(volume.array.shape, volume.spacing, volume.orientation)
    ```
    """
    return read_channels(path, 1, limits)[0]


def read_channels(path: str | Path | Series, channels: int, limits: Limits | None = None) -> list[Volume]:
    """Read the channels of one file: the images along its fourth axis.

    The Medical Segmentation Decathlon stores the MR sequences of a case in this way.

    Args:
        path: as for `read_volume`; a DICOM series has one channel.
        channels: the number of channels that the file must have.
        limits: the limits that the volumes must keep; `Limits.current()` by default. The limit of voxels applies to all
            channels together.

    Returns:
        One volume for each channel, in the order of the file.

    Raises:
        VolumeError: one of its subclasses, as for `read_volume`; a DimensionError if the number of channels differs.

    Example:

    ```python
    t2, adc = ks.volumes.read_channels("prostate_00.nii.gz", 2)
    ```
    """
    limits = limits or Limits.current()
    if isinstance(path, Series):
        return _only(read_series(path, limits), channels)
    path = Path(path)
    try:
        folder, file = path.is_dir(), path.is_file()
    except (OSError, ValueError):
        folder = file = False
    if folder:
        return _only(read_series(only_series(path), limits), channels)
    if ending_of(path, ITK):
        return read_itk(path, limits, channels)
    if file and (ending_of(path, DICOM) or is_dicom(path)):
        if is_segmentation(path):
            return _only(read_dicom_segmentation(path, limits), channels)
        return _only(read_series(only_series(path), limits), channels)
    return read_nifti(path, limits, channels)


def read_grid(path: str | Path, channels: int = 1, limits: Limits | None = None) -> tuple[Shape, np.ndarray]:
    """Read the shape and the affine from the header of a NIfTI, NRRD or MetaImage file, or from those of a series.

    Args:
        path: the path of the file, or the folder of a DICOM series.
        channels: the number of channels that the file must have.
        limits: the limits that the volume must keep; `Limits.current()` by default.

    Returns:
        The shape in voxels, and the affine, float64 `[4, 4]`, from voxel index to mm.

    Raises:
        VolumeError: one of its subclasses, for faults that the header reveals.
    """
    path = Path(path)
    limits = limits or Limits.current()
    file = path.is_file() and not ending_of(path, VOLUMES)
    if path.is_dir() or (file and (ending_of(path, DICOM) or is_dicom(path))):
        series = only_series(path)
        _one_channel(str(series), channels)
        stack = stacked(series, limits)
        return stack.shape, stack.affine
    header = (read_itk_header if ending_of(path, ITK) else read_header)(path, limits, channels)
    return header.shape, header.affine


def _only(volume: Volume, channels: int) -> list[Volume]:
    _one_channel(volume.name, channels)
    return [volume]


def _one_channel(name: str, channels: int) -> None:
    if channels != 1:
        raise DimensionError(
            f"{name}: expected {channels} channels. Received: one DICOM object, which has one channel. Give the series "
            "of each channel"
        )
