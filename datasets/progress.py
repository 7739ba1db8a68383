"""Progress of work that Beam does elsewhere, seen by what it leaves on the shared file system."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm

Tell = Callable[[int, int], None]
"""Told how many cases are done, and how many there are, whenever that has changed."""

_SECONDS = 1.0


@contextmanager
def progress(done: Callable[[], int], total: int, tell: Tell | None = None) -> Iterator[None]:
    """Show the progress of cases while the body runs.

    Args:
        done: returns how many cases are finished; it is called every second from another thread.
        total: the number of cases.
        tell: is told the progress. By default a bar of `tqdm` shows it.
    """
    stop = threading.Event()
    with tqdm(
        total=total, desc="Converting cases", unit=" cases", mininterval=_SECONDS, disable=True if tell else None
    ) as bar:
        shown = 0

        def show() -> None:
            nonlocal shown
            now = done()
            if now == shown:
                return
            bar.update(now - shown)
            shown = now
            if tell is not None:
                tell(now, total)

        def watch() -> None:
            while not stop.wait(_SECONDS):
                show()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            show()
