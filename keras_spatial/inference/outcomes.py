"""The outcome for each of many volumes."""

from dataclasses import dataclass
from pathlib import Path

from keras_spatial.inference.sources import Source
from keras_spatial.volumes import Series, VolumeError

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


def reason_of(error: Exception, source: Source) -> str:
    """Why a volume has no result, in one line for a table."""
    text = str(error)
    # The message of an operating system's error holds paths, and those of a series may hold the patient's name.
    if isinstance(error, OSError) and error.strerror and isinstance(source.volume, Series):
        text = error.strerror
    if not isinstance(error, VolumeError) and len(text) > _REASON:
        text = f"{text[:_REASON]}..."
    return f"{type(error).__name__}: {writable(text)}"


def writable(text: str) -> str:
    """The text in a form that can be written as UTF-8, whatever it contains."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
