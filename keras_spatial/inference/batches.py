"""Segment many volumes, and continue if one of them cannot be used."""

import csv
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import keras

from keras_spatial import processes
from keras_spatial._paths import partial, printable
from keras_spatial.inference.job import segment_jointly
from keras_spatial.inference.outcomes import Outcome, reason_of, writable
from keras_spatial.inference.segmentation import segment
from keras_spatial.inference.sources import Source
from keras_spatial.inference.tasks import check_fits, common_task
from keras_spatial.volumes import Task

FAILED = "failed.csv"
_HEAD = ("volume", "reason")


def segment_all(
    model: keras.Model | Sequence[keras.Model],
    sources: Sequence[Source],
    folder: str | Path,
    say: Callable[[str], None],
    **options: Any,
) -> list[Outcome]:
    """Segment volumes one after another, report each of them, and list those without a result in `failed.csv`.

    The table is also written if an error or a signal ends the function, and removed if it would be empty. In a job of
    several processes, only the first one reports and writes the table.

    Args:
        model, sources, folder, options: as for `segment_each`.
        say: a function that gets a line about each volume.

    Raises:
        ValueError: as for `segment_each`.

    Example:

    ```python
    sources = ks.inference.find_sources(["scans"])
    outcomes = ks.inference.segment_all(model, sources, "labels", print, task="lits")
    ```
    """
    outcomes: list[Outcome] = []
    first = processes.current().is_first
    each = segment_each(model, sources, folder, **options)
    try:
        for outcome in each:
            outcomes.append(outcome)
            if not first:
                continue
            done = f"{printable(outcome.path)} in {outcome.seconds:.1f} s" if outcome.path else ""
            said = done if outcome.reason is None else f"left out: {outcome.reason}"
            say(f"{len(outcomes)}/{len(sources)} {outcome.source.name}: {writable(said)}")
    finally:
        if first:
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

    In a job of several processes, every process must call it with the same arguments, and all must see the same folder.
    Then one process reads a volume, all of them predict it, each with its own blocks, and the one that has read it
    writes the result. No process holds a whole prediction. As many volumes are in progress at once as there are
    processes.

    Args:
        model, options: as for `segment`. Several processes need one partitioned model, and cannot use `flips` and
            `memory`.
        sources: the volumes, from `find_sources`.
        folder: the folder for the results, which are named by the sources' stems. It is made if it does not exist.
        ending: the ending of the results.
        traffic: one of the options: with several processes, it gets the numbers of bytes that this process reads and
            writes.
        workspace: one of the options: where several processes give each other parts of images, if that is not to be in
            the folder. With a carrier, each process may have a folder of its own.

    Returns:
        An iterator over the outcomes, each yielded when it is known.

    Raises:
        ValueError: if the model does not fit any volume; it is raised before the first one.

    Example:

    ```python
    sources = ks.inference.find_sources(["scans"])
    for outcome in ks.inference.segment_each(model, sources, "labels"):
        print(outcome.source.name, outcome.reason or "segmented")
    ```
    """
    folder = Path(folder)
    task: Task | Literal["lits"] | None = options.get("task")
    models = [model] if isinstance(model, keras.Model) else list(model)
    check_fits(models, common_task(models) if task is None else task if isinstance(task, Task) else None)
    folder.mkdir(parents=True, exist_ok=True)
    if processes.current().count > 1:
        return segment_jointly(models, sources, folder, ending, **options)
    for name in ("traffic", "workspace"):
        options.pop(name, None)
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
                # Any error of one volume must not cost the results of the others.
                reason = reason_of(error, source)
        yield Outcome(source, None if reason else path, reason, time.perf_counter() - started)


def write_failed(folder: str | Path, outcomes: Sequence[Outcome]) -> Path | None:
    """Write the table of the volumes that have no result, with the reasons: `failed.csv`.

    Rows of earlier calls are kept, except for the volumes of this call. A table without rows is removed.

    Returns:
        The path of the file, or None if every volume has its result.

    Example:

    ```python
    sources = ks.inference.find_sources(["scans"])
    outcomes = list(ks.inference.segment_each(model, sources, "labels"))
    ks.inference.write_failed("labels", outcomes)
    ```
    """
    tried = {outcome.source.name for outcome in outcomes}
    rows = [row for row in read_failed(folder) if row[0] not in tried]
    rows += [(outcome.source.name, outcome.reason) for outcome in outcomes if outcome.reason is not None]
    return write_rows(folder, rows)


def write_rows(folder: str | Path, rows: Sequence[tuple[str, str]]) -> Path | None:
    """Write `failed.csv` with a volume and a reason in each row, or remove it if there are no rows.

    If the new table cannot be written, an earlier one is kept.
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
    """Read the volumes and the reasons in a `failed.csv`; there are none if the file is missing or is another kind of
    table.
    """
    try:
        with (Path(folder) / FAILED).open(newline="", encoding="utf-8") as file:
            head, *rows = csv.reader(file)
    except (OSError, ValueError, csv.Error):
        return []
    return [(row[0], row[1]) for row in rows if len(row) == 2] if tuple(head) == _HEAD else []
