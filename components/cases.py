"""The cases of a step's folder, whatever its layout: LiTS's, or one that `dataset.json` describes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.cases import Case, NoCasesError
from datasets.conversion import AnyCase
from datasets.decathlon.layout import DESCRIPTION, read_layout
from datasets.decathlon.reader import TaskReader
from datasets.lits import cases as lits
from keras_spatial._paths import NIFTI, ending_of
from keras_spatial.volumes import Channel, Limits, Percentiles, Task, TaskError, ZScore


@dataclass(frozen=True)
class Folder:
    """The cases of a folder.

    Attributes:
        path: The path of the folder.
        cases: The cases of one kind.
        reader: The reader of the cases of a folder that is described; None for LiTS.
    """

    path: Path
    cases: Sequence[AnyCase]
    reader: TaskReader | None

    def check(self, case: AnyCase) -> None:
        """Check every voxel of a case, as the data set's builder does.

        Raises:
            VolumeError: named by its subclass.
        """
        if isinstance(case, lits.Case):
            lits.check_case(case.volume, case.segmentation)
        elif self.reader is not None and isinstance(case, Case):
            self.reader.read(case, Limits.current())

    def name_of(self, case: AnyCase, path: Path) -> str:
        """The name of a case's file in a folder of checked cases, relative to it."""
        if isinstance(case, lits.Case):
            part = "volume" if path == case.volume else "segmentation"
            return f"{part}-{case.number}{ending_of(path, NIFTI)}"
        return path.relative_to(self.path).as_posix()


def open_folder(folder: str | Path) -> Folder:
    """Find the cases of a folder: those that its `dataset.json` describes, or without one those with LiTS's names.

    Cases with LiTS's names whose description is LiTS's, such as the Decathlon's liver, are LiTS's: they get its scores.

    Raises:
        NoCasesError: neither is there.
        TaskError: the names of the classes cannot be used.
        VolumeError: as `datasets.lits.find_cases` and `datasets.decathlon.read_layout`.
    """
    path = Path(folder)
    layout = read_layout(path) if (path / DESCRIPTION).is_file() else None
    if layout is None or lits.is_lits(layout):
        try:
            return Folder(path, lits.find_cases(path), None)
        except NoCasesError as error:
            if layout is None:
                raise NoCasesError(
                    f"{error} Other data need a {DESCRIPTION} that names their channels and labels; see the page Your "
                    "own data."
                ) from None
    # How intensities are normalised does not matter while they are checked; a CT has to be in HU.
    draft = Percentiles(0, 1, 0, 1)
    channels = tuple(Channel(name, draft if Channel(name, draft).is_ct else ZScore()) for name in layout.channels)
    try:
        task = Task(layout.name, layout.labels, channels)
    except TaskError as error:
        raise TaskError(f"{path / DESCRIPTION}: {error}") from error
    return Folder(path, layout.cases, TaskReader(task))
