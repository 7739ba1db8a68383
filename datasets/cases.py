"""A case of any data set, the errors of cases, and the checks that all data sets share."""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from keras_spatial._paths import UNREAD, VOLUMES, ending_of
from keras_spatial.volumes import LabelError, Volume, VolumeError, as_labels
from keras_spatial.volumes.place import misplaced
from keras_spatial.volumes.pseudonyms import identifiers_kept, pseudonym


class NoCasesError(VolumeError):
    """The folder is missing or has no case."""


class MissingPairError(VolumeError):
    """A volume has no segmentation, or a segmentation no volume."""


class DuplicateCaseError(VolumeError):
    """Two files are the same part of the same case."""


class ShapeMismatchError(VolumeError):
    """Volume and segmentation have different shapes."""


class AffineMismatchError(VolumeError):
    """Volume and segmentation lie in different places."""


class LabelValueError(LabelError):
    """The segmentation has labels that the data set does not have."""


class CaseTooLargeError(VolumeError):
    """The case does not fit into the memory of the machine that converts it, or into a record."""


class UnusableCaseError(VolumeError):
    """The case fails with an unexpected error, which is in the message and the log."""


class ChangedCaseError(VolumeError):
    """A file of the case has changed while it was read, or since it was checked."""


class OtherSourcesError(VolumeError):
    """A data set on disk was built from other files than those given now, or with another description of them."""


class BadCasesError(VolumeError):
    """Several cases cannot be used; the message lists each with its reason."""


@dataclass(frozen=True)
class Case:
    """The files of a case.

    Attributes:
        name: the name of the case, which is unique in the data set and can be that of a folder.
        images: a file or the folder of a DICOM series for each channel, or one file with all channels.
        label: the file with the class numbers.
    """

    name: str
    images: tuple[Path, ...]
    label: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """All files and folders of series, images first."""
        return *self.images, self.label

    def moved(self, move: Callable[[Path], Path]) -> "Case":
        """The case with its files elsewhere."""
        return replace(self, images=tuple(map(move, self.images)), label=move(self.label))


@dataclass(frozen=True)
class BadCase:
    """A case that cannot be used, with the class and the message of its error."""

    case: str
    error: str
    reason: str

    @classmethod
    def of(cls, case: Any, error: VolumeError) -> "BadCase":
        """The bad case for a case and its error."""
        return cls(case.name, type(error).__name__, without_names(case, str(error)))


def error_of(bad: list[BadCase], *, others: bool) -> VolumeError:
    """The error with which bad cases end a build: that of a single case, or one that lists several cases.

    Args:
        bad: the cases that cannot be used.
        others: whether there are other cases, with which the build could continue.
    """
    if len(bad) == 1:
        kind = next((k for k in _kinds(VolumeError) if k.__name__ == bad[0].error), VolumeError)
        return kind(bad[0].reason)
    lines = "\n".join(f"  {b.case}: {b.error}: {b.reason}" for b in bad)
    remedy = 'Repair or remove them, or build with on_bad_case="skip"' if others else "There are no others. Repair them"
    return BadCasesError(f"{len(bad)} cases cannot be used. {remedy}:\n{lines}")


def _kinds(kind: type[VolumeError]) -> Iterator[type[VolumeError]]:
    for below in kind.__subclasses__():
        yield below
        yield from _kinds(below)


def may_name_patient(path: Path) -> bool:
    """Whether a file or folder of a case is DICOM by its name, which may then be the patient's."""
    return not ending_of(path, (*VOLUMES, *UNREAD))


def shown(path: Path) -> str:
    """The name of a file or folder of a case in messages; a pseudonym for DICOM, which may bear the patient's name."""
    if not may_name_patient(path) or identifiers_kept():
        return str(path)
    return str(path.with_name(f"DICOM {pseudonym(path.name)}"))


def without_names(case: Any, text: str) -> str:
    """A message about a case in which pseudonyms replace the names of its DICOM files and of their label files."""
    if identifiers_kept() or not any(map(may_name_patient, case.files)):
        return text
    for path in case.files:
        ending = ending_of(path, (*VOLUMES, *UNREAD))
        instead = path.with_name(f"{case.name}{ending}" if ending else Path(shown(path)).name)
        text = text.replace(str(path), str(instead))
        # A single letter identifies nobody, and it occurs in every message.
        if len(path.name) > 1:
            text = re.sub(rf"(?<!\w){re.escape(path.name)}(?!\w)", instead.name, text)
    return text


def check_same_shape(path: Path, shape: tuple[int, ...], of: Path, expected: tuple[int, ...]) -> None:
    """Check that the image at `path` has the shape of the one at `of`.

    Raises:
        ShapeMismatchError: if it has another shape.
    """
    if shape != expected:
        raise ShapeMismatchError(f"{path}: expected the shape of {of.name}, {expected}. Received: {shape}")


def check_same_place(volume: Volume, of: Volume) -> None:
    """Check that two images of the same shape lie in the same place.

    Raises:
        AffineMismatchError: if they do not.
    """
    fault = misplaced(volume, of)
    if fault:
        raise AffineMismatchError(
            f"{volume.path}: {fault}. If the voxels belong together, copy the affine from there. Received: "
            f"orientation {volume.orientation} and spacing {np.round(volume.spacing, 3).tolist()} mm against "
            f"{of.orientation} and {np.round(of.spacing, 3).tolist()} mm"
        )


def checked_labels(labels: Volume, names: tuple[str, ...]) -> np.ndarray:
    """Class numbers as uint8.

    Args:
        labels: the labels as they were read.
        names: the names of the classes by number.

    Raises:
        LabelValueError: for values that are not the number of a class.
    """
    with suppress(LabelError):
        array = as_labels(labels.array)
        if array.max() < len(names):
            return array
    values = np.unique(labels.array)
    wanted = [f"{number} ({name})" for number, name in enumerate(names)]
    raise LabelValueError(
        f"{shown(labels.path)}: expected the labels {', '.join(wanted[:-1])} and {wanted[-1]}. "
        f"Received: {values[:10].tolist()}{' and more' if values.size > 10 else ''}"
    )
