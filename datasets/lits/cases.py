"""Finding the cases of LiTS in a folder, and checking them before anything is computed."""

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

# Cases whose segmentation has no affine in the official files, but one that stands for none: MIC-DKFZ/nnUNet#2751 shows
# 53, with voxels of 1 mm along the axes from (1, 1, 1) on; other reports name 48 to 52 and do not show theirs, so the
# other affines by which programs say that they know none count as well. The volume's is right.
KNOWN_AFFINE_MISMATCH = frozenset(range(48, 54))

_LITS = re.compile(r"(volume|segmentation)-([0-9]{1,18})(?i:\.nii(\.gz)?)")
# nnU-Net's copy of the Decathlon numbers the one channel.
_DECATHLON = {
    "imagesTr": ("volume", re.compile(r"liver_([0-9]{1,18})(_0000)?(?i:\.nii(\.gz)?)")),
    "labelsTr": ("segmentation", re.compile(r"liver_([0-9]{1,18})(?i:\.nii(\.gz)?)")),
}
_LESIONS = re.compile(r"(liver[ _-])?(cancer|tumou?rs?|lesions?)")


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

    def moved(self, move: Callable[[Path], Path]) -> "Case":
        """The case with its files elsewhere."""
        return Case(self.number, move(self.volume), move(self.segmentation))


def find_cases(folder: str | Path) -> list[Case]:
    """The cases in a folder and its subfolders, by number.

    Two layouts: that of LiTS (`volume-N.nii[.gz]` and `segmentation-N.nii[.gz]`, in any subfolders, such as the two
    training batches), and that of the Medical Segmentation Decathlon (`imagesTr/liver_N.nii.gz`, or
    `liver_N_0000.nii.gz` as nnU-Net has it, and `labelsTr/liver_N.nii.gz`). Files of other names are left alone, hidden
    ones too.

    Raises:
        NoCasesError: if there is no such folder, or no case in it.
        MissingPairError: if one of the two files of a case is missing.
        DuplicateCaseError: if a file of a case is there twice.
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
    for number, parts in sorted(found.items()):
        for here, missing in (("volume", "segmentation"), ("segmentation", "volume")):
            if missing not in parts:
                raise MissingPairError(
                    f"{parts[here]}: case {number} has no {missing}. Add the file, or move this one out of {folder}."
                )
    return [Case(number, parts["volume"], parts["segmentation"]) for number, parts in sorted(found.items())]


def _part(path: Path) -> tuple[str | None, int]:
    lits = _LITS.fullmatch(path.name)
    if lits:
        return lits[1], int(lits[2])
    part, pattern = _DECATHLON.get(path.parent.name, ("", _LITS))
    decathlon = pattern.fullmatch(path.name)
    return (part, int(decathlon[1])) if decathlon else (None, -1)


def is_lits(layout: Layout) -> bool:
    """Whether a described folder has LiTS's task: background, liver and lesions, by whatever name, in a CT."""
    channels, labels = ([name.strip().lower() for name in names] for names in (layout.channels, layout.labels))
    return channels == ["ct"] and labels[1:2] == ["liver"] and len(labels) == 3 and bool(_LESIONS.fullmatch(labels[2]))


def _check_descriptions(folder: Path, found: dict[int, dict[str, Path]]) -> None:
    """Raise LayoutError if `dataset.json`, in the folder or beside the images, names other labels than LiTS's."""
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
                f"tumor) of LiTS. Received: {list(layout.channels)}, {list(layout.labels)}. Give this folder itself: "
                "datasets.decathlon.prepare and the step ingest read such data by their description"
            )


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
        case: the files of the case.
        limits: the limits that the case must keep; `Limits.current()` by default.

    Returns:
        The volume in HU, and the labels (uint8: 0 background, 1 liver, 2 lesion) with the volume's affine.

    Raises:
        VolumeError: if the case cannot be used; the subclass, here or in `keras_spatial.volumes`, says why.
    """
    limits = limits or Limits.current()
    # The headers first: a pair that does not belong together is not decompressed.
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
    """Raise NoLiverError unless some voxel is labelled."""
    if not labels.array.any():
        raise NoLiverError(f"{shown(labels.path)}: expected a liver (labels 1 and 2). Received: nothing but 0")


def _says_nothing(labels: Volume) -> bool:
    """Whether an affine is what programs write that know of none. Any other that differs is wrong in these cases, too.

    The header says that there is none, or it has voxels of 1 mm along the axes from a corner on, in NIfTI's axes, or in
    ITK's, which run to the left and to the back.
    """
    if not (int(labels.header["sform_code"]) or int(labels.header["qform_code"])):
        return True
    steps, origin = labels.affine[:3, :3], np.abs(labels.affine[:3, 3])
    return np.allclose(np.abs(steps), np.eye(3)) and bool(np.all(np.isin(origin, (0, 1))))


def check_case(volume: str | Path, segmentation: str | Path, limits: Limits | None = None) -> None:
    """Check one case as the builder does: readable to the last byte, three-dimensional, same shape and place, finite
    values in HU, labels 0, 1 and 2, a liver.

    Raises:
        VolumeError: if the case cannot be used; the subclass, here or in `keras_spatial.volumes`, says why.
    """
    match = re.search(r"(\d+)\.nii(\.gz)?$", str(volume), re.IGNORECASE)
    read_case(Case(int(match[1]) if match else -1, Path(volume), Path(segmentation)), limits)
