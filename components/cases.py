"""The cases of a folder: with the names of LiTS, with a `dataset.json`, or plain folders of images and labels."""

import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from components import storage
from components.faults import shortened
from components.files import parse_json
from datasets.cases import Case, NoCasesError
from datasets.conversion import AnyCase
from datasets.decathlon.layout import (
    DESCRIPTION,
    PLAIN_IMAGES,
    PLAIN_LABELS,
    is_plain,
    read_layout,
    read_names,
)
from datasets.decathlon.reader import TaskReader
from datasets.lits import cases as lits
from datasets.origins import CheckedOrigin, Listed, Movable, Origin, StoreOrigin, opened
from keras_spatial._paths import NIFTI, UNREAD, VOLUMES, ending_of
from keras_spatial.volumes import LITS, Channel, Limits, Percentiles, Task, TaskError, Volume, ZScore

LITS_TASK = "lits"
"""The name of LiTS's task, which is given instead of a file that describes a task."""

INDEX = "index.json"
"""The file in which the step ingest describes the cases that it has checked."""
_Case = TypeVar("_Case", bound=Movable)


@dataclass(frozen=True)
class Folder:
    """The cases of a folder.

    Attributes:
        origin: where the files lie.
        cases: the cases, which are all of one kind. If the files are in an object store, their paths exist only as
            names; see `near`.
        reader: the reader for a folder that is described; None for cases with the names of LiTS.
        numbers: the numbers that the cases of a plain folder get with the task of LiTS, by the names of the cases;
            empty for other tasks.
        by_reference: whether files that need no conversion stay in place, and every step reads them there.
    """

    origin: Origin
    cases: Sequence[AnyCase]
    reader: TaskReader | None
    numbers: Mapping[str, int] = field(default_factory=dict)
    by_reference: bool = False

    @property
    def path(self) -> Path:
        """The folder of the paths."""
        return self.origin.folder

    @cached_property
    def referred(self) -> bool:
        """Whether later steps read the files in place: they may, and no file has to be converted."""
        return self.by_reference and not self.numbers and not any(map(self.converted, self.cases))

    def near(self, case: _Case) -> AbstractContextManager[_Case]:
        """The case with its files on this machine, inside a `with` block."""
        return self.origin.near(case)

    def check(self, case: AnyCase) -> tuple[list[Volume], Volume]:
        """Check every voxel of a case whose files are on this machine, as the data set's builder does.

        Returns:
            The channels and the labels; those of a described folder are in canonical (RAS) order.

        Raises:
            VolumeError: one of its subclasses, if the case cannot be used.
        """
        limits = Limits.current()
        if isinstance(case, lits.Case):
            volume, labels = lits.read_case(case, limits)
            return [volume], labels
        assert self.reader is not None and isinstance(case, Case)
        volumes, labels = self.reader.read(case, limits)
        if self.numbers:
            lits.check_liver(labels)
        return volumes, labels

    def converted(self, case: AnyCase) -> bool:
        """Whether a step that copies a case has to convert it to NIfTI files. DICOM files name the patient, and
        cases of LiTS can only be NIfTI files.
        """
        # Files that nothing can read are put aside, and never converted.
        kept = (*(NIFTI if self.numbers else VOLUMES), *UNREAD)
        return not all(ending_of(path, kept) for path in case.files)

    def names(self, case: AnyCase) -> list[str]:
        """The names of a case's files in a folder of checked cases, relative to it: images, then labels."""
        if isinstance(case, lits.Case):
            return [
                f"{part}-{case.number}{ending_of(path, NIFTI)}" for part, path in zip(_LITS, case.files, strict=True)
            ]
        endings = [".nii.gz" if self.converted(case) else ending_of(path, NIFTI) for path in case.files]
        if self.numbers:
            number = self.numbers[case.name]
            return [f"{part}-{number}{ending}" for part, ending in zip(_LITS, (endings[0], endings[-1]), strict=True)]
        if not self.converted(case):
            return [path.relative_to(self.path).as_posix() for path in case.files]
        assert self.reader is not None
        count = len(self.reader.task.channels)
        numbered = [f"_{index:04}" for index in range(count)] if count > 1 else [""]
        images = [f"{PLAIN_IMAGES}/{case.name}{number}.nii.gz" for number in numbered]
        return [*images, f"{PLAIN_LABELS}/{case.name}.nii.gz"]


