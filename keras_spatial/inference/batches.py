"""Segment many volumes, and continue if one of them cannot be used."""

import csv
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from keras_spatial.inference.segmentation import segment
from keras_spatial.inference.sources import Source
from keras_spatial.volumes import VolumeError

FAILED = "failed.csv"


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

    Yields:
        The outcome of each volume as soon as it is known.

    Raises:
        ValueError: if the model or the options do not fit any volume.

    Example:

    ```python
    for outcome in ks.inference.segment_each(model, ks.inference.find_sources(["scans"]), "results"):
        print(outcome.source.name, outcome.reason or outcome.path)
    ```
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for source in sources:
        started = time.perf_counter()
        path, reason = folder / (source.stem + ending), source.unusable(ending)
        if reason is None:
            reason = _reason(lambda s=source, p=path: segment(model, s.volume, p, **options))
        yield Outcome(source, None if reason else path, reason, time.perf_counter() - started)


def write_failed(folder: str | Path, outcomes: Sequence[Outcome]) -> Path:
    """Write `failed.csv`, the table of the volumes without a result and of the reasons, and return its path."""
    path = Path(folder) / FAILED
    rows = [(outcome.source.name, outcome.reason) for outcome in outcomes if outcome.reason is not None]
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        csv.writer(file).writerows([("volume", "reason"), *rows])
    return path


def _reason(attempt: Callable[[], object]) -> str | None:
    try:
        attempt()
    except VolumeError as error:
        return f"{type(error).__name__}: {error}"
    return None
