"""Show the progress of Beam's workers, judged by the results that they leave on a shared file system."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm

Tell = Callable[[int, int], None]
"""A function that gets the number of finished cases and the number of all cases whenever the former has changed."""

_SECONDS = 1.0


@contextmanager
def progress(done: Callable[[], int], total: int, tell: Tell | None = None) -> Iterator[None]:
    """Show the progress of cases inside a `with` block.

    Args:
        done: a function that returns how many cases are finished. It is called every second from another thread.
        total: the number of cases.
        tell: a function that gets the progress; by default, `tqdm` shows a progress bar.
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
