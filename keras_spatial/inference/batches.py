"""Segmenting many volumes, of which a bad one stops no other."""

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
    """What became of one volume.

    Attributes:
        source: the volume.
        path: the result; None where there is none.
        reason: why there is none, or None.
        seconds: that it took.
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
    """Segment volumes one after another; those that cannot be used are named and stop no other.

    Args:
        model, options: as for `segment`.
        sources: of `find_sources`.
        folder: for the results, named by the sources' stems; made if it is not there.
        ending: of the results.

    Yields:
        The outcome of each, when it is there.

    Raises:
        ValueError: the model or the options do not fit any volume.
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
    """Write the table of the volumes that have no result, with the reasons: `failed.csv`."""
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
