"""Which files make a case, and what its channels and labels are called, in three layouts of a folder.

| layout | images | labels | names |
| --- | --- | --- | --- |
| Medical Segmentation Decathlon | the list `training` of `dataset.json`; several channels in one 4D file | there too | `modality`, `labels` of `dataset.json` |
| nnU-Net v2 | `imagesTr/CASE_0000.nii.gz`, `CASE_0001`, ..., one file per channel | `labelsTr/CASE.nii.gz` | `channel_names`, `labels` of `dataset.json` |
| plain folder | `images/CASE.nii.gz`, or one file per channel as in nnU-Net, or folders `images/CASE` of DICOM series, or enhanced DICOM files `images/CASE.dcm` | `labels/CASE.nii.gz` or `.dcm` | given by the user, or in `dataset.json` as the others have them |
"""  # noqa: E501 - a table.

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.cases import Case, DuplicateCaseError, NoCasesError, may_name_patient, shown
from datasets.origins import DESCRIPTION
from keras_spatial._paths import (
    LABELS,
    NIFTI,
    UNREAD,
    VOLUMES,
    channel_of,
    ending_of,
    fault_of_name,
    printable,
    regular,
    stem_of,
)
from keras_spatial.volumes import FileNameError, Task, TaskError, VolumeError
from keras_spatial.volumes.pseudonyms import identifiers_kept, pseudonym

PLAIN_IMAGES, PLAIN_LABELS = "images", "labels"
_KNOWN = ("images", "labels", "image", "label", "imagestr", "labelstr", "imagests", "dataset.json")


class LayoutError(VolumeError):
    """The folder's description is damaged, contradicts itself, or asks for something that is not supported."""


@dataclass(frozen=True)
class Layout:
    """The cases of a folder. Missing files are reported when their case is checked.

    Attributes:
        name: the name of the data set.
        channels: the names of the channels, such as "CT" or "T2".
        labels: the names of the classes by number, beginning with the background; empty if the folder has no names.
        cases: the cases in the order of their names.
    """

    name: str
    channels: tuple[str, ...]
    labels: tuple[str, ...]
    cases: tuple[Case, ...]


def read_layout(folder: str | Path, channels: Sequence[str] = (), labels: Sequence[str] = ()) -> Layout:
    """Find out which of the three layouts a folder has, and read it.

    Args:
        folder: the folder with `dataset.json`, or with `images` and `labels`.
        channels: the names of the channels of a plain folder.
        labels: the names of the classes of a plain folder, beginning with the background.

    Raises:
        NoCasesError: if the folder does not exist or has no case.
        LayoutError: if `dataset.json` is damaged or asks for something that is not supported, or the channels have no
            names.
        DuplicateCaseError: if a case exists twice.
        FileNameError: if the name of the folder or of a case is not UTF-8.
    """
    folder = Path(folder)
    for name, given in (("channels", channels), ("labels", labels)):
        if isinstance(given, str):
            raise LayoutError(f"{name}: expected a list of names, such as [{given!r}]. Received: the text {given!r}")
    fault = fault_of_name(folder)
    if fault:
        raise FileNameError(f"{printable(folder)}: rename the folder. Received: {fault}")
    if not folder.is_dir():
        raise NoCasesError(f"{folder}: no such folder. Expected one with {DESCRIPTION}, or with images and labels.")
    path = folder / DESCRIPTION
    if path.is_file():
        if channels or labels:
            raise LayoutError(f"{path}: names channels and labels; leave them out. Received: {channels}, {labels}")
        layout = _described(path, _description(path))
    elif is_plain(folder):
        layout = _plain(folder, {"name": folder.name}, tuple(channels), tuple(labels))
    else:
        raise NoCasesError(
            f"{folder}: expected {DESCRIPTION} (Medical Segmentation Decathlon, nnU-Net), or the folders images and "
            f"labels. Received: {_told(folder)}"
        )
    if not layout.cases:
        raise NoCasesError(f"{folder}: no case found.")
    for case in layout.cases:
        # A case with such a name would replace the folder of all converted cases, or one above it.
        fault = "a name that stands for a folder" if case.name in (".", "..") else fault_of_name(case.name)
        if fault:
            raise FileNameError(f"{printable(folder / case.name)}: rename the case. Received: {fault}")
    return layout


