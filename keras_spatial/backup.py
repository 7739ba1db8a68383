"""A training run that survives: its state is written every few steps, and a restarted run resumes from there."""

import errno
import json
import os
import socket
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_spatial import keras_private, ownership, processes
from keras_spatial.runtimes.collective import broadcast_variables
from keras_spatial.runtimes.synchronize import state_of

LOCK = ".backup.lock"
"""Name of the file in a backup's folder that its training holds locked."""
# What reading a file that is cut, empty or changed raises: NumPy, zipfile and zlib each have their own.
_DAMAGED = (EOFError, IndexError, KeyError, NotImplementedError, TypeError, ValueError, zipfile.BadZipFile, zlib.error)
# The folders that this process has locked. One whose `fit` failed keeps its folder, for the next `fit`.
_locked: dict[Path, int] = {}


class Backup(keras.callbacks.Callback):
    """Writes the whole state of training while `fit` runs, and restores it when `fit` is started again.

    The state is the weights, moving averages, random seeds, the optimizer, metrics, epoch and step. A file is complete
    or absent, whenever the process is killed. A run that resumes on the same mesh ends with the same weights, bit for
    bit, as one without interruption, if its data come in the same order: the steps of the epoch that were done already
    read their batches and drop them. The mesh may also be another one.

    Metrics of the epoch that a restored run begins in are those of its remaining steps.

    A file that cannot be read, because a disk has lost a part of it, is renamed to `backup.npz.unreadable-1`; training
    then starts from the beginning, with a warning. While `fit` runs, its first process holds a lock in the folder, so
    that a second training cannot mix its backups with those of the first.

    All processes of a job use the callback; the first one reads and writes.

    Args:
        folder: where the file `backup.npz` lies. Of many processes only the first needs to see it.
        steps: batches between two backups.
        keep: whether the file stays when training has come to its end.

    Raises:
        ValueError: if `steps` is not positive, the model has no mesh, or the file is that of another model.
        RuntimeError: in all processes, if another training uses the folder.

    Example:

    ```python
    model.fit(dataset, epochs=100, callbacks=[ks.Backup("runs/liver", steps=50)])
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
            # What a run that was killed in the middle of writing has left.
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
        if self._since >= self.steps and batch + 1 != self.params.get(
            "steps"
        ):  # An epoch's last step waits for its end.
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
        """Lock the folder until the end of the training, as `fit` does; earlier for what looks into it before.

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
                    f"another training writes its backups to this folder ({busy}). Choose another folder, or end it"
                )
            except ownership.NoLocks as error:
                warnings.warn(
                    f"{error}. Nothing keeps a second training from mixing its backups with those of this one: see to "
                    "it that there is none.",
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
    """Write a state in one piece: under another name first, and on the disk before it takes the place of the last."""
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
    """The epoch and step at which a backup resumes, after every byte of it has been checked.

    Args:
        path: of the file.
        set_aside: whether to rename a file that cannot be read, with a warning. Of many processes only one does this.

    Returns:
        Epoch and step, from 0; None if there is no file, or none that can be read.
    """
    try:
        with np.load(path) as file:
            about = json.loads(str(file["about"]))
            damaged = file.zip.testzip()  # By the checksum of each array.
            if damaged is not None:
                raise ValueError(f"the checksum of {damaged} is wrong")
            missing = {f"variable{i}" for i in range(len(about["shapes"]))} - set(file.files)
            missing |= {f"metric{i}" for i in range(len(about["metrics"]))} - set(file.files)
            if missing:
                raise ValueError(f"it lacks {', '.join(sorted(missing)[:3])}")
            return int(about["epoch"]), int(about["step"])
    except FileNotFoundError:
        return None
    except (OSError, *_DAMAGED) as error:
        # The system's other errors, such as missing rights, say nothing about what the file holds.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL, errno.EISDIR):
            raise
        if set_aside:
            aside = ownership.set_aside(path)
            warnings.warn(
                f"{path} is not a backup that can be read ({type(error).__name__}: {error}). It was renamed to "
                f"{aside.name}; training starts from the beginning.",
                stacklevel=2,
            )
        return None


def _restore(path: Path, variables: list, metrics: list) -> tuple[int, int]:
    """Assign a state that `read_position` has found readable; return its epoch and step."""
    with np.load(path) as file:
        about = json.loads(str(file["about"]))
        found = {name: file[name] for name in file.files if name != "about"}
    if about["shapes"] != _shapes(variables):
        pairs = zip(about["shapes"], _shapes(variables), strict=False)
        different = next(((theirs, ours) for theirs, ours in pairs if theirs != ours), None)
        raise ValueError(
            f"{path} is the backup of another model or optimizer: choose another folder, or remove it to start again. "
            f"Received: {len(about['shapes'])} variables, expected {len(variables)}; the first "
            f"that differ: {different}"
        )
    for i, variable in enumerate(variables):
        variable.assign(found[f"variable{i}"].view(_dtype(variable)).reshape(variable.shape))
    # Metrics that were not built yet have no variables; those begin again.
    if about["metrics"] == _shapes(metrics):
        for i, metric in enumerate(metrics):
            metric.assign(found[f"metric{i}"].view(_dtype(metric)).reshape(metric.shape))
    return about["epoch"], about["step"]


def _shapes(variables: list) -> list:
    return [[list(v.shape), _dtype(v).name] for v in variables]


def _dtype(variable) -> np.dtype:
    return tf.as_dtype(variable.dtype).as_numpy_dtype(0).dtype


def _bits(variable) -> np.ndarray:
    """A variable's bytes: NumPy's files know no bfloat16."""
    return np.frombuffer(np.asarray(variable.numpy()).tobytes(), np.uint8)
