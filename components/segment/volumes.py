"""Find the volumes to segment by path or URL, and select those of one step if several steps share them."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from components.train.settings import MODEL
from datasets.origins import Origin, StoreOrigin, opened
from keras_spatial._paths import UNREAD, VOLUMES, ending_of
from keras_spatial.inference import NothingToSegment, ResultsCollide, Source, find_sources
from keras_spatial.volumes.series import series_in


class _Named(Protocol):
    @property
    def stem(self) -> str: ...


_T = TypeVar("_T", bound=_Named)


@dataclass(frozen=True)
class Batch:
    """Volumes that are on this machine while they are segmented.

    Attributes:
        sources: the volumes.
        shown: a function that replaces the paths in a text by the addresses of the volumes.
    """

    sources: Sequence[Source]
    shown: Callable[[str], str]


@dataclass(frozen=True)
class _Unit:
    """Files that are downloaded together: those of one volume, or of a folder that may contain DICOM series.

    Attributes:
        stem: the name by which it is shared.
        files: the file or folder, the files that lie beside folders, or those of a case's channels.
        root: the file or folder itself, or the folder of the files.
    """

    stem: str
    files: tuple[Path, ...]
    root: Path

    def moved(self, move: Callable[[Path], Path]) -> "_Unit":
        return _Unit(self.stem, tuple(map(move, self.files)), move(self.root))

    def parts(self) -> list["_Unit"]:
        """The folders in a folder that contains nothing else; otherwise only the unit itself."""
        if self.files != (self.root,) or not self.root.is_dir():
            return [self]
        inside = sorted(path for path in self.root.iterdir() if not path.name.startswith("."))
        if not inside or any(path.is_file() for path in inside):
            return [self]
        return [_Unit(f"{self.stem}/{path.name}", (path,), path) for path in inside]


def volumes_in(volumes: str | Path, channels: Sequence[str] = ()) -> list[Source]:
    """The volumes at a path: one file, or the files and DICOM series of a folder; see `find_sources`.

    Args:
        volumes: the path.
        channels: the names of the model's channels.

    Raises:
        NothingToSegment: if nothing is at the path, or the folder has no volume.
        VolumesBelow: if there are volume files in folders below it.
        ResultsCollide: if two volumes, such as `3.nii` and `volume-3.nii.gz`, would get the same result file.
        VolumeError: if the folder's name cannot be used.
    """
    if not Path(volumes).exists():
        raise NothingToSegment(
            f"{volumes}: no such file or folder. Expected a volume (.nii, .nii.gz, .nrrd, .mha), or a folder with "
            "volumes or DICOM series."
        )
    return find_sources([volumes], channels=channels)


def batches(
    volumes: str, share: str, seen: dict[str, str] | None = None, channels: Sequence[str] = ()
) -> Iterator[Batch]:
    """Yield the volumes of a share: all at once for a path, and one after another for a URL.

    Only the names in an object store are known before the download. So DICOM series are shared by the folders at the
    top, each of which is downloaded whole. If there are fewer of them than shares, and they contain nothing but
    folders, these are shared instead. A series whose files are in several of the shared folders is refused: at once if
    the first or the last files of two folders tell, and otherwise by the step gather.

    Args:
        volumes: a volume or a folder, by path or URL.
        share: "K-of-N", see `shared`.
        seen: a dictionary that gets the names of all volumes, by the stems of their results. Of DICOM series, and of
            cases with a file for each channel, in an object store, it gets only those of this share.
        channels: the names of the model's channels.

    Raises:
        ValueError: if there is no such share.
        NothingToSegment, VolumesBelow, VolumeError: as for `volumes_in`.
        ResultsCollide: the same, and if two of the folders are known to contain files of one series.
        StorageError: if the store refuses or cannot be reached.
    """
    known = {} if seen is None else seen
    with opened(volumes) as origin:
        if origin.local:
            found = volumes_in(origin.folder, channels)
            known |= {source.stem: source.name for source in found}
            sources = shared(found, share)
            if sources:
                yield Batch(sources, origin.shown)
            return
        units = _units(origin, channels)
        files = [Source(unit.root) for unit in units if ending_of(unit.root, (*VOLUMES, *UNREAD))]
        known |= {source.stem: source.name for source in files}
        places: dict[str, str] = {}
        count = _numbers(share)[1]
        units = _divided(units, count)
        if count > 1 and isinstance(origin, StoreOrigin):
            _refuse_torn(origin, units)
        for unit in shared(units, share):
            with origin.near(unit) as near:
                try:
                    sources = find_sources([near.root], channels=channels)
                except NothingToSegment:
                    # The unit was a folder of other files, which only the reader of DICOM can recognise.
                    continue
                for source in sources:
                    other = places.setdefault(source.stem, unit.stem)
                    if other != unit.stem:
                        raise ResultsCollide(
                            f"{origin.location}: expected all files of a DICOM series in one folder, because folders "
                            f"are downloaded one after another. Received: {source.name} in two of them. Put its files "
                            "into one."
                        )
                known |= {source.stem: source.name for source in sources}
                yield Batch(sources, origin.shown)


def _refuse_torn(origin: StoreOrigin, units: Sequence[_Unit]) -> None:
    """Refuse a DICOM series in two units, as far as the headers of the first and the last file of each unit tell.

    Archives fill folders with as many files as fit, and continue a series in the next one. To look at all headers,
    every share would have to read a part of every file. Objects that are not images, such as reports and segmentations,
    do not count.

    Raises:
        ResultsCollide: if there is such a series.
        StorageError: if the store refuses or cannot be reached.
    """
    ends: list[tuple[str, _Unit]] = []
    for unit in units:
        if not ending_of(unit.files[0], (*VOLUMES, *UNREAD)):
            names = [name for path in unit.files for name in origin.below(path)]
            # A DICOMDIR, the directory of a medium, is not an image.
            names = [name for name in names if name.rpartition("/")[2].upper() != "DICOMDIR"]
            ends += [(name, unit) for name in dict.fromkeys([*names[:1], *names[-1:]])]
    if len({id(unit) for _, unit in ends}) < 2:
        return
    known: dict[str, _Unit] = {}
    for (_, unit), head in zip(ends, origin.heads([name for name, _ in ends]), strict=True):
        series = series_in(head)
        if series and known.setdefault(series, unit) is not unit:
            raise ResultsCollide(
                f"{origin.location}: expected all files of a DICOM series in one folder, because folders are shared "
                f"among the steps. Received: {series} in two of them. Put its files into one."
            )


def check_url(volumes: str, channels: Sequence[str] = ()) -> None:
    """Check by the names of the objects that there can be volumes at a URL.

    Args:
        volumes: the URL.
        channels: the names of the model's channels.

    Raises:
        NothingToSegment, VolumesBelow, ResultsCollide, VolumeError, StorageError: as for `batches`.
    """
    with opened(volumes) as origin:
        _units(origin, channels)


def shared(sources: Sequence[_T], share: str) -> list[_T]:
    """The volumes of one of N steps: every Nth one in the order of their names, beginning with the Kth.

    So each volume is in exactly one share, and the steps need not communicate.

    Args:
        sources: all volumes.
        share: "K-of-N", with K from 0 to below N.

    Raises:
        ValueError: if there is no such share.
    """
    number, count = _numbers(share)
    return sorted(sources, key=lambda source: source.stem)[number::count]


def _numbers(share: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,6})-of-([0-9]{1,6})", share)
    if match is None or not int(match[1]) < int(match[2]):
        raise ValueError(f"share: expected K-of-N with K from 0 to below N. Received: {share!r}")
    return int(match[1]), int(match[2])


def model_file(model: str | Path) -> Path:
    """The `.keras` file of a model, given the file itself or the folder of its training."""
    return Path(model) / MODEL if Path(model).is_dir() else Path(model)


def _units(origin: Origin, channels: Sequence[str]) -> list[_Unit]:
    """The units that can be downloaded, found by their names."""
    with origin.named():
        folder = origin.folder
        try:
            found = [source for source in volumes_in(folder, channels) if source.files]
        except NothingToSegment:
            if not folder.is_dir():
                raise
            found = []
        if not folder.is_dir():
            return [_Unit(path.name, (path,), path) for source in found for path in source.files]
        others = [p for p in folder.iterdir() if not p.name.startswith(".") and not ending_of(p, (*VOLUMES, *UNREAD))]
        loose = tuple(p for p in others if p.is_file())
        units = [_unit(source, folder) for source in found]
        units += [_Unit(path.name, (path,), path) for path in others if path.is_dir()]
        # The folder's name alone would not do, because a folder in it may have the same name.
        units += [_Unit(f"{folder.name}/", loose, folder)] if loose else []
        if not units:
            raise NothingToSegment(f"{folder}: nothing found that may be a volume.")
        return units


def _unit(source: Source, folder: Path) -> _Unit:
    if isinstance(source.volume, tuple):
        return _Unit(source.stem, source.files, folder)
    (path,) = source.files
    return _Unit(path.name, (path,), path)


def _divided(units: list[_Unit], count: int) -> list[_Unit]:
    """Divide folders that contain only folders, if necessary, to get as many units as there are shares.

    Only names and the number of shares count, so every share divides them in the same way.
    """
    while len(units) < count:
        parts = [part for unit in units for part in unit.parts()]
        if parts == units:
            break
        units = parts
    return units
