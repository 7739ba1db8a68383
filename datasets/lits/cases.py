"""Finding the cases of LiTS in a folder, and checking them before anything is computed."""

import re
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from keras_spatial.volumes import LabelError, Volume, VolumeError, read_volume

# Cases whose segmentation has another affine than the volume in the official files; the volume's is right
# (MIC-DKFZ/nnUNet#2751 names 53, other reports 48 to 52).
KNOWN_AFFINE_MISMATCH = frozenset(range(48, 54))

_LITS = re.compile(r"(volume|segmentation)-(\d+)\.nii(\.gz)?")
_DECATHLON = re.compile(r"liver_(\d+)\.nii(\.gz)?")


class NoCasesError(VolumeError):
    """The folder is missing or holds no case."""


class MissingPairError(VolumeError):
    """A volume has no segmentation, or a segmentation no volume."""


class DuplicateCaseError(VolumeError):
    """Two files claim to be the same part of the same case."""


class ShapeMismatchError(VolumeError):
    """Volume and segmentation have different shapes."""


class AffineMismatchError(VolumeError):
    """Volume and segmentation lie in different places."""


class LabelValueError(LabelError):
    """The segmentation holds labels other than 0, 1 and 2."""


class NoLiverError(VolumeError):
    """The segmentation marks no liver."""


class IntensityError(VolumeError):
    """The volume cannot be in Hounsfield units."""


class OtherSourcesError(VolumeError):
    """A data set on disk was built of other files than those given now."""


class BadCasesError(VolumeError):
    """Several cases cannot be used; the message lists each with its reason."""


@dataclass(frozen=True)
class Case:
    """The two files of a case."""

    number: int
    volume: Path
    segmentation: Path

    @property
    def name(self) -> str:
        return f"volume-{self.number}"


def find_cases(folder: str | Path) -> list[Case]:
    """The cases in a folder and its subfolders, by number.

    Two layouts: that of LiTS (`volume-N.nii[.gz]` and `segmentation-N.nii[.gz]`, in any subfolders, such as the two
    training batches), and that of the Medical Segmentation Decathlon (`imagesTr/liver_N.nii.gz`,
    `labelsTr/liver_N.nii.gz`). Files of other names are left alone, hidden ones too.

    Raises:
        NoCasesError: no such folder, or nothing in it.
        MissingPairError: a half of a case is missing.
        DuplicateCaseError: a half of a case is there twice.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NoCasesError(
            f"{folder}: no such folder. Expected one with volume-N.nii[.gz] and segmentation-N.nii[.gz]."
        )
    found: dict[int, dict[str, Path]] = {}
    for path in sorted(folder.rglob("*.nii*")):
        part, number = _part(path)
        if part is None:
            continue
        other = found.setdefault(number, {}).setdefault(part, path)
        if other != path:
            raise DuplicateCaseError(f"{path}: the {part} of case {number} is also {other}. Remove one of them.")
    if not found:
        raise NoCasesError(
            f"{folder}: no case found. Expected volume-N.nii[.gz] and segmentation-N.nii[.gz] as in LiTS, or "
            "imagesTr/liver_N.nii.gz and labelsTr/liver_N.nii.gz as in the Medical Segmentation Decathlon."
        )
    for number, parts in sorted(found.items()):
        for here, missing in (("volume", "segmentation"), ("segmentation", "volume")):
            if missing not in parts:
                raise MissingPairError(
                    f"{parts[here]}: case {number} has no {missing}. Add the file, or move this one out of {folder}."
                )
    return [Case(number, parts["volume"], parts["segmentation"]) for number, parts in sorted(found.items())]


def _part(path: Path) -> tuple[str | None, int]:
    lits, decathlon = _LITS.fullmatch(path.name), _DECATHLON.fullmatch(path.name)
    if lits:
        return lits[1], int(lits[2])
    if decathlon and path.parent.name in ("imagesTr", "labelsTr"):
        return {"imagesTr": "volume", "labelsTr": "segmentation"}[path.parent.name], int(decathlon[1])
    return None, -1


def check_header(case: Case) -> None:
    """Compare the headers of a case, which takes milliseconds; `read_case` then checks every voxel.

    Raises:
        VolumeError: one of the errors of `read_case`, as far as the headers tell.
    """
    shapes = []
    for path in (case.volume, case.segmentation):
        try:
            shape = nib.load(path).shape
        except Exception:
            # Whatever is wrong, the reader knows its name.
            read_volume(path)
            raise
        if len(shape) < 3 or any(n != 1 for n in shape[3:]):
            read_volume(path)
        shapes.append(tuple(shape[:3]))
    _same_shape(case, *shapes)


def _same_shape(case: Case, volume: tuple[int, ...], segmentation: tuple[int, ...]) -> None:
    if volume != segmentation:
        raise ShapeMismatchError(
            f"{case.segmentation}: expected the shape of {case.volume.name}, {volume}. Received: {segmentation}"
        )


def read_case(case: Case) -> tuple[Volume, Volume]:
    """Read and check a case.

    Returns:
        The volume in HU, and the labels (uint8: 0 background, 1 liver, 2 lesion) with the volume's affine.

    Raises:
        VolumeError: and what is wrong is named by its subclass, here or in `keras_spatial.volumes`.
    """
    volume, labels = read_volume(case.volume), read_volume(case.segmentation)
    _same_shape(case, volume.array.shape, labels.array.shape)
    _check_affines(case, volume, labels)
    array = labels.array
    least, most = float(array.min()), float(array.max())
    if not (least >= 0 and most <= 2) or (array.dtype.kind == "f" and not np.array_equal(array, np.rint(array))):
        values = np.unique(array)
        raise LabelValueError(
            f"{case.segmentation}: expected the labels 0 (background), 1 (liver) and 2 (lesion). "
            f"Received: {values[:10].tolist()}{' and more' if values.size > 10 else ''}"
        )
    if most == 0:
        raise NoLiverError(f"{case.segmentation}: expected a liver (labels 1 and 2). Received: nothing but 0")
    low, high = float(volume.array.min()), float(volume.array.max())
    if low == high or low > 0:
        raise IntensityError(
            f"{case.volume}: expected Hounsfield units, with air or fat below 0. Received: {low:g} to {high:g}"
        )
    array = array.astype(np.uint8, copy=False)
    return volume, Volume(array, volume.affine, labels.header, labels.path)


def _check_affines(case: Case, volume: Volume, labels: Volume) -> None:
    corners = np.array([[0, 0, 0, 1], [*volume.array.shape, 1]], float).T
    apart = float(np.abs((volume.affine - labels.affine) @ corners)[:3].max())
    if case.number in KNOWN_AFFINE_MISMATCH or apart <= max(volume.spacing):
        return
    raise AffineMismatchError(
        f"{case.segmentation}: lies up to {apart:.1f} mm away from {case.volume.name}. Copy the volume's affine to the "
        f"segmentation if the voxels belong together. Received: orientation {labels.orientation} and spacing "
        f"{np.round(labels.spacing, 3).tolist()} mm against {volume.orientation} and "
        f"{np.round(volume.spacing, 3).tolist()} mm"
    )


def check_case(volume: str | Path, segmentation: str | Path) -> None:
    """Check one case as the builder does: readable to the last byte, three-dimensional, same shape and place, finite
    values in HU, labels 0, 1 and 2, a liver.

    Raises:
        VolumeError: and what is wrong is named by its subclass, here or in `keras_spatial.volumes`.
    """
    match = re.search(r"(\d+)\.nii(\.gz)?$", str(volume))
    read_case(Case(int(match[1]) if match else -1, Path(volume), Path(segmentation)))