_LITS = ("volume", "segmentation")


@contextmanager
def open_folder(location: str | Path, task: str = "", *, by_reference: bool = False) -> Iterator[Folder]:
    """Find the cases of a folder: those that its `dataset.json` describes, or else those with the names of LiTS, or
    those of a plain folder.

    Cases with the names of LiTS get the scores of LiTS, even if a `dataset.json` describes them as LiTS's, such as that
    of the Decathlon's task Liver.

    Args:
        location: a path, or the URL of a folder in an object store, from which only names are read.
        task: for a plain folder without `dataset.json`: the path of a file that names channels and labels (see
            `datasets.decathlon.layout.read_names`), or "lits", with which cases are numbered in the order of their
            names.
        by_reference: whether every step sees the folder at this path, and may read the files there. Files at a URL are
            always read there.

    Raises:
        NoCasesError: if there are no cases.
        TaskError: if the names of the classes cannot be used, are missing, or are given twice.
        VolumeError: as for `datasets.lits.find_cases` and `datasets.decathlon.read_layout`.
        StorageError: if a store refuses or cannot be reached.
    """
    with opened(location) as origin:
        with origin.named():
            folder = _folder(origin, task)
        yield replace(folder, by_reference=by_reference or storage.is_url(location))


@contextmanager
def open_checked(cases: str | Path) -> Iterator[Folder]:
    """Open the cases that the step ingest has checked, by the path or URL of its folder.

    Cases in an object store, or on a volume that every step sees, were not copied: the index says where they are, and a
    file that has changed since it was checked is refused when it is read.

    Raises:
        ChangedCaseError: from `Folder.near`, if a file has changed since it was checked.
        VolumeError, StorageError: as for `open_folder`; a StorageError also if the index is damaged.
    """
    index = read_index(cases)
    if "source" not in index:
        with open_folder(cases) as folder:
            yield folder
        return
    described = storage.read_bytes(storage.join(str(cases), DESCRIPTION))
    files = {name: Listed(*facts) for name, facts in index["files"].items()}
    contents = {} if described is None else {DESCRIPTION: described}
    with tempfile.TemporaryDirectory(prefix="keras-spatial-") as scratch:
        kind = StoreOrigin if storage.is_url(index["source"]) else CheckedOrigin
        origin = kind(index["source"], files, Path(scratch), contents)
        with origin.named():
            folder = _folder(origin, "")
        yield folder


def read_index(cases: str | Path) -> dict[str, Any]:
    """What the step ingest has written about the cases in its folder, by path or URL; empty for any other folder.

    Raises:
        StorageError: if the file is damaged, or the store refuses or cannot be reached.
    """
    place = storage.join(str(cases), INDEX)
    content = storage.read_bytes(place)
    if content is None:
        return {}
    try:
        index = parse_json(content)
    except ValueError as error:
        index, fault = None, str(error)
    else:
        fault = shortened(index)
    if isinstance(index, dict) and _is_index(index):
        return index
    raise storage.StorageError(
        f"{place}: expected what the step ingest has written about the cases. Received: {fault}. The file is damaged: "
        "run ingest again."
    )


def _is_index(index: Mapping[str, Any]) -> bool:
    """Whether a value has those parts of an index that are read."""
    texts = isinstance(index.get("sha256", {}), dict)
    if "source" not in index:
        return texts
    files = index.get("files")
    return (
        texts
        and isinstance(index["source"], str)
        and isinstance(files, dict)
        and all(
            isinstance(facts, list)
            and len(facts) == 3
            and isinstance(facts[0], int)
            and all(isinstance(text, str) for text in facts[1:])
            for facts in files.values()
        )
    )


@dataclass(frozen=True)
class _Several:
    """The files of several cases, and their folder."""

    files: tuple[Path, ...]
    root: Path

    def moved(self, move: Callable[[Path], Path]) -> "_Several":
        return _Several(tuple(map(move, self.files)), move(self.root))


