"""Backups of a training run: its state is written every few steps, and a restarted run resumes from there."""

import errno
import json
import os
import socket
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_spatial import keras_private, ownership, processes
from keras_spatial._paths import regular
from keras_spatial.runtimes.collective import broadcast_variables
from keras_spatial.runtimes.synchronize import state_of

LOCK = ".backup.lock"
"""The name of the file in a backup's folder that the running training keeps locked."""
# Reading a truncated, empty or changed file raises one of these: NumPy, zipfile and zlib each have their own.
_DAMAGED = (
    *(AttributeError, EOFError, IndexError, KeyError, OverflowError, RuntimeError, TypeError, ValueError),
    *(struct.error, zipfile.BadZipFile, zlib.error),
)
# The folders that this process has locked. A folder stays locked after a failed `fit`, for the next `fit`.
_locked: dict[Path, int] = {}


class Backup(keras.callbacks.Callback):
    """Writes the whole state of training while `fit` runs, and restores it when `fit` is started again.

    The state consists of the weights, moving averages, random seeds, optimizer, metrics, epoch and step. Whenever the
    process is killed, the file is either complete or absent. A run that resumes on the same mesh ends with exactly the
    same weights as an uninterrupted one, bit for bit, if its data come in the same order: the steps of the epoch that
    are already done read their batches and discard them. A run may also resume on another mesh.

    The metrics of the epoch in which a restored run begins are those of its remaining steps.

    A file that cannot be read, for example because the disk has lost part of it, is renamed to
    `backup.npz.unreadable-1`; training then starts from the beginning, with a warning. While `fit` runs, its first
    process holds a lock in the folder, so that a second training cannot mix its backups with those of the first.

    Every process of a job must use the callback; only the first one reads and writes.

    Args:
        folder: the folder of the file `backup.npz`. Only the first process needs access to it.
        steps: the number of batches between two backups.
        keep: whether to keep the file after training has ended.

    Raises:
        ValueError: if `steps` is not positive, the model has no mesh, or the file is that of another model.
        RuntimeError: in all processes, if another training uses the folder.

    Example:

    ```python
    model.fit(dataset, epochs=3, callbacks=[ks.Backup("runs/liver", steps=50)])
    ```
    """

    def __init__(self, folder: str | os.PathLike, steps: int = 100, keep: bool = False):
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps must be at least 1. Received: {steps!r}")
        self.path: Path = Path(folder) / "backup.npz"
        self.steps = steps
        self.keep = keep
        self._epoch = 0
        self._since = 0
        self._skipping = False
        self._metrics: list[np.ndarray] | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if getattr(self.model, "distribution", None) is None:
            raise ValueError("ks.Backup is for models on a mesh; keras.callbacks.BackupAndRestore is for others.")
        self.take_folder()
        job = processes.current()
        position = tf.Variable(tf.zeros([2], tf.int64))
        metrics = [tf.Variable(v) for v in self.model.metrics_variables]
        if job.is_first:
            # A run that was killed while writing has left these.
            for part in self.path.parent.glob(f"{self.path.name}.*.part"):
                part.unlink(missing_ok=True)
        if job.is_first and read_position(self.path) is not None:
            position.assign(_restore(self.path, state_of(self.model), metrics))
        if job.count > 1:
            broadcast_variables([position, *metrics, *state_of(self.model)], job)
        epoch, step = (int(value) for value in position.numpy())
        if epoch or step:
            keras_private.start_with_epoch(self.model, epoch)
            self.model._partition.skip = step
            self._metrics = [m.numpy() for m in metrics]

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch = epoch
        if self._metrics is not None:
            for variable, value in zip(self.model.metrics_variables, self._metrics, strict=False):
                variable.assign(value)
            self._metrics = None
        self._skipping = self.model._partition.skip > 0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self._skipping:
            self._skipping = self.model._partition.skip > 0
            return
        self._since += 1
        last = batch + 1 == self.params.get("steps")
        if self._since >= self.steps and not last:  # After the last step `on_epoch_end` writes.
            self._write(self._epoch, batch + 1)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._write(epoch + 1, 0)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        keras_private.start_with_epoch(self.model, None)
        if processes.current().is_first and not self.keep:
            self.path.unlink(missing_ok=True)
        descriptor = _locked.pop(self.path.parent.resolve(), None)
        if descriptor is not None:
            os.close(descriptor)

    def take_folder(self) -> None:
        """Lock the folder until training ends, as `fit` does; call it yourself to look into the folder before `fit`.

        Raises:
            RuntimeError: in all processes, if another training uses the folder.
        """
        job, refused = processes.current(), ""
        if job.is_first and self.path.parent.resolve() not in _locked:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                _locked[self.path.parent.resolve()] = ownership.lock(self.path.with_name(LOCK))
            except ownership.Busy as busy:
                refused = (
                    f"another training writes its backups to this folder ({busy}). Choose another folder, or end that "
                    "training"
                )
            except ownership.NoLocks as error:
                warnings.warn(
                    f"{error}. Nothing prevents a second training from mixing its backups with those of this one: make "
                    "sure that no other training uses this folder.",
                    stacklevel=2,
                )
            except OSError as error:
                refused = f"cannot be used for backups. Received: {error}"
        refused = job.exchange("folder of the backups", refused)[0]
        if refused:
            raise RuntimeError(f"{self.path.parent} on {socket.gethostname()}: {refused}.")

    def _write(self, epoch: int, step: int) -> None:
        self._since = 0
        if processes.current().is_first:
            write(self.path, state_of(self.model), self.model.metrics_variables, epoch, step)


