"""A volume in the patient: voxels, affine, orientation, Hounsfield window; and how each fault of one is named."""

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
    """The file is missing, truncated, damaged, or of no format that can be read."""


class DimensionError(VolumeError):
    """The image is not three-dimensional, or has an empty axis."""


class AffineError(VolumeError):
    """The affine does not place the voxels in space in millimetres."""


class SpacingError(AffineError):
    """The edge of a voxel, or the length of the volume, is 0, no number, or beyond the limits."""


class ScaleError(VolumeError):
    """The header's scale, from stored numbers to values, is NaN or infinite."""


class LimitError(VolumeError):
    """The file asks for more than the limits allow: voxels, extensions, bytes behind the voxels, a grid."""


class FileNameError(VolumeError):
    """The name of a file or a folder is too long or not UTF-8."""


class IntensityError(VolumeError):
    """The values of a CT cannot be told to be Hounsfield units."""


class ChannelError(VolumeError):
    """The channels of a case are not as many as the task has, or do not lie on one grid."""


class NonFiniteError(VolumeError):
    """The image holds NaN or infinite voxels."""


class LabelError(VolumeError):
    """A label volume holds something other than small non-negative integers."""


class SeriesError(VolumeError):
    """The DICOM files of a folder are not the slices of one volume."""


class GantryTiltError(SeriesError):
    """The slices of a DICOM series lie askew to the line through their centres."""


class SliceError(SeriesError):
    """Slices of a DICOM series are missing, twice there, or at differing distances."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3D image and where it lies in the patient.

    Attributes:
        array: voxels `[X, Y, Z]`: HU for a CT, class numbers for labels. Integers as stored; floats as float32.
        affine: float64 `[4, 4]`, voxel index to millimetres, NIfTI convention (x to the right, y to the front, z up).
        header: header of the file it was read from, in the orientation of the file.
        path: that file, or the folder of the series.
        series: the DICOM series that it was read from, or None.
    """

    array: np.ndarray
    affine: np.ndarray
    header: nib.Nifti1Header
    path: Path
    series: "Series | None" = None

    @property
    def name(self) -> str:
        """What messages call it: the path, or the pseudonym of a DICOM series."""
        return str(self.path) if self.series is None else str(self.series)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxel centres along each array axis, in mm."""
        x, y, z = nib.affines.voxel_sizes(self.affine)
        return float(x), float(y), float(z)

    @property
    def orientation(self) -> str:
        """Where the array axes point, as axis codes, for instance "RAS"."""
        return "".join(orientations.aff2axcodes(self.affine))


def to_canonical(volume: Volume) -> Volume:
    """Flip and swap axes so that the array runs closest to right, anterior, superior (RAS); no interpolation.

    Returns:
        The same voxels on the same places in the patient: `array` a view of that of `volume`, `affine` updated.
        `header` is still that of the file.
    """
    change = orientations.io_orientation(volume.affine)
    array = orientations.apply_orientation(volume.array, change)
    affine = volume.affine @ orientations.inv_ornt_aff(change, volume.array.shape)
    return replace(volume, array=array, affine=affine)


def from_canonical(array: np.ndarray, original: Volume) -> np.ndarray:
    """Undo `to_canonical`: bring an RAS array on the grid of `original` into the array order of `original`.

    Args:
        array: `[X, Y, Z]`, on the grid of `to_canonical(original)`.
        original: the volume as read.

    Raises:
        DimensionError: if the shapes do not belong together.
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
    # Row a of an orientation says: array axis a becomes axis `target`, running backwards where `flip` is -1.
    inverse = np.empty_like(change)
    for axis, (target, flip) in enumerate(change):
        inverse[int(target)] = axis, flip
    return inverse


# Fat, which every body has, lies from -120 to -50 HU, air around and in it near -1000; the densest metal near 31000.
_FAT, _DENSEST = -100, 65535


def check_hounsfield(volume: Volume) -> None:
    """Refuse a CT whose values cannot be told to be Hounsfield units.

    Values already scaled to 0 to 1, z-scores, and pixel values that lack their offset of -1024 all pass for a CT
    otherwise, and make an image of one grey. Hounsfield units go down to fat (-100) at least, and above water (0).

    Raises:
        IntensityError: and how to accept the volume as it is.
    """
    low, high = float(volume.array.min()), float(volume.array.max())
    if low <= _FAT and 0 < high <= _DENSEST:
        return
    raise IntensityError(
        f"{volume.name}: expected Hounsfield units, with fat or air at or below {_FAT} and tissue above 0. Received: "
        f"{low:g} to {high:g}. Bring the values to HU; or, if they are HU, accept them with "
        f"ks.volumes.Limits(hounsfield=False) or {VARIABLE}='hounsfield=no'."
    )


def hu_window(array: np.ndarray) -> np.ndarray:
    """Hounsfield units to the network's input: `clip(HU / 1024 + 0.5, 0, 1)`, that is -512 HU to 0 and 512 HU to 1.

    The window of the released code of Hou et al., "High Resolution Medical Image Analysis with Spatial Partitioning",
    arXiv 1909.03108 (`tensorflow/mesh`, `experimental/unet.py`).

    Args:
        array: HU, any shape.

    Returns:
        float32, same shape.
    """
    result = np.asarray(array, np.float32) * np.float32(1 / 1024)
    result += np.float32(0.5)
    return np.clip(result, 0, 1, out=result)
