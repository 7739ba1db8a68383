"""The cases of a step's folder, whatever its layout: LiTS's, one that `dataset.json` describes, or a plain one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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
from keras_spatial._paths import NIFTI, VOLUMES, ending_of
from keras_spatial.volumes import LITS, Channel, Limits, Percentiles, Task, TaskError, Volume, ZScore

LITS_TASK = "lits"
"""The name of LiTS's task, in the place of a file that describes one."""


@dataclass(frozen=True)
class Folder:
    """The cases of a folder.

    Attributes:
        path: the path of the folder.
        cases: the cases, all of one kind.
        reader: the reader of the cases of a folder that is described; None for files in the form of LiTS.
        numbers: by name, the numbers that cases in a plain folder get as those of LiTS; empty for another task.
    """

    path: Path
    cases: Sequence[AnyCase]
    reader: TaskReader | None
    numbers: Mapping[str, int] = field(default_factory=dict)

    def check(self, case: AnyCase) -> tuple[list[Volume], Volume]:
        """Check every voxel of a case, as the data set's builder does.

        Returns:
            Its channels and its labels; those of a described folder in canonical (RAS) order.

        Raises:
            VolumeError: named by its subclass.
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
        """Whether a step that copies a case has to write it anew, as NIfTI files: a file of DICOM names the patient,
        and LiTS has NIfTI files alone."""
        return not all(ending_of(path, NIFTI if self.numbers else VOLUMES) for path in case.files)

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


def open_folder(folder: str | Path, task: str = "") -> Folder:
    """Find the cases of a folder: those that its `dataset.json` describes, or without one those with LiTS's names, or
    those of a plain folder.

    Cases with LiTS's names whose description is LiTS's, such as the Decathlon's liver, are LiTS's: they get its scores.

    Args:
        folder: the path of the folder.
        task: for a plain folder without `dataset.json`, the path of a file that names channels and labels (see
            `datasets.decathlon.layout.read_names`), or "lits", whose cases are numbered in the order of their names.

    Raises:
        NoCasesError: if none of these is there.
        TaskError: if the names of the classes cannot be used, nothing names them, or two things do.
        VolumeError: as `datasets.lits.find_cases` and `datasets.decathlon.read_layout`.
    """
    path = Path(folder)
    described = (path / DESCRIPTION).is_file()
    if is_plain(path) and not described:
        return _plain(path, task)
    if task not in ("", LITS_TASK):
        raise TaskError(
            f"{path}: expected a plain folder, images and labels without a {DESCRIPTION}, whose channels and labels a "
            f"task names. Received: the task {task}, and {f'its {DESCRIPTION}' if described else 'another folder'}. "
            "Leave the task out"
        )
    layout = read_layout(path) if described else None
    if layout is None or lits.is_lits(layout):
        try:
            return Folder(path, lits.find_cases(path), None)
        except NoCasesError as error:
            if layout is None:
                raise NoCasesError(
                    f"{error} Other data need a {DESCRIPTION} that names their channels and labels; see the page Your "
                    "own data."
                ) from None
    return Folder(path, layout.cases, _reader(path / DESCRIPTION, layout.name, layout.channels, layout.labels))


def _plain(path: Path, task: str) -> Folder:
    if not task:
        raise TaskError(
            f"{path}: expected the names of channels and labels. Received: the folders images and labels, which name "
            f"none. Put a {DESCRIPTION} beside them, such as "
            '{"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}}, or give such a file, or lits, by '
            "--set task="
        )
    if task == LITS_TASK:
        names = tuple(channel.name for channel in LITS.channels), LITS.labels
    else:
        names = read_names(task)
    layout = read_layout(path, *names)
    numbers = {case.name: number for number, case in enumerate(layout.cases)} if task == LITS_TASK else {}
    return Folder(path, layout.cases, _reader(task, layout.name, *names), numbers)


def _reader(where: str | Path, name: str, channels: Sequence[str], labels: tuple[str, ...]) -> TaskReader:
    # How intensities are normalised does not matter while they are checked; a CT has to be in HU.
    draft = Percentiles(0, 1, 0, 1)
    described = tuple(Channel(name, draft if Channel(name, draft).is_ct else ZScore()) for name in channels)
    try:
        return TaskReader(Task(name, labels, described))
    except TaskError as error:
        raise TaskError(f"{where}: {error}") from error
