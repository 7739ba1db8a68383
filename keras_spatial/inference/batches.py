"""Segment many volumes, and continue if one of them cannot be used."""

import csv
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import keras

from keras_spatial._paths import partial, printable
from keras_spatial.inference.segmentation import segment
from keras_spatial.inference.sources import Source
from keras_spatial.inference.tasks import check_fits, common_task
from keras_spatial.volumes import Series, Task, VolumeError

FAILED = "failed.csv"
_HEAD = ("volume", "reason")
# Errors of TensorFlow may hold a whole graph.
_REASON = 500


@dataclass(frozen=True, eq=False)
class Outcome:
    """The outcome for one volume.

    Attributes:
        source: the volume.
        path: the path of the result; None if there is none.
        reason: why there is no result; None if there is one.
        seconds: how long it took, in seconds.
    """

    source: Source
    path: Path | None
    reason: str | None
    seconds: float


def segment_all(
    model: keras.Model | Sequence[keras.Model],
    sources: Sequence[Source],
    folder: str | Path,
    say: Callable[[str], None],
    **options: Any,
) -> list[Outcome]:
    """Segment volumes one after another, say what became of each, and list those without a result in `failed.csv`.

    The table is written however this ends, and removed where it would be empty.

    Args:
        model, sources, folder, options: as for `segment_each`.
        say: takes a line for each volume.

    Raises:
        ValueError: see `segment_each`.
    """
    outcomes: list[Outcome] = []
    each = segment_each(model, sources, folder, **options)
    try:
        for outcome in each:
            outcomes.append(outcome)
            done = f"{printable(outcome.path)} in {outcome.seconds:.1f} s" if outcome.path else ""
            said = done if outcome.reason is None else f"left out: {outcome.reason}"
            say(f"{len(outcomes)}/{len(sources)} {outcome.source.name}: {_writable(said)}")
    finally:
        write_failed(folder, outcomes)
    return outcomes


def segment_each(
    model: keras.Model | Sequence[keras.Model],
    sources: Sequence[Source],
    folder: str | Path,
    *,
    ending: str = ".nii.gz",
    **options: Any,
) -> Iterator[Outcome]:
    """Segment volumes one after another. Volumes that cannot be used are reported and do not stop the others.

    Args:
        model, options: as for `segment`.
        sources: the volumes, from `find_sources`.
        folder: the folder for the results, which are named by the sources' stems. It is made if it does not exist.
        ending: the ending of the results.

    Returns:
        The outcome of each, when it is there.

    Raises:
        ValueError: if the model does not fit any volume; it is raised before the first one.
    """
    folder = Path(folder)
    task: Task | Literal["lits"] | None = options.get("task")
    models = [model] if isinstance(model, keras.Model) else list(model)
    check_fits(models, common_task(models) if task is None else task if isinstance(task, Task) else None)
    folder.mkdir(parents=True, exist_ok=True)
    return _each(models, sources, folder, ending, options)


def _each(
    models: Sequence[keras.Model], sources: Sequence[Source], folder: Path, ending: str, options: Mapping[str, Any]
) -> Iterator[Outcome]:
    for source in sources:
        started = time.perf_counter()
        path, reason = folder / (source.stem + ending), source.unusable(ending)
        if reason is None:
            try:
                segment(models, source.volume, path, **options)
            except Exception as error:
                # Whatever it is: of a night's work, one volume must not cost the others.
                reason = _reason(error, source)
        yield Outcome(source, None if reason else path, reason, time.perf_counter() - started)


def write_failed(folder: str | Path, outcomes: Sequence[Outcome]) -> Path | None:
    """Write the table of the volumes that have no result, with the reasons: `failed.csv`.

    What an earlier call has listed stays, but for the volumes of this one. A table without rows is removed.

    Returns:
        The file, or None if every volume has its result.
    """
    tried = {outcome.source.name for outcome in outcomes}
    rows = [row for row in read_failed(folder) if row[0] not in tried]
    rows += [(outcome.source.name, outcome.reason) for outcome in outcomes if outcome.reason is not None]
    return write_rows(folder, rows)


def write_rows(folder: str | Path, rows: Sequence[tuple[str, str]]) -> Path | None:
    """Write `failed.csv` with a volume and a reason in each row, or remove it where there are none.

    A table that is there stays whole where the new one cannot be written.
    """
    path = Path(folder) / FAILED
    if not rows:
        path.unlink(missing_ok=True)
        return None
    part = partial(path)
    try:
        with part.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            csv.writer(file).writerows([_HEAD, *rows])
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def read_failed(folder: str | Path) -> list[tuple[str, str]]:
    """The volumes and the reasons in a `failed.csv`; none if there is no such table, or it is somebody else's."""
    try:
        with (Path(folder) / FAILED).open(newline="", encoding="utf-8") as file:
            head, *rows = csv.reader(file)
    except (OSError, ValueError, csv.Error):
        return []
    return [(row[0], row[1]) for row in rows if len(row) == 2] if tuple(head) == _HEAD else []


def _reason(error: Exception, source: Source) -> str:
    text = str(error)
    # The message of an operating system's error holds paths, and those of a series may hold the patient's name.
    if isinstance(error, OSError) and error.strerror and isinstance(source.volume, Series):
        text = error.strerror
    if not isinstance(error, VolumeError) and len(text) > _REASON:
        text = f"{text[:_REASON]}..."
    return f"{type(error).__name__}: {_writable(text)}"


def _writable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
