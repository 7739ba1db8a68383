"""A volume in the patient: voxels, affine, orientation, Hounsfield window; and how each fault of one is named."""

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel import orientations

Shape = tuple[int, int, int]


class VolumeError(ValueError):
    """A volume file, or an array that belongs to one, cannot be used."""


class UnreadableVolumeError(VolumeError):
    """The file is missing, truncated, damaged, or no NIfTI file."""


class DimensionError(VolumeError):
    """The image is not three-dimensional, or has an empty axis."""


class AffineError(VolumeError):
    """The affine does not place the voxels in space in millimetres."""


class NonFiniteError(VolumeError):
    """The image holds NaN or infinite voxels."""


class LabelError(VolumeError):
    """A label volume holds something other than small non-negative integers."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3D image and where it lies in the patient.

    Attributes:
        array: voxels `[X, Y, Z]`: HU for a CT, class numbers for labels. Integers as stored; floats as float32.
        affine: float64 `[4, 4]`, voxel index to millimetres, NIfTI convention (x to the right, y to the front, z up).
        header: header of the file it was read from, in the orientation of the file.
        path: that file.
    """

    array: np.ndarray
    affine: np.ndarray
    header: nib.Nifti1Header
    path: Path

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
    return Volume(array, affine, volume.header, volume.path)


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
            f"from_canonical: expected an array on the RAS grid of {original.path}, shape {original.array.shape} in "
            f"the file's order. Received: shape {array.shape}"
        )
    return result


def _inverse(change: np.ndarray) -> np.ndarray:
    # Row a of an orientation says: array axis a becomes axis `target`, running backwards where `flip` is -1.
    inverse = np.empty_like(change)
    for axis, (target, flip) in enumerate(change):
        inverse[int(target)] = axis, flip
    return inverse


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
