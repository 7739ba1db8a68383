"""Let only one process at a time build a data set in a folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keras_spatial import ownership


class BuildInProgressError(RuntimeError):
    """Another process is building the same data set in the same folder."""


@contextmanager
def exclusive(lock: Path, folder: str = "data_dir") -> Iterator[None]:
    """Hold a lock inside a `with` block. However this process ends, the lock is released.

    Args:
        lock: the file to lock, which is made if it does not exist. It is not removed, because two processes could then
            lock two files of the same name.
        folder: the argument that names the folder of the lock, for the message.

    Raises:
        BuildInProgressError: if another process holds it; the message says which.
        OSError: if the file cannot be made, is a link, or cannot be locked.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = ownership.lock(lock)
    except ownership.Busy as busy:
        raise BuildInProgressError(
            f"{lock.parent}: another process is building this data set; wait until it has finished, or give another "
            f"{folder}. Received: {busy}"
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)
