"""The volumes to segment, by path or URL, which of them a step of several takes, and the file of its model."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from components.train.settings import MODEL
from datasets.origins import Origin, opened
from keras_spatial._paths import VOLUMES, ending_of
from keras_spatial.inference import NothingToSegment, Source, find_sources

ALL = "0-of-1"
"""The share that all volumes make up."""
SEEN = "volumes.json"
"""Beside the results of a share: the names of the volumes that were seen, by what their results are called."""


class _Named(Protocol):
    @property
    def stem(self) -> str: ...


_T = TypeVar("_T", bound=_Named)


@dataclass(frozen=True)
class Batch:
    """Volumes that are on this machine while they are segmented.

    Attributes:
        sources: The volumes.
        shown: Makes of a text about them one that names them where they lie.
    """

    sources: Sequence[Source]
    shown: Callable[[str], str]


@dataclass(frozen=True)
class _Unit:
    """What of an object store is brought at once: a volume file, or a folder in which there may be DICOM series."""

    files: tuple[Path, ...]
    root: Path

    @property
    def stem(self) -> str:
        """The name by which they are shared."""
        return self.root.name

    def moved(self, move: Callable[[Path], Path]) -> "_Unit":
        return _Unit(tuple(map(move, self.files)), move(self.root))


def volumes_in(volumes: str | Path) -> list[Source]:
    """The volumes to segment: a file, those of a folder, and the DICOM series in it; see `find_sources`.

    Raises:
        NothingToSegment: if nothing is there, or no volume is in it.
        VolumesBelow: if there are volume files in folders below it.
        ResultsCollide: if two volumes, such as `3.nii` and `volume-3.nii.gz`, would get the same result file.
        VolumeError: if the folder's name cannot be used.
    """
    if not Path(volumes).exists():
        raise NothingToSegment(
            f"{volumes}: no such file or folder. Expected a volume (.nii, .nii.gz, .nrrd, .mha), or a folder with "
            "volumes or DICOM series."
        )
    return find_sources([volumes])


def batches(volumes: str, share: str, seen: dict[str, str] | None = None) -> Iterator[Batch]:
    """The volumes of a share, as many at a time as are on this machine: of a path all, of a URL one after another.

    In an object store only names are looked at before. So DICOM series are shared by the folders at its top, each of
    which is brought whole.

    Args:
        volumes: A volume, or a folder, by path or URL.
        share: K-of-N, see `shared`.
        seen: gets the names of all volumes by the stems of their results; of DICOM in an object store those of this
            share alone.

    Raises:
        ValueError: if there is no such share.
        NothingToSegment, VolumesBelow, ResultsCollide, VolumeError: as `volumes_in`.
        StorageError: if the store refuses or cannot be reached.
    """
    known = {} if seen is None else seen
    with opened(volumes) as origin:
        if origin.local:
            found = volumes_in(volumes)
            known |= {source.stem: source.name for source in found}
            sources = shared(found, share)
            if sources:
                yield Batch(sources, origin.shown)
            return
        units = _units(origin)
        files = [Source(unit.root) for unit in units if ending_of(unit.root, VOLUMES)]
        known |= {source.stem: source.name for source in files}
        for unit in shared(units, share):
            with origin.near(unit) as near:
                try:
                    sources = find_sources([near.root])
                except NothingToSegment:
                    continue  # Of files that are no volumes, only DICOM's reader knows whether they are DICOM.
                known |= {source.stem: source.name for source in sources}
                yield Batch(sources, origin.shown)


def check_url(volumes: str) -> None:
    """Raise an error if there can be no volumes at a URL; as `batches`, by the names of what is there."""
    with opened(volumes) as origin:
        _units(origin)


def shared(sources: Sequence[_T], share: str) -> list[_T]:
    """Those of one of several steps that share them: every Nth in the order of their names, from the Kth on.

    So each is in one share, and the steps need not know of each other.

    Args:
        sources: all of them.
        share: "K-of-N", K from 0.

    Raises:
        ValueError: if there is no such share.
    """
    match = re.fullmatch(r"([0-9]{1,6})-of-([0-9]{1,6})", share)
    if match is None or not int(match[1]) < int(match[2]):
        raise ValueError(f"share: expected K-of-N with K from 0 to below N. Received: {share!r}")
    return sorted(sources, key=lambda source: source.stem)[int(match[1]) :: int(match[2])]


def model_file(model: str | Path) -> Path:
    """The `.keras` file of a model: itself, or in the folder of a training."""
    return Path(model) / MODEL if Path(model).is_dir() else Path(model)


def _units(origin: Origin) -> list[_Unit]:
    """What there is to bring, by names alone."""
    with origin.named():
        folder = origin.folder
        try:
            found = [source.volume for source in volumes_in(folder) if isinstance(source.volume, Path)]
        except NothingToSegment:
            if not folder.is_dir():
                raise
            found = []
        if not folder.is_dir():
            return [_Unit((path,), path) for path in found]
        others = [p for p in folder.iterdir() if not p.name.startswith(".") and not ending_of(p, VOLUMES)]
        loose = tuple(p for p in others if p.is_file())
        units = [_Unit((path,), path) for path in (*found, *(p for p in others if p.is_dir()))]
        units += [_Unit(loose, folder)] if loose else []
        if not units:
            raise NothingToSegment(f"{folder}: nothing found that may be a volume.")
        return units
