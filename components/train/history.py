"""The course of a training: one line per epoch, in a file that is kept across restarts."""

import time
from pathlib import Path
from typing import Any

import keras

from components import console
from components.console import readable
from components.files import append_json, read_jsons
from components.train.best import plain_name


class EpochLog(keras.callbacks.Callback):
    """Prints a line per epoch, and appends it as JSON to a file, from which a restarted training resumes.

    Args:
        path: the path of the file. Each of its lines is a JSON object with the epoch (from 0), the seconds of training
            until its end, and the values by name.
        epochs: the number of epochs of the whole training, from which the time left is estimated.
        minutes: the training ends after this many minutes; 0 means no limit.
    """

    first_process_only = True

    def __init__(self, path: Path, epochs: int, minutes: float = 0.0):
        super().__init__()
        self.path, self.epochs, self.minutes = path, epochs, minutes
        self._first: int | None = None
        self._before = elapsed(path)
        self._started = time.monotonic()

    def on_train_begin(self, logs=None):
        self._started = time.monotonic()

    def on_epoch_begin(self, epoch, logs=None):
        self._first = epoch if self._first is None else self._first

    def on_epoch_end(self, epoch, logs=None):
        values = {plain_name(name): float(value) for name, value in (logs or {}).items()}
        here = time.monotonic() - self._started
        seconds = self._before + here
        append_json(self.path, {"epoch": epoch, "seconds": seconds, "values": values})
        done = epoch + 1 - (self._first or 0)
        left = here / done * (self.epochs - epoch - 1)
        if self.minutes:
            left = max(min(left, 60 * self.minutes - seconds), 0.0)
        said = f"after {readable(seconds)}, about {readable(left)} left: {console.figures(values)}"
        console.progress("train", epoch + 1, self.epochs, said, unit="epoch")


def read_epochs(path: Path) -> list[dict[str, Any]]:
    """The logged epochs in order. If an epoch was logged before and after a restart, its last line counts.

    Lines that a killed process has left incomplete are skipped, because their epochs were not backed up either.
    """
    found: dict[int, dict[str, Any]] = {}
    for entry in read_jsons(path):
        if _is_epoch(entry):
            found[entry["epoch"]] = entry
    return [found[epoch] for epoch in sorted(found)]


def _is_epoch(entry: dict[str, Any]) -> bool:
    values = entry.get("values")
    return (
        isinstance(entry.get("epoch"), int)
        and isinstance(values, dict)
        and all(isinstance(value, (int, float)) for value in (entry.get("seconds"), *values.values()))
    )


def elapsed(path: Path) -> float:
    """The seconds of training until the end of the last logged epoch; 0 without a log."""
    epochs = read_epochs(path)
    return float(epochs[-1]["seconds"]) if epochs else 0.0


def history(path: Path) -> dict[str, list[float]]:
    """The values of all epochs by name, as in Keras's `History.history`: only some epochs have validation values."""
    result: dict[str, list[float]] = {}
    for entry in read_epochs(path):
        for name, value in entry["values"].items():
            result.setdefault(name, []).append(value)
    return result
