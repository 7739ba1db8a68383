"""Find the cases of LiTS in a folder, and check them before anything is computed."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.cases import (
    DuplicateCaseError,
    MissingPairError,
    NoCasesError,
    check_same_place,
    check_same_shape,
    checked_labels,
    shown,
)
from datasets.decathlon.layout import DESCRIPTION, Layout, LayoutError, read_layout
from keras_spatial._paths import NIFTI, ending_of, fault_of_name, printable, walk
from keras_spatial.volumes import LITS, FileNameError, Limits, Volume, VolumeError, check_hounsfield, read_volume
from keras_spatial.volumes.headers import read_header

# Cases whose segmentation has a meaningless affine in the official files; that of the volume is right. The affine of
# case 53, shown in MIC-DKFZ/nnUNet#2751, has voxels of 1 mm along the axes, beginning at (1, 1, 1). Other reports name
# the cases 48 to 52 without their affines, so other affines that programs write for an unknown one count as well.
KNOWN_AFFINE_MISMATCH = frozenset(range(48, 54))

_LITS = re.compile(r"(volume|segmentation)-([0-9]{1,18})(?i:\.nii(\.gz)?)")
# nnU-Net's copy of the Decathlon has the number of the only channel in the name.
_DECATHLON = {
    "imagesTr": ("volume", re.compile(r"liver_([0-9]{1,18})(_0000)?(?i:\.nii(\.gz)?)")),
    "labelsTr": ("segmentation", re.compile(r"liver_([0-9]{1,18})(?i:\.nii(\.gz)?)")),
}
_LESIONS = re.compile(r"(liver[ _-])?(cancer|tumou?rs?|lesions?)")


class NoLiverError(VolumeError):
    """The segmentation has no liver."""


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

    def moved(self, move: Callable[[Path], Path]) -> "Case":
        """The case with its files elsewhere."""
        return Case(self.number, move(self.volume), move(self.segmentation))


def find_cases(folder: str | Path) -> list[Case]:
    """Find the cases in a folder and its subfolders, ordered by number; `check_header` names files that are missing.

    There are two layouts: that of LiTS (`volume-N.nii[.gz]` and `segmentation-N.nii[.gz]`, in any subfolders, such as
    the two training batches), and that of the Medical Segmentation Decathlon (`imagesTr/liver_N.nii.gz`, or
    `liver_N_0000.nii.gz` as in nnU-Net, and `labelsTr/liver_N.nii.gz`). Files with other names and hidden files are
    ignored.

    Raises:
        NoCasesError: if the folder does not exist or has no case.
        DuplicateCaseError: if a file of a case exists twice.
        LayoutError: if `dataset.json` is damaged, or describes other data than LiTS.
        FileNameError: if the name of the folder, or of one between it and a case, is not UTF-8.
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
    for path in sorted(p for p in walk(folder) if ending_of(p, NIFTI)):
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
    _check_descriptions(folder, found)
    for number, parts in found.items():
        there = next(iter(parts.values()))
        for part in ("volume", "segmentation"):
            parts.setdefault(part, _beside(part, number, there))
    return [Case(number, parts["volume"], parts["segmentation"]) for number, parts in sorted(found.items())]


def _part(path: Path) -> tuple[str | None, int]:
    lits = _LITS.fullmatch(path.name)
    if lits:
        return lits[1], int(lits[2])
    part, pattern = _DECATHLON.get(path.parent.name, ("", _LITS))
    decathlon = pattern.fullmatch(path.name)
    return (part, int(decathlon[1])) if decathlon else (None, -1)


def _beside(part: str, number: int, other: Path) -> Path:
    """Where the missing file of a case should be, by the one that is there."""
    ending = ending_of(other, NIFTI)
    if other.parent.name not in _DECATHLON or _LITS.fullmatch(other.name):
        return other.with_name(f"{part}-{number}{ending}")
    folder = next(name for name, (of, _) in _DECATHLON.items() if of == part)
    return other.parent.parent / folder / f"liver_{number}{ending}"


def is_lits(layout: Layout) -> bool:
    """Whether a described folder has LiTS's task: background, liver and lesions, under one of their names, in a CT."""
    channels, labels = ([name.strip().lower() for name in names] for names in (layout.channels, layout.labels))
    return channels == ["ct"] and labels[1:2] == ["liver"] and len(labels) == 3 and bool(_LESIONS.fullmatch(labels[2]))


