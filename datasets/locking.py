"""One builder at a time in a folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keras_spatial import ownership


class BuildInProgressError(RuntimeError):
    """Another process is building the same data set in the same folder."""


@contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """Hold a lock while the body runs; it ends with this process, however that ends.

    Args:
        lock: file to lock, made if it is not there. It stays, because removing it would let two processes lock two
            files of one name.

    Raises:
        BuildInProgressError: if another process holds it; the message says which.
        OSError: as `keras_spatial.ownership.lock`: if the file cannot be made, is a link, or cannot be locked.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = ownership.lock(lock)
    except ownership.Busy as busy:
        raise BuildInProgressError(
            f"{lock.parent}: another process builds this data set there; wait until it has finished, or give another "
            f"data_dir. Received: {busy}"
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)
