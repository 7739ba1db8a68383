"""Find the volumes to segment, and name them and their results."""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from keras_spatial._paths import NAME_BYTES, printable
from keras_spatial.volumes import Series, find_series

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")
"""The endings of files that `read_volume` reads as one volume."""
RESULTS = (".nii.gz", ".nii", ".dcm")
"""The endings of results: NIfTI files or DICOM segmentations."""
_KINDS = {stat.S_IFIFO: "a named pipe", stat.S_IFDIR: "a folder", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device"}
# How much longer the name of a file is while it is being written.
_PART_BYTES = len(".part-")


class NothingToSegment(ValueError):
    """No volume was found, or none of the volumes could be segmented."""


class ResultsCollide(ValueError):
    """Two volumes would get the same result file, or a result would replace an existing file."""


@dataclass(frozen=True, eq=False)
class Source:
    """A volume to segment.

    Attributes:
        volume: the path of a file, or a DICOM series.
    """

    volume: Path | Series

    @property
    def name(self) -> str:
        """The name in messages and tables: that of the file, or the pseudonym of the series."""
        return printable(self.volume.name) if isinstance(self.volume, Path) else str(self.volume)

    @property
    def stem(self) -> str:
        """The result's name without ending: `segmentation-3` for `volume-3.nii.gz` (LiTS), or `segmentation-NAME`."""
        name = self.volume.name
        if isinstance(self.volume, Path):
            name = name.removesuffix(next((e for e in ENDINGS if name.lower().endswith(e)), ""))
        return f"segmentation-{name.removeprefix('volume-')}"

    def unusable(self, ending: str = ".nii.gz") -> str | None:
        """Why the volume cannot be read or its result cannot be written; None if no reason is known.

        Named pipes are refused, because opening one without a writer would block.
        """
        if isinstance(self.volume, Series):
            return None
        try:
            mode = self.volume.stat().st_mode
            if not stat.S_ISREG(mode):
                return f"expected a regular file. Received: {_KINDS.get(stat.S_IFMT(mode), 'a special file')}"
            with self.volume.open("rb"):
                pass
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        longest = len(os.fsencode(self.stem + ending)) + _PART_BYTES
        if longest > NAME_BYTES:
            return f"the name of its result would have {longest} bytes; expected at most {NAME_BYTES}. Rename it"
        return None


def find_sources(paths: Iterable[str | Path], ending: str = ".nii.gz") -> list[Source]:
    """Find the volumes of files and folders.

    Args:
        paths: volume files; folders with volume files, where segmentations and hidden files are left out; and folders
            with any number of DICOM series, which may lie in subfolders. A path that does not exist gives a source that
            is unusable.
        ending: the ending of the results, one of `RESULTS`.

    Raises:
        NothingToSegment: if a folder has no volume.
        ResultsCollide: if the results of two volumes would have the same name, as for `3.nii` and `volume-3.nii.gz`.
        VolumeError: if the name of a folder cannot be used.
        ImportError: if a folder has DICOM files, and pydicom is not installed.

    Example:

    ```python
    for source in ks.inference.find_sources(["scans", "case.nii.gz"]):
        print(source.name)
    ```
    """
    if ending not in RESULTS:
        raise ValueError(f"expected results that end in one of {RESULTS}. Received: {ending!r}")
    found = [source for path in paths for source in _sources(Path(path))]
    _check_names(found, ending)
    return found


def check_results(sources: Sequence[Source], folder: str | Path, ending: str, *, overwrite: bool = False) -> None:
    """Refuse results that would replace a file.

    Args:
        sources: the volumes to segment.
        folder: the folder of the results.
        ending: the ending of the results.
        overwrite: whether results may replace existing files.

    Raises:
        ResultsCollide: if a result has the name of a volume to segment, or of an existing file that must not be
            overwritten.
    """
    volumes = {path.resolve() for s in sources if isinstance(path := s.volume, Path)}
    for source in sources:
        target = Path(folder) / (source.stem + ending)
        try:
            there = target.exists()
        except OSError:
            continue
        if target.resolve() in volumes:
            raise ResultsCollide(
                f"{folder}: the result of {source.name} would replace a volume to segment, {printable(target.name)}. "
                "Choose another folder for the results"
            )
        if there and not overwrite:
            raise ResultsCollide(
                f"{folder}: expected no result yet. Received: {printable(target.name)} exists. Choose another "
                "folder, or allow results to be overwritten"
            )


def _sources(path: Path) -> Iterator[Source]:
    if not path.is_dir():
        yield Source(path)
        return
    files = sorted(p for p in path.iterdir() if p.name.lower().endswith(ENDINGS))
    found = [Source(p) for p in files if not p.name.startswith((".", "segmentation-", "segmentation."))]
    found += [Source(series) for series in find_series(path)]
    if not found:
        raise NothingToSegment(
            f"{printable(path)}: no volume found. Expected .nii, .nii.gz, .nrrd or .mha files, or DICOM series."
        )
    yield from found


def _check_names(sources: Sequence[Source], ending: str) -> None:
    known: dict[str, Source] = {}
    for source in sources:
        other = known.setdefault(source.stem, source)
        if other is not source:
            raise ResultsCollide(
                f"expected a different result file for each volume. Received: {other.name} and {source.name}, whose "
                f"results would both be {printable(source.stem + ending)}. Rename one of them, or segment them into "
                "different folders"
            )