@contextmanager
def some_cases(cases: str | Path, wanted: Collection[int | str]) -> Iterator[str]:
    """Provide a folder on this machine with at least the checked cases that are wanted.

    Args:
        cases: the folder of the step ingest, by path or URL.
        wanted: the numbers or the names of the cases to bring from where they were checked.

    Raises:
        ChangedCaseError: if a file has changed since it was checked.
        VolumeError, StorageError: as for `open_folder`.
    """
    with open_checked(cases) as folder:
        if folder.origin.local:
            yield str(folder.path)
            return
        chosen = [case for case in folder.cases if getattr(case, "number", case.name) in wanted]
        several = _Several(tuple(path for case in chosen for path in case.files), folder.path)
        with folder.near(several) as near:
            if (folder.path / DESCRIPTION).is_file():
                shutil.copyfile(folder.path / DESCRIPTION, near.root / DESCRIPTION)
            yield str(near.root)


def source_of(folder: Folder, checked: Mapping[str, str]) -> dict[str, Any]:
    """The part of the index that describes cases in an object store, which are not copied.

    Args:
        folder: the cases.
        checked: the SHA-256 of each checked file, by its name in a folder of checked cases, see `Folder.names`.
    """
    files = {}
    for case in folder.cases:
        for name, path in zip(folder.names(case), case.files, strict=True):
            if name in checked:
                place = path.relative_to(folder.path).as_posix()
                if isinstance(folder.origin, StoreOrigin):
                    size, version = folder.origin.files[place].size, folder.origin.files[place].version
                else:
                    size, version = path.stat().st_size, checked[name]
                files[place] = [size, version, checked[name]]
    store = isinstance(folder.origin, StoreOrigin)
    return {"source": folder.origin.location if store else str(folder.path.absolute()), "files": files}


def _folder(origin: Origin, task: str) -> Folder:
    path = origin.folder
    described = (path / DESCRIPTION).is_file()
    if is_plain(path) and not described:
        return _plain(origin, task)
    if task not in ("", LITS_TASK):
        raise TaskError(
            f"{path}: expected a plain folder, with images and labels but no {DESCRIPTION}, because the task names its "
            f"channels and labels. Received: the task {task}, and "
            f"{f'its {DESCRIPTION}' if described else 'another folder'}. Leave the task out"
        )
    layout = read_layout(path) if described else None
    if layout is None or lits.is_lits(layout):
        try:
            return Folder(origin, lits.find_cases(path), None)
        except NoCasesError as error:
            if layout is None:
                raise NoCasesError(
                    f"{error} Other data need a {DESCRIPTION} that names their channels and labels; see the page Your "
                    "own data."
                ) from None
    return Folder(origin, layout.cases, _reader(path / DESCRIPTION, layout.name, layout.channels, layout.labels))


def _plain(origin: Origin, task: str) -> Folder:
    path = origin.folder
    if not task:
        raise TaskError(
            f"{path}: expected the names of channels and labels. Received: the folders images and labels, which name "
            f"none. Put a {DESCRIPTION} beside them, such as "
            '{"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}}, or name such a file, or lits, '
            "with --set task="
        )
    if task == LITS_TASK:
        names = tuple(channel.name for channel in LITS.channels), LITS.labels
    else:
        names = read_names(task)
    layout = read_layout(path, *names)
    numbers = {case.name: number for number, case in enumerate(layout.cases)} if task == LITS_TASK else {}
    return Folder(origin, layout.cases, _reader(task, layout.name, *names), numbers)


def _reader(where: str | Path, name: str, channels: Sequence[str], labels: tuple[str, ...]) -> TaskReader:
    # The check does not depend on the normalisation, but a CT has to be in HU.
    draft = Percentiles(0, 1, 0, 1)
    described = tuple(Channel(name, draft if Channel(name, draft).is_ct else ZScore()) for name in channels)
    try:
        return TaskReader(Task(name, labels, described))
    except TaskError as error:
        raise TaskError(f"{where}: {error}") from error
