"""Finding the cases of LiTS in a folder, and checking them before anything is computed."""

import re
from dataclasses import dataclass
from pathlib import Path

from datasets.cases import (
    DuplicateCaseError,
    MissingPairError,
    NoCasesError,
    check_same_place,
    check_same_shape,
    checked_labels,
)
from keras_spatial._paths import NIFTI, ending_of, fault_of_name, printable
from keras_spatial.volumes import LITS, FileNameError, Limits, Volume, VolumeError, check_hounsfield, read_volume
from keras_spatial.volumes.headers import read_header

# Cases whose segmentation has another affine than the volume in the official files; the volume's is right
# (MIC-DKFZ/nnUNet#2751 names 53, other reports 48 to 52).
KNOWN_AFFINE_MISMATCH = frozenset(range(48, 54))

_LITS = re.compile(r"(volume|segmentation)-([0-9]{1,18})(?i:\.nii(\.gz)?)")
_DECATHLON = re.compile(r"liver_([0-9]{1,18})(?i:\.nii(\.gz)?)")


class NoLiverError(VolumeError):
    """The segmentation marks no liver."""


@dataclass(frozen=True)
class Case:
    """The two files of a case."""

    number: int
    volume: Path
    segmentation: Path

    @property
    def name(self) -> str:
        return f"volume-{self.number}"

    @property
    def files(self) -> tuple[Path, ...]:
        """Both files, the volume first."""
        return self.volume, self.segmentation


def find_cases(folder: str | Path) -> list[Case]:
    """The cases in a folder and its subfolders, by number.

    Two layouts: that of LiTS (`volume-N.nii[.gz]` and `segmentation-N.nii[.gz]`, in any subfolders, such as the two
    training batches), and that of the Medical Segmentation Decathlon (`imagesTr/liver_N.nii.gz`,
    `labelsTr/liver_N.nii.gz`). Files of other names are left alone, hidden ones too.

    Raises:
        NoCasesError: no such folder, or nothing in it.
        MissingPairError: a half of a case is missing.
        DuplicateCaseError: a half of a case is there twice.
        FileNameError: the name of the folder, or of one between it and a case, is not UTF-8.
    """
    folder = Path(folder)
    fault = fault_of_name(folder)
    if fault:
        raise FileNameError(f"{printable(folder)}: rename the folder. Received: {fault}")
    if not folder.is_dir():
        raise NoCasesError(
            f"{folder}: no such folder. Expected one with volume-N.nii[.gz] and segmentation-N.nii[.gz]."
        )
    found: dict[int, dict[str, Path]] = {}
    for path in sorted(p for p in folder.rglob("*") if ending_of(p, NIFTI)):
        part, number = _part(path)
        if part is None:
            continue
        fault = fault_of_name(path)
        if fault:
            raise FileNameError(f"{printable(path)}: rename its folder. Received: {fault}")
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


def check_header(case: Case, limits: Limits | None = None) -> None:
    """Compare the headers of a case, which takes milliseconds; `read_case` then checks every voxel.

    Raises:
        VolumeError: one of the errors of `read_case`, as far as the headers tell.
    """
    volume, segmentation = (read_header(path, limits).shape for path in (case.volume, case.segmentation))
    check_same_shape(case.segmentation, segmentation, case.volume, volume)


def read_case(case: Case, limits: Limits | None = None) -> tuple[Volume, Volume]:
    """Read and check a case.

    Args:
        case: its files.
        limits: what is accepted; `Limits.current()` by default.

    Returns:
        The volume in HU, and the labels (uint8: 0 background, 1 liver, 2 lesion) with the volume's affine.

    Raises:
        VolumeError: and what is wrong is named by its subclass, here or in `keras_spatial.volumes`.
    """
    limits = limits or Limits.current()
    # The headers first: a pair that does not belong together is not decompressed.
    check_header(case, limits)
    volume, labels = read_volume(case.volume, limits), read_volume(case.segmentation, limits)
    check_same_shape(case.segmentation, labels.array.shape, case.volume, volume.array.shape)
    if case.number not in KNOWN_AFFINE_MISMATCH:
        check_same_place(labels, volume)
    array = checked_labels(labels, LITS.labels)
    if not array.any():
        raise NoLiverError(f"{case.segmentation}: expected a liver (labels 1 and 2). Received: nothing but 0")
    if limits.hounsfield:
        check_hounsfield(volume)
    return volume, Volume(array, volume.affine, labels.header, labels.path)


def check_case(volume: str | Path, segmentation: str | Path, limits: Limits | None = None) -> None:
    """Check one case as the builder does: readable to the last byte, three-dimensional, same shape and place, finite
    values in HU, labels 0, 1 and 2, a liver.

    Raises:
        VolumeError: and what is wrong is named by its subclass, here or in `keras_spatial.volumes`.
    """
    match = re.search(r"(\d+)\.nii(\.gz)?$", str(volume), re.IGNORECASE)
    read_case(Case(int(match[1]) if match else -1, Path(volume), Path(segmentation)), limits)
