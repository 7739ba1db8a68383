"""`Volume`: voxels, affine, orientation and Hounsfield window of an image in the patient; and the errors of volumes."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
from nibabel import orientations

from keras_spatial.volumes.limits import VARIABLE

if TYPE_CHECKING:
    from keras_spatial.volumes.series import Series

Shape = tuple[int, int, int]


class VolumeError(ValueError):
    """A volume file, or an array that belongs to one, cannot be used."""


class UnreadableVolumeError(VolumeError):
    """The file is missing, truncated or damaged, or its format cannot be read."""


class DimensionError(VolumeError):
    """The image is not three-dimensional, or has an empty axis."""


class AffineError(VolumeError):
    """The affine does not place the voxels in space in millimetres."""


class SpacingError(AffineError):
    """The edge of a voxel, or the length of the volume, is 0, not a number, or beyond the limits."""


class ScaleError(VolumeError):
    """The header's scale, which turns stored numbers into values, is NaN or infinite."""


class LimitError(VolumeError):
    """The file has more than the limits allow: voxels, extensions, bytes after the voxels, or voxels of the grid."""


class FileNameError(VolumeError):
    """The name of a file or a folder is too long or not UTF-8."""


class IntensityError(VolumeError):
    """The values of a CT are not recognisably Hounsfield units."""


class ChannelError(VolumeError):
    """The number of channels of a case is not that of the task, or the channels are not on the same grid."""


class NonFiniteError(VolumeError):
    """The image has NaN or infinite voxels."""


class LabelError(VolumeError):
    """A label volume has values other than integers from 0 to 255, or a class without a name."""


class SeriesError(VolumeError):
    """The DICOM files of a folder are not the slices of one volume."""


class GantryTiltError(SeriesError):
    """The slices of a DICOM series are not perpendicular to the line through their centres."""


class SliceError(SeriesError):
    """Slices of a DICOM series are missing or duplicated, or their distances differ."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3D image and its position in the patient.

    Attributes:
        array: the voxels `[X, Y, Z]`: HU for a CT, class numbers for labels. Integers keep their stored dtype; floats
            are float32.
        affine: the matrix, float64 `[4, 4]`, from voxel index to millimetres, in the NIfTI convention (x to the right,
            y to the front, z up).
        header: the header of the file from which it was read, in the orientation of the file.
        path: the path of that file, or the folder of the series.
        series: the DICOM series from which it was read, or None.

    Example:

    ```python
    from dataclasses import replace

    volume = ks.volumes.read_volume("case.nii.gz")
    soft = replace(volume, array=volume.array.clip(-160, 240))
    print(soft.name, soft.spacing, soft.orientation)
    ```
    """

    array: np.ndarray
    affine: np.ndarray
    header: nib.Nifti1Header
    path: Path
    series: "Series | None" = None

    @property
    def name(self) -> str:
        """The name in messages: the path, or the pseudonym of a DICOM series."""
        return str(self.path) if self.series is None else str(self.series)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """The distance between neighbouring voxel centres along each array axis, in mm."""
        x, y, z = nib.affines.voxel_sizes(self.affine)
        return float(x), float(y), float(z)

    @property
    def orientation(self) -> str:
        """The directions of the array axes as axis codes, for instance "RAS"."""
        return "".join(orientations.aff2axcodes(self.affine))


def to_canonical(volume: Volume) -> Volume:
    """Flip and swap axes so that they run as closely as possible to right, anterior, superior (RAS).

    Nothing is interpolated.

    Returns:
        The same voxels at the same positions in the patient. Its `array` is a view of that of `volume`, its `affine` is
        updated, and its `header` is still that of the file.

    Example:

    ```python
    volume = ks.volumes.to_canonical(ks.volumes.read_volume("case.nii.gz"))
    ```
    """
    change = orientations.io_orientation(volume.affine)
    array = orientations.apply_orientation(volume.array, change)
    affine = volume.affine @ orientations.inv_ornt_aff(change, volume.array.shape)
    return replace(volume, array=array, affine=affine)


def canonical_shape(shape: Shape, affine: np.ndarray) -> Shape:
    """The shape that `to_canonical` gives a volume of a shape and an affine, float64 `[4, 4]`."""
    change = orientations.io_orientation(affine)
    x, y, z = (int(n) for _, n in sorted(zip(change[:, 0], shape, strict=True)))
    return x, y, z


def from_canonical(array: np.ndarray, original: Volume) -> np.ndarray:
    """Undo `to_canonical`: bring an array in RAS order into the array order of `original`.

    Args:
        array: an array `[X, Y, Z]` on the grid of `to_canonical(original)`.
        original: the volume as it was read.

    Returns:
        A contiguous array in the order of `original.array`.

    Raises:
        DimensionError: if the shapes do not belong together.

    Example:

    ```python
    volume = ks.volumes.read_volume("case.nii.gz")
    array = ks.volumes.to_canonical(volume).array
    assert (ks.volumes.from_canonical(array, volume) == volume.array).all()
    ```
    """
    change = orientations.io_orientation(original.affine)
    result = np.ascontiguousarray(orientations.apply_orientation(array, _inverse(change)))
    if result.shape != original.array.shape:
        raise DimensionError(
            f"from_canonical: expected an array on the RAS grid of {original.name}, shape {original.array.shape} in "
            f"the file's order. Received: shape {array.shape}"
        )
    return result


def _inverse(change: np.ndarray) -> np.ndarray:
    # By row a of an orientation, array axis a becomes axis `target`, and is reversed if `flip` is -1.
    inverse = np.empty_like(change)
    for axis, (target, flip) in enumerate(change):
        inverse[int(target)] = axis, flip
    return inverse


# Every body has fat, at -120 to -50 HU. Air in and around the body is near -1000 HU, and the densest metal near 31000
# HU.
_FAT, _DENSEST = -100, 65535


def check_hounsfield(volume: Volume) -> None:
    """Refuse a CT whose values are not recognisably Hounsfield units.

    Without this check, values that are scaled to 0 to 1 already, z-scores, and pixel values without their offset of
    -1024 would be accepted and would give a uniformly grey image. Hounsfield units of a body reach down to fat (-100)
    at least, and above water (0).

    Raises:
        IntensityError: if they are not; the message says how to accept the volume anyway.

    Example:

    ```python
    ks.volumes.check_hounsfield(ks.volumes.read_volume("case.nii.gz"))
    ```
    """
    low, high = float(volume.array.min()), float(volume.array.max())
    if low <= _FAT and 0 < high <= _DENSEST:
        return
    raise IntensityError(
        f"{volume.name}: expected Hounsfield units, with fat or air at or below {_FAT} and tissue above 0. Received: "
        f"{low:g} to {high:g}. Convert the values to HU; or, if they are HU, accept them with "
        f"ks.volumes.Limits(hounsfield=False) or {VARIABLE}='hounsfield=no'."
    )


def hu_window(array: np.ndarray) -> np.ndarray:
    """Turn Hounsfield units into a network's input, `clip(HU / 1024 + 0.5, 0, 1)`: -512 HU is 0, and 512 HU is 1.

    It is the window of the released code of Hou et al., "High Resolution Medical Image Analysis with Spatial
    Partitioning", arXiv 1909.03108 (`tensorflow/mesh`, `experimental/unet.py`).

    Args:
        array: values in HU, of any shape.

    Returns:
        A float32 array of the same shape, from 0 to 1.

    Example:

    ```python
    image = ks.volumes.hu_window(volume.array)
    ```
    """
    result = np.asarray(array, np.float32) * np.float32(1 / 1024)
    result += np.float32(0.5)
    return np.clip(result, 0, 1, out=result)
