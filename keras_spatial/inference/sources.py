"""Find the volumes to segment, and name them and their results."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from keras_spatial._paths import (
    DICOM,
    NAME_BYTES,
    RESULTS,
    UNREAD,
    VOLUMES,
    channel_of,
    ending_of,
    printable,
    regular,
    stem_of,
)
from keras_spatial.volumes import Series, VolumeError, find_series
from keras_spatial.volumes.dicom_files import is_dicom
from keras_spatial.volumes.reading import read_grid
from keras_spatial.volumes.series import without_image

# How much longer the name of a file is while it is being written.
_PART_BYTES = len(".part-")
_ENDINGS = (*VOLUMES, *UNREAD)
# How many files of a case a message names.
_NAMED = 8


class NothingToSegment(ValueError):
    """No volume was found, or none of the volumes could be segmented."""


class VolumesBelow(ValueError):
    """There are volumes in folders below the one that was given. Only the files in the folder itself are segmented."""


class ResultsCollide(ValueError):
    """Two volumes would get the same result file, or a result would replace an existing file."""


@dataclass(frozen=True, eq=False)
class Source:
    """A volume to segment.

    Attributes:
        volume: the path of a file, a DICOM series, or the paths of the files of a case that has one for each channel.
        channels: the names of the channels that such a case must have.
    """

    volume: Path | Series | tuple[Path, ...]
    channels: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the volume; none for a DICOM series."""
        if isinstance(self.volume, Series):
            return ()
        return (self.volume,) if isinstance(self.volume, Path) else self.volume

    @property
    def name(self) -> str:
        """The name in messages and tables: that of the file or the case, or the pseudonym of the series."""
        if isinstance(self.volume, tuple):
            return printable(self.stem)
        return printable(self.volume.name) if isinstance(self.volume, Path) else str(self.volume)

    @property
    def stem(self) -> str:
        """The stem of the result's name: `segmentation-3` for `volume-3.nii.gz`, as in LiTS, or `segmentation-NAME`.

        A case with a file for each channel gives its name to the result, as in nnU-Net: `liver_0` for
        `liver_0_0000.nii.gz` and `liver_0_0001.nii.gz`.
        """
        if isinstance(self.volume, tuple):
            return _channel(self.volume[0])[0]
        name = stem_of(self.volume.name, VOLUMES) if isinstance(self.volume, Path) else self.volume.name
        return f"segmentation-{name.removeprefix('volume-')}"

    def unusable(self, ending: str = ".nii.gz") -> str | None:
        """Why the volume cannot be read or its result cannot be written; None if no reason is known.

        A named pipe is refused, because opening one without a writer would block.
        """
        if isinstance(self.volume, Series):
            return None
        if isinstance(self.volume, tuple) and (fault := self._other_channels()):
            return fault
        for path in self.files:
            try:
                with regular(path).open("rb"):
                    pass
            except OSError as error:
                which = f"{printable(path.name)} " if isinstance(self.volume, tuple) else ""
                return f"{which}cannot be read: {error.strerror}"
        longest = len(os.fsencode(self.stem + ending)) + _PART_BYTES
        if longest > NAME_BYTES:
            return f"the name of its result would have {longest} bytes; expected at most {NAME_BYTES}. Rename it"
        return None

    def _other_channels(self) -> str | None:
        """How the files differ from one file for each channel; None if they do not."""
        wanted = [f"{self.name}_{number:04}" for number in range(len(self.channels))]
        if [printable(stem_of(path.name, _ENDINGS)) for path in self.files] == wanted:
            return None
        received = ", ".join(printable(path.name) for path in self.files[:_NAMED])
        more = f" and {len(self.files) - _NAMED} more" if len(self.files) > _NAMED else ""
        return (
            f"ChannelError: expected one file for each of the {len(wanted)} channels ({', '.join(self.channels)}), "
            f"from {wanted[0]} to {wanted[-1]}. Received: {received}{more}"
        )


