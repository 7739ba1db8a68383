"""Reading a volume, whatever holds it: NIfTI, NRRD, MetaImage, or a DICOM series."""

from pathlib import Path

import numpy as np

from keras_spatial._paths import ITK, ending_of
from keras_spatial.volumes.dicom import read_series
from keras_spatial.volumes.dicom_segmentation import read_dicom_segmentation
from keras_spatial.volumes.files import read_nifti
from keras_spatial.volumes.headers import read_header
from keras_spatial.volumes.itk_files import read_itk, read_itk_header
from keras_spatial.volumes.limits import Limits
from keras_spatial.volumes.series import Series, is_dicom, is_segmentation, only_series
from keras_spatial.volumes.volume import DimensionError, SeriesError, Shape, Volume


def read_volume(path: str | Path | Series, limits: Limits | None = None) -> Volume:
    """Read a three-dimensional volume: a NIfTI, NRRD or MetaImage file, or the folder of a DICOM series.

    Every field of a header is checked against the limits before memory is allocated for it. Trailing axes of length 1,
    which some LiTS files have, are dropped. A compressed file is read to its checksum: a flipped bit is an error and
    never a wrong voxel.

    The slices of a DICOM series are put in order by their positions; orientation, spacing and values (Hounsfield units
    of a CT) are those of the headers. What is no volume on a rectangular grid is refused by name. Messages call the
    series by a pseudonym, see `Series`. It needs the `dicom` extra.

    Args:
        path: a `.nii`, `.nii.gz`, `.nrrd` or `.mha` file, a folder with the files of one DICOM series, one of the
            series that `find_series` gives, or a DICOM segmentation.
        limits: what is accepted; `Limits.current()` by default.

    Raises:
        UnreadableVolumeError: missing, truncated, damaged, or of no format that can be read.
        FileNameError: the name is too long or not UTF-8.
        LimitError: more voxels, extensions or trailing bytes than the limits allow.
        DimensionError: not three-dimensional; for DICOM: several images at one place (4D), several frames in a file.
        AffineError: singular or non-finite affine, or units other than millimetres.
        SpacingError: an AffineError: voxels of no size, or of a size that no scanner has.
        ScaleError: NaN or infinite scale of the values.
        NonFiniteError: NaN or infinite voxels.
        SeriesError: no DICOM series or several in the folder, or images that do not belong together.
        SliceError: a SeriesError: slices are missing, twice there, or at differing distances.
        GantryTiltError: a SeriesError: slices askew to the line through them.
        ImportError: the path is DICOM, and pydicom is not installed.
    """
    return read_channels(path, 1, limits)[0]


def read_channels(path: str | Path | Series, channels: int, limits: Limits | None = None) -> list[Volume]:
    """Read the channels of one file: the images along its fourth axis, as the Medical Segmentation Decathlon stores
    several MR sequences.

    Args:
        path: as for `read_volume`; a DICOM series holds one channel.
        channels: how many it has to hold.
        limits: what is accepted; `Limits.current()` by default. The limit of voxels is for all channels together.

    Returns:
        One volume a channel, in the order of the file.

    Raises:
        VolumeError: named by its subclass, as for `read_volume`; DimensionError for another number of channels.
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
    if file and is_dicom(path):
        if is_segmentation(path):
            return _only(read_dicom_segmentation(path, limits), channels)
        raise SeriesError(
            "DICOM file: expected a volume. Received: one file of a series. Give the folder that holds the series"
        )
    return read_nifti(path, limits, channels)


def read_grid(path: str | Path, channels: int = 1, limits: Limits | None = None) -> tuple[Shape, np.ndarray]:
    """Shape and affine (float64 `[4, 4]`, voxel index to mm) of a NIfTI, NRRD or MetaImage file, by its header alone.

    Args:
        path: of the file.
        channels: how many it has to hold.
        limits: what is accepted; `Limits.current()` by default.

    Raises:
        VolumeError: named by its subclass, as far as the header tells.
    """
    path = Path(path)
    limits = limits or Limits.current()
    header = (read_itk_header if ending_of(path, ITK) else read_header)(path, limits, channels)
    return header.shape, header.affine


def _only(volume: Volume, channels: int) -> list[Volume]:
    if channels != 1:
        raise DimensionError(
            f"{volume.name}: expected {channels} channels. Received: one DICOM object, which holds one channel. Give "
            "the series of each channel"
        )
    return [volume]