def _check_descriptions(folder: Path, found: dict[int, dict[str, Path]]) -> None:
    """Check that `dataset.json`, in the folder or beside the images, describes LiTS's task, if it exists.

    Raises:
        LayoutError: if it describes another task.
    """
    beside = {
        path.parent.parent for parts in found.values() for path in parts.values() if path.parent.name in _DECATHLON
    }
    for root in sorted({folder, *beside}):
        if not (root / DESCRIPTION).is_file():
            continue
        layout = read_layout(root)
        if not is_lits(layout):
            raise LayoutError(
                f"{root / DESCRIPTION}: expected the channel CT, and the labels background, liver and lesion (cancer, "
                f"tumor) of LiTS. Received: {list(layout.channels)}, {list(layout.labels)}. Give this folder to "
                "datasets.decathlon.prepare or the step ingest, which read such data by their description"
            )


def check_header(case: Case, limits: Limits | None = None) -> None:
    """Compare the headers of a case, which takes milliseconds; `read_case` also checks every voxel.

    Raises:
        MissingPairError: if one of the two files is missing.
        VolumeError: as for `read_case`, if the fault is in a header.
    """
    for here, missing, part in (
        (case.volume, case.segmentation, "segmentation"),
        (case.segmentation, case.volume, "volume"),
    ):
        if here.exists() and not missing.exists():
            raise MissingPairError(
                f"{here}: case {case.number} has no {part}. Add the file, or move this one out of the folder."
            )
    volume, segmentation = (read_header(path, limits).shape for path in (case.volume, case.segmentation))
    check_same_shape(case.segmentation, segmentation, case.volume, volume)


def read_case(case: Case, limits: Limits | None = None) -> tuple[Volume, Volume]:
    """Read and check a case.

    Args:
        case: the files of the case.
        limits: the limits that the case must keep; `Limits.current()` by default.

    Returns:
        The volume in HU, and the labels (uint8: 0 background, 1 liver, 2 lesion) with the volume's affine.

    Raises:
        VolumeError: if the case cannot be used; the subclass, here or in `keras_spatial.volumes`, says why.
    """
    limits = limits or Limits.current()
    # The headers are checked first, so that files that do not belong together are not decompressed.
    check_header(case, limits)
    volume, labels = read_volume(case.volume, limits), read_volume(case.segmentation, limits)
    check_same_shape(case.segmentation, labels.array.shape, case.volume, volume.array.shape)
    if not (case.number in KNOWN_AFFINE_MISMATCH and _says_nothing(labels)):
        check_same_place(labels, volume)
    array = checked_labels(labels, LITS.labels)
    check_liver(Volume(array, labels.affine, labels.header, labels.path))
    if limits.hounsfield:
        check_hounsfield(volume)
    return volume, Volume(array, volume.affine, labels.header, labels.path)


def check_liver(labels: Volume) -> None:
    """Check that at least one voxel is labelled.

    Raises:
        NoLiverError: if no voxel is.
    """
    if not labels.array.any():
        raise NoLiverError(f"{shown(labels.path)}: expected a liver (labels 1 and 2). Received: nothing but 0")


def _says_nothing(labels: Volume) -> bool:
    """Whether an affine is one that programs write if they do not know the real one. Any other affine counts as real.

    Either the header says that there is no affine, or the voxels have 1 mm along the axes and begin at 0 or 1, in
    NIfTI's axes or in ITK's, which run to the left and to the back.
    """
    if not (int(labels.header["sform_code"]) or int(labels.header["qform_code"])):
        return True
    steps, origin = labels.affine[:3, :3], np.abs(labels.affine[:3, 3])
    return np.allclose(np.abs(steps), np.eye(3)) and bool(np.all(np.isin(origin, (0, 1))))


def check_case(volume: str | Path, segmentation: str | Path, limits: Limits | None = None) -> None:
    """Check one case in the same way as the builder.

    The files must be readable to the last byte and three-dimensional, have the same shape and place, finite values in
    HU, and the labels 0, 1 and 2, with a liver.

    Args:
        volume: the path of the volume.
        segmentation: the path of the segmentation.
        limits: the limits that the case must keep; `Limits.current()` by default.

    Raises:
        VolumeError: if the case cannot be used; the subclass, here or in `keras_spatial.volumes`, says why.
    """
    match = re.search(r"(\d+)\.nii(\.gz)?$", str(volume), re.IGNORECASE)
    read_case(Case(int(match[1]) if match else -1, Path(volume), Path(segmentation)), limits)
