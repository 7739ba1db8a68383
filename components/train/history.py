"""The course of a training: one line per epoch, in a file that outlives the process."""

import json
import time
from pathlib import Path
from typing import Any

import keras


class EpochLog(keras.callbacks.Callback):
    """Prints a line per epoch, and appends it as JSON to a file, from which a restarted training goes on.

    Args:
        path: of the file, one JSON object per line: epoch (from 0), seconds of training until its end, values by name.
        epochs: of the whole training, for the printed line.
    """

    first_process_only = True

    def __init__(self, path: Path, epochs: int):
        super().__init__()
        self.path, self.epochs = path, epochs
        self._before = elapsed(path)
        self._started = time.monotonic()

    def on_train_begin(self, logs=None):
        self._started = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        values = {name: float(value) for name, value in (logs or {}).items()}
        seconds = self._before + time.monotonic() - self._started
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"epoch": epoch, "seconds": seconds, "values": values}) + "\n")
        text = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        print(f"train: epoch {epoch + 1}/{self.epochs}, {seconds:.0f} s: {text}", flush=True)


def read_epochs(path: Path) -> list[dict[str, Any]]:
    """The epochs in order. An epoch that was logged twice, before and after a restart, counts as it was last.

    A last line that a killed process left incomplete is left out: its epoch was not backed up either.
    """
    found: dict[int, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        found[entry["epoch"]] = entry
    return [found[epoch] for epoch in sorted(found)]


def elapsed(path: Path) -> float:
    """Seconds of training until the end of the last logged epoch; 0 without a log."""
    epochs = read_epochs(path)
    return float(epochs[-1]["seconds"]) if epochs else 0.0


def history(path: Path) -> dict[str, list[float]]:
    """Values by name, as in Keras's `History.history`: validation values are there for some epochs only."""
    result: dict[str, list[float]] = {}
    for entry in read_epochs(path):
        for name, value in entry["values"].items():
            result.setdefault(name, []).append(value)
    return result