def find_sources(paths: Iterable[str | Path], ending: str = ".nii.gz", channels: Sequence[str] = ()) -> list[Source]:
    """Find the volumes of files and folders.

    Args:
        paths: volume files, and DICOM files with all frames of a series; folders with volume files, except for
            segmentations and hidden files; folders with DICOM series, one or many, in any folders below. Volume files
            in folders below are refused: labels and results may lie there as well, and two files may have the same
            name. A path that does not exist becomes a source that cannot be used.
        ending: the ending of the results, one of `RESULTS`.
        channels: the names of the model's channels. If there are several, the files of a folder whose names end in
            `_0000`, `_0001`, ..., as in nnU-Net, are the channels of one case. A file that holds all channels is a case
            by itself, whatever its name.

    Raises:
        NothingToSegment: if there is no volume in a folder.
        VolumesBelow: if there are volume files in folders below it.
        ResultsCollide: if two volumes, such as `3.nii` and `volume-3.nii.gz`, would get the same result file.
        VolumeError: if the name of a folder cannot be used.
        ImportError: if a folder holds DICOM, and pydicom is not installed.

    Example:

    ```python
    sources = ks.inference.find_sources(["scans", "case.nii.gz"])
    ```
    """
    if ending not in RESULTS:
        raise ValueError(f"expected results that end in one of {RESULTS}. Received: {ending!r}")
    found = [source for path in paths for source in _sources(Path(path))]
    if len(channels) > 1:
        found = _by_case(found, tuple(channels))
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

    Example:

    ```python
    ks.inference.check_results(ks.inference.find_sources(["scans"]), "labels", ".nii.gz")
    ```
    """
    volumes = {path.resolve() for source in sources for path in source.files}
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
        # The name of a DICOM file, also of a damaged one, may be the patient's.
        file = path.is_file() and not ending_of(path, VOLUMES)
        if file and (ending_of(path, DICOM) or is_dicom(path)):
            yield from (Source(series) for series in find_series(path) or [without_image(path)])
        else:
            yield Source(path)
        return
    below = {folder: count for folder in _folders(path) if (count := len(_files(folder)))}
    if below:
        named = ", ".join(f"{printable(folder.relative_to(path))} ({count})" for folder, count in [*below.items()][:5])
        raise VolumesBelow(
            f"{printable(path)}: expected the volumes in the folder itself. Received: volumes in {len(below)} "
            f"{'folder' if len(below) == 1 else 'folders'} below it: {named}. Give the folder whose volumes are meant, "
            "or move the others elsewhere"
        )
    sources = [Source(p) for p in _files(path)]
    sources += [Source(series) for series in find_series(path)]
    if not sources:
        raise NothingToSegment(
            f"{printable(path)}: no volume found. Expected .nii, .nii.gz, .nrrd or .mha files, or DICOM series."
        )
    yield from sources


def _folders(path: Path) -> Iterator[Path]:
    """The folders inside a folder, without hidden ones."""
    for folder, names, _ in os.walk(path):
        names[:] = sorted(name for name in names if not name.startswith("."))
        yield from (Path(folder, name) for name in names)


def _files(folder: Path) -> list[Path]:
    """The volume files in a folder, without segmentations and hidden ones.

    Files in formats that cannot be read are included, too, unless there is a readable file of the same name.
    """
    try:
        paths = sorted(folder.iterdir())
    except OSError:
        return []
    hidden = (".", "segmentation-", "segmentation.")
    paths = [path for path in paths if not path.name.startswith(hidden)]
    readable = {stem_of(path.name, VOLUMES) for path in paths if ending_of(path, VOLUMES)}
    return [
        path
        for path in paths
        if ending_of(path, VOLUMES) or (ending_of(path, UNREAD) and stem_of(path.name, UNREAD) not in readable)
    ]


def _by_case(sources: Sequence[Source], channels: tuple[str, ...]) -> list[Source]:
    """Group the files that are channels of one case; other volumes stay as they are."""
    found: dict[object, Source] = {}
    cases: dict[object, list[Path]] = {}
    for source in sources:
        path = source.volume
        if not isinstance(path, Path) or not _is_channel(path, len(channels)):
            found[source] = source
            continue
        # Cases of the same name in two folders are two cases, whose results would collide.
        case = (path.parent, _channel(path)[0])
        cases.setdefault(case, []).append(path)
        files = sorted(cases[case], key=lambda file: (_channel(file)[1], file.name))
        found[case] = Source(tuple(files), channels)
    return list(found.values())


def _is_channel(path: Path, channels: int) -> bool:
    """Whether a file is one channel of a case. Its name decides, unless the file itself holds all channels."""
    if channel_of(stem_of(path.name, _ENDINGS)) is None:
        return False
    try:
        read_grid(path, channels)
    except VolumeError:
        # A damaged file counts as a channel; reading it then names its case.
        return True
    return False


def _channel(path: Path) -> tuple[str, int]:
    """The case and the number of a file that is a channel."""
    found = channel_of(stem_of(path.name, _ENDINGS))
    assert found is not None
    return found


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
