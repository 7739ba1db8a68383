"""A case of any data set, and what may be wrong with it. A case that cannot be used is named, listed and left out."""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from keras_spatial._paths import VOLUMES, ending_of
from keras_spatial.volumes import LabelError, Volume, VolumeError, as_labels
from keras_spatial.volumes.identity import identifiers_kept, pseudonym
from keras_spatial.volumes.place import misplaced


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
    """The segmentation holds labels that the data set does not have."""


class CaseTooLargeError(VolumeError):
    """The case does not fit into the memory of the machine that works on it."""


class UnusableCaseError(VolumeError):
    """The case fails in a way that has no name of its own; the message and the log hold the error."""


class ChangedCaseError(VolumeError):
    """A file of the case was written while it was read."""


class OtherSourcesError(VolumeError):
    """A data set on disk was built of other files than those given now, or by another description of them."""


class BadCasesError(VolumeError):
    """Several cases cannot be used; the message lists each with its reason."""


@dataclass(frozen=True)
class Case:
    """The files of a case.

    Attributes:
        name: unique in the data set, and the name of a folder.
        images: a file, or the folder of a DICOM series, for each channel; or one file that holds all channels.
        label: file with the class numbers.
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
    """A case that cannot be used: the class of the error names the kind of fault, and the message names the file."""

    case: str
    error: str
    reason: str

    @classmethod
    def of(cls, case: Any, error: VolumeError) -> "BadCase":
        """A case and its error."""
        return cls(case.name, type(error).__name__, without_names(case, str(error)))


def error_of(bad: list[BadCase], *, others: bool) -> VolumeError:
    """The error of a build that bad cases end: one bad case raises its own, several raise one that lists them.

    Args:
        bad: The cases that cannot be used.
        others: Whether there are others, which a build may do with.
    """
    if len(bad) == 1:
        kind = next((k for k in _kinds(VolumeError) if k.__name__ == bad[0].error), VolumeError)
        return kind(bad[0].reason)
    lines = "\n".join(f"  {b.case}: {b.error}: {b.reason}" for b in bad)
    remedy = 'Repair or remove them, or build with on_bad_case="skip"' if others else "There is no other. Repair them"
    return BadCasesError(f"{len(bad)} cases cannot be used. {remedy}:\n{lines}")


def _kinds(kind: type[VolumeError]) -> Iterator[type[VolumeError]]:
    for below in kind.__subclasses__():
        yield below
        yield from _kinds(below)


def shown(path: Path) -> str:
    """A file or folder of a case as messages name it: DICOM's by a pseudonym, because its name may be the patient's."""
    if ending_of(path, VOLUMES) or identifiers_kept():
        return str(path)
    return str(path.with_name(f"DICOM {pseudonym(path.name)}"))


def without_names(case: Any, text: str) -> str:
    """A message about a case in which pseudonyms replace the names of its DICOM files and of what belongs to them."""
    if identifiers_kept() or all(ending_of(path, VOLUMES) for path in case.files):
        return text
    for path in case.files:
        ending = ending_of(path, VOLUMES)
        instead = path.with_name(f"{case.name}{ending}" if ending else Path(shown(path)).name)
        text = text.replace(str(path), str(instead))
        # A letter names nobody, and stands in every message.
        if len(path.name) > 1:
            text = re.sub(rf"(?<!\w){re.escape(path.name)}(?!\w)", instead.name, text)
    return text


def check_same_shape(path: Path, shape: tuple[int, ...], of: Path, expected: tuple[int, ...]) -> None:
    """Raise ShapeMismatchError unless the image at `path` has the shape of the one at `of`."""
    if shape != expected:
        raise ShapeMismatchError(f"{path}: expected the shape of {of.name}, {expected}. Received: {shape}")


def check_same_place(volume: Volume, of: Volume) -> None:
    """Raise AffineMismatchError unless two images of one shape lie in the same place."""
    fault = misplaced(volume, of)
    if fault:
        raise AffineMismatchError(
            f"{volume.path}: {fault}. Copy that one's affine to it if the voxels belong together. Received: "
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