def write(path: Path, variables: list, metrics: list, epoch: int, step: int) -> None:
    """Write a state atomically: it is on the disk under a temporary name before it replaces the previous state."""
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"epoch": epoch, "step": step, "shapes": _shapes(variables), "metrics": _shapes(metrics)}
    arrays: dict[str, Any] = {"about": np.array(json.dumps(about))}
    arrays |= {f"variable{i}": _bits(v) for i, v in enumerate(variables)}
    arrays |= {f"metric{i}": _bits(v) for i, v in enumerate(metrics)}
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        ownership.sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def read_position(path: Path, *, set_aside: bool = True) -> tuple[int, int] | None:
    """The epoch and step from which a backup resumes. Every byte of the file is checked first.

    Args:
        path: the path of the file.
        set_aside: whether to rename a file that cannot be read, with a warning. Only one process may set it.

    Returns:
        Epoch and step, counted from 0; None if there is no file or it cannot be read.
    """
    try:
        with np.load(regular(path)) as file:
            # By the checksum of each array, before anything is allocated that a damaged header asks for.
            damaged = file.zip.testzip()
            if damaged is not None:
                raise ValueError(f"the checksum of {damaged} is wrong")
            about = json.loads(str(file["about"]))
            missing = {f"variable{i}" for i in range(len(about["shapes"]))} - set(file.files)
            missing |= {f"metric{i}" for i in range(len(about["metrics"]))} - set(file.files)
            if missing:
                raise ValueError(f"it lacks {', '.join(sorted(missing)[:3])}")
            return int(about["epoch"]), int(about["step"])
    except FileNotFoundError:
        return None
    except (OSError, *_DAMAGED) as error:
        # Other errors of the system, such as missing permissions, say nothing about the file's content.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL, errno.EISDIR):
            raise
        if set_aside:
            aside = ownership.set_aside(path)
            warnings.warn(
                f"{path} is not a readable backup ({type(error).__name__}: {error}). It was renamed to "
                f"{aside.name}; training starts from the beginning.",
                stacklevel=2,
            )
        return None


def _restore(path: Path, variables: list, metrics: list) -> tuple[int, int]:
    """Assign a state that `read_position` has verified, and return its epoch and step."""
    with np.load(path) as file:
        about = json.loads(str(file["about"]))
        found = {name: file[name] for name in file.files if name != "about"}
    if about["shapes"] != _shapes(variables):
        pairs = zip(about["shapes"], _shapes(variables), strict=False)
        different = next(((theirs, ours) for theirs, ours in pairs if theirs != ours), None)
        raise ValueError(
            f"{path} is the backup of another model or optimizer: choose another folder, or remove it to start again. "
            f"Received: {len(about['shapes'])} variables, expected {len(variables)}; the first two that differ are "
            f"{different}"
        )
    for i, variable in enumerate(variables):
        variable.assign(found[f"variable{i}"].view(_dtype(variable)).reshape(variable.shape))
    # Metrics that are not built yet have no variables; they start from zero.
    if about["metrics"] == _shapes(metrics):
        for i, metric in enumerate(metrics):
            metric.assign(found[f"metric{i}"].view(_dtype(metric)).reshape(metric.shape))
    return about["epoch"], about["step"]


def _shapes(variables: list) -> list:
    return [[list(v.shape), _dtype(v).name] for v in variables]


def _dtype(variable) -> np.dtype:
    return tf.as_dtype(variable.dtype).as_numpy_dtype(0).dtype


def _bits(variable) -> np.ndarray:
    """A variable's bytes, because NumPy's file format has no bfloat16."""
    return np.frombuffer(np.asarray(variable.numpy()).tobytes(), np.uint8)
