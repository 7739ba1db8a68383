"""Let only one process at a time build a data set in a folder."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keras_spatial import ownership

logger = logging.getLogger(__name__)
_POLL_SECONDS = 1.0


class BuildInProgressError(RuntimeError):
    """Another process is building the same data set in the same folder."""


@contextmanager
def exclusive(lock: Path, folder: str = "data_dir", *, patience: float = 0.0) -> Iterator[None]:
    """Hold a lock inside a `with` block. However this process ends, the lock is released.

    If its machine ends, a network file system may hold the lock for a while, or until the machine is back.

    Args:
        lock: the file to lock, which is made if it does not exist. It is not removed, because two processes could then
            lock two files of the same name.
        folder: the argument that names the folder of the lock, for the message.
        patience: for how many seconds to wait if another process seems to hold the lock.

    Raises:
        BuildInProgressError: if another process holds it, and still does so after the patience; the message says which.
        OSError: if the file cannot be made, is a link, or cannot be locked.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _taken(lock, folder, patience)
    try:
        yield
    finally:
        os.close(descriptor)


def _taken(lock: Path, folder: str, patience: float) -> int:
    """The descriptor of the lock, once it is free; see `exclusive`."""
    end, told = time.monotonic() + patience, False
    while True:
        try:
            return ownership.lock(lock)
        except ownership.Busy as error:
            busy = error
        left = end - time.monotonic()
        if left <= 0:
            break
        if not told:
            logger.warning("%s; waiting up to %.0f s: the machine of that process may be lost", busy, patience)
            told = True
        time.sleep(min(_POLL_SECONDS, left))
    # The caller waits where a lock can outlive its holder. Elsewhere its holder lives, and the file must stay.
    remedy = f" If the machine of that process is known to be lost, remove {lock} and try again." if patience else ""
    raise BuildInProgressError(
        f"{lock.parent}: another process is building this data set; wait until it has finished, or give another "
        f"{folder}.{remedy} Received: {busy}"
    )
