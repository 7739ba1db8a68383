"""Progress of work that Beam does elsewhere, seen by what it leaves on the shared file system."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm

_SECONDS = 1.0


@contextmanager
def progress(done: Callable[[], int], total: int) -> Iterator[None]:
    """Show a bar of cases while the body runs.

    Args:
        done: how many are finished; called every second from another thread.
        total: how many there are.
    """
    stop = threading.Event()
    with tqdm(total=total, desc="Converting cases", unit=" cases", mininterval=_SECONDS) as bar:

        def watch() -> None:
            while not stop.wait(_SECONDS):
                bar.update(done() - bar.n)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            bar.update(done() - bar.n)