def _told(folder: Path) -> str:
    """The names of what is in a folder. Only volumes are named, because other names may be those of patients."""
    found = sorted(folder.iterdir())
    named = [p.name for p in found if ending_of(p, VOLUMES) or p.name.lower() in _KNOWN or identifiers_kept()][:10]
    others = len(found) - len(named)
    return f"{named} and {others} other files or folders" if others else f"{named}"


def is_plain(folder: Path) -> bool:
    """Whether a folder has the folders `images` and `labels`."""
    return (folder / PLAIN_IMAGES).is_dir() and (folder / PLAIN_LABELS).is_dir()


def read_names(path: str | Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read the names of channels and labels from a `dataset.json` of the Decathlon or nnU-Net, or from a `task.json`.

    Raises:
        LayoutError: if the file is damaged, or asks for something that is not supported.
    """
    path = Path(path)
    description = _description(path)
    if "channels" not in description:
        return _names(path, description)
    try:
        task = Task.of(description, str(path))
    except TaskError as error:
        raise LayoutError(str(error)) from error
    return tuple(channel.name for channel in task.channels), task.labels


def _description(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(regular(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LayoutError(f"{path}: cannot be read. Received: {type(error).__name__}: {error}") from error
    if not isinstance(value, dict):
        raise LayoutError(f"{path}: expected an object. Received: {type(value).__name__}")
    return value


def _described(path: Path, description: Mapping[str, Any]) -> Layout:
    channels, labels = _names(path, description)
    # This is a plain folder whose `dataset.json` only has names.
    if "training" not in description and is_plain(path.parent) and not (path.parent / "imagesTr").exists():
        return _plain(path.parent, description, channels, labels)
    return (_nnunet if "channel_names" in description else _decathlon)(path, description, channels, labels)


def _names(path: Path, description: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of channels and labels, in the form of nnU-Net, with `channel_names`, or in that of the Decathlon."""
    if "channel_names" not in description:
        # Both fields have names by number, which are text.
        channels = _numbered(path, "modality", description.get("modality"))
        return channels, _numbered(path, "labels", description.get("labels"))
    # `channel_names` has names by number, and `labels` has numbers by name.
    channels = _numbered(path, "channel_names", description["channel_names"])
    given = description.get("labels")
    if not isinstance(given, dict) or not all(isinstance(n, int) and not isinstance(n, bool) for n in given.values()):
        raise LayoutError(
            f"{path}: labels: expected one number for each name; regions (several numbers for a name) are not "
            f"supported. Received: {given!r:.200}"
        )
    if "ignore" in given:
        raise LayoutError(
            f"{path}: labels: nnU-Net's ignore label is not supported; label these voxels, or leave the case out."
        )
    labels = _numbered(path, "labels", {str(number): name for name, number in given.items()})
    if len(labels) != len(given):
        raise LayoutError(f"{path}: labels: two names have the same number. Received: {given!r:.200}")
    return channels, labels


def _decathlon(
    path: Path, description: Mapping[str, Any], channels: tuple[str, ...], labels: tuple[str, ...]
) -> Layout:
    """The cases of the Decathlon's layout, whose `training` lists the image and the label of each case."""
    listed = description.get("training")
    if not isinstance(listed, list) or not all(
        isinstance(x, dict) and isinstance(x.get("image"), str) and isinstance(x.get("label"), str) for x in listed
    ):
        raise LayoutError(
            f"{path}: training: expected a list of image and label, or channel_names as in nnU-Net v2. "
            f"Received: {listed!r:.100}"
        )
    cases: dict[str, Case] = {}
    for entry in listed:
        image, label = (_inside(path, entry[part]) for part in ("image", "label"))
        name = _stem(path, label)
        if name in cases:
            raise DuplicateCaseError(f"{path}: training: the case {name} is listed twice. Remove one of them.")
        cases[name] = Case(name, (image,), label)
    return _layout(path, description, channels, labels, cases)


def _nnunet(path: Path, description: Mapping[str, Any], channels: tuple[str, ...], labels: tuple[str, ...]) -> Layout:
    """The cases of nnU-Net's layout, with a numbered file for each channel."""
    ending = description.get("file_ending", ".nii.gz")
    if ending not in VOLUMES:
        raise LayoutError(f"{path}: file_ending: expected one of {list(VOLUMES)}. Received: {ending!r}")
    folder = path.parent
    truths: dict[str, Path] = {}
    images: dict[str, dict[int, Path]] = {}
    # Files with another ending than the one in dataset.json count if the case has no file with that ending.
    for truth in sorted(_files(folder / "labelsTr"), key=lambda p: _ending(p) != ending):
        truths.setdefault(_stem(path, truth), truth)
    for image in sorted(_files(folder / "imagesTr"), key=lambda p: _ending(p) != ending):
        channel = channel_of(_stem(path, image))
        if channel:
            images.setdefault(channel[0], {}).setdefault(channel[1], image)
    cases: dict[str, Case] = {}
    for name in {*truths, *images}:
        found = images.get(name, {})
        # A missing file is entered under the name that it should have. Missing and surplus files are reported when the
        # case is checked.
        count = max(len(channels), *(index + 1 for index in found)) if found else len(channels)
        cases[name] = Case(
            name,
            tuple(found.get(index, folder / f"imagesTr/{name}_{index:04}{ending}") for index in range(count)),
            truths.get(name, folder / f"labelsTr/{name}{ending}"),
        )
    return _layout(path, description, channels, labels, cases)


def _plain(folder: Path, description: Mapping[str, Any], channels: tuple[str, ...], labels: tuple[str, ...]) -> Layout:
    """The cases of a plain folder, whose images and labels have the same names.

    If the names of images end in `_0000`, `_0001`, ..., each channel is a file of its own.
    """
    if not channels:
        raise LayoutError(
            f"{folder}: a folder without {DESCRIPTION} does not say what its images are. Pass channels=, such as "
            '["CT"], or ["T1", "T2"] for two MR sequences.'
        )
    truths: dict[str, Path] = {}
    for path in _files(folder / PLAIN_LABELS, LABELS):
        other = truths.setdefault(stem_of(path.name, LABELS), path)
        if other != path:
            raise DuplicateCaseError(f"{shown(path)}: the labels of this case are also {shown(other)}. Remove one.")
    images: dict[str, dict[int, Path]] = {}
    # Images may have the endings of labels, too: a .dcm file has the frames of an enhanced image.
    for path in _files(folder / PLAIN_IMAGES, LABELS, folders=True):
        stem = path.name if path.is_dir() else stem_of(path.name, LABELS)
        # If there are labels for the whole name, a number at its end belongs to the case and not to a channel.
        name, index = (None if stem in truths else channel_of(stem)) or (stem, -1)
        other = images.setdefault(name, {}).setdefault(index, path)
        if other != path:
            raise DuplicateCaseError(f"{shown(path)}: this image of a case is also {shown(other)}. Remove one of them.")
    # Files in formats that are not read count, too, so that the check of the cases names them and none is passed over.
    for path in _files(folder / PLAIN_LABELS, UNREAD):
        truths.setdefault(stem_of(path.name, UNREAD), path)
    unread: dict[str, dict[int, Path]] = {}
    for path in _files(folder / PLAIN_IMAGES, UNREAD):
        stem = stem_of(path.name, UNREAD)
        name, index = (None if stem in truths else channel_of(stem)) or (stem, -1)
        unread.setdefault(name, {})[index] = path
    images = {**unread, **images}
    for path in _files(folder / PLAIN_LABELS, (), folders=True):
        # An archive exports a segmentation in a folder of its own; it is named as one when its case is checked.
        if path.name in images:
            truths.setdefault(path.name, path)
    # If any file is DICOM, then a missing one may be DICOM, too.
    dicom = any(may_name_patient(p) for p in [*truths.values(), *(p for of in images.values() for p in of.values())])
    found = [
        _plain_case(folder, name, images.get(name, {}), truths.get(name), len(channels), dicom)
        for name in {*images, *truths}
    ]
    cases = {case.name: case for case in found}
    return _layout(folder / PLAIN_IMAGES, description, channels, labels, cases)


def _plain_case(
    folder: Path, name: str, found: Mapping[int, Path], truth: Path | None, channels: int, dicom: bool
) -> Case:
    """The case of some image files by the numbers of their channels, or by -1 for one file with all channels.

    Missing files get the names that they should have. With `dicom`, there is DICOM in the folder, so that a missing
    file may be DICOM as well.
    """
    lacking = truth is None or not found
    named = any(may_name_patient(path) for path in [*found.values(), *([truth] if truth else [])])
    if (named or (dicom and lacking)) and not identifiers_kept():
        # Folders of DICOM series are often named after the patient.
        name = pseudonym(name)
    ending = _ending(truth or next(iter(found.values()))) or NIFTI[0]
    if -1 in found and len(found) > 1:
        raise DuplicateCaseError(
            f"{shown(found[-1])}: the case {name} has one file for all channels, and a file for each channel. Remove "
            "one kind."
        )
    if -1 in found:
        images = [found[-1]]
    else:
        count = max(channels, *(index + 1 for index in found)) if found else channels
        numbers = [f"_{index:04}" for index in range(count)] if count > 1 or found else [""]
        images = [
            found.get(index, folder / PLAIN_IMAGES / f"{name}{number}{ending}") for index, number in enumerate(numbers)
        ]
    return Case(name, tuple(images), truth or folder / PLAIN_LABELS / f"{name}{ending}")


def _layout(
    path: Path,
    description: Mapping[str, Any],
    channels: tuple[str, ...],
    labels: tuple[str, ...],
    cases: Mapping[str, Case],
) -> Layout:
    name = description.get("name") or path.parent.name
    return Layout(str(name), channels, labels, tuple(cases[key] for key in sorted(cases)))


def _numbered(path: Path, field: str, given: Any) -> tuple[str, ...]:
    """The names of a field in the order of their numbers, which must begin with 0 and have no gap."""
    fits = isinstance(given, dict) and bool(given) and all(isinstance(name, str) and name for name in given.values())
    if fits and sorted(given) == sorted(map(str, range(len(given)))):
        names = tuple(given[str(number)] for number in range(len(given)))
        if len(set(names)) == len(names) or field != "labels":
            return names
    raise LayoutError(
        f"{path}: {field}: expected names for the numbers 0, 1, 2, ... without a gap. Received: {given!r:.200}"
    )


def _inside(path: Path, name: str) -> Path:
    """The path of a file in the folder of a description, from its name there."""
    relative = Path(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise LayoutError(f"{path}: expected files inside {path.parent}. Received: {name!r}")
    return path.parent / relative


def _files(folder: Path, endings: Sequence[str] = VOLUMES, *, folders: bool = False) -> list[Path]:
    """The volume files in a folder and, with `folders`, the folders of DICOM series, without hidden ones."""
    if not folder.is_dir():
        raise NoCasesError(f"{folder}: no such folder.")
    return sorted(
        p
        for p in folder.iterdir()
        if not p.name.startswith(".") and ((folders and p.is_dir()) or ending_of(p, endings))
    )


def _ending(path: Path) -> str:
    return ending_of(path, VOLUMES)


def _stem(where: Path, path: Path) -> str:
    ending = _ending(path)
    if not ending:
        raise LayoutError(f"{where}: expected files that end in {', '.join(VOLUMES)}. Received: {path.name!r}")
    return stem_of(path.name, VOLUMES)
