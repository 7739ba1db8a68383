"""One run owns a folder, and the processes of its steps end with it.

A run holds a lock in its folder, which its steps share: a second run is refused until the last of them has ended. It
also holds the writing end of a pipe, its lifeline. Linux ends every step when that is closed, however the run ends. A
step finds both by the environment, for what KFP starts inherits no descriptors.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from components import pure

LOCK_VARIABLE, LIFELINE_VARIABLE = "KERAS_SPATIAL_LOCK", "KERAS_SPATIAL_LIFELINE"

# The lock that this process shares with the run that started it.
_shared: list[int] = []


class FolderInUse(RuntimeError):
    """Another run, or a step of it that has not yet ended, uses the folder."""


@contextmanager
def own(path: str | Path) -> Iterator[Callable[[], None]]:
    """Own a folder; what runs inside tells its steps so by `os.environ`.

    Args:
        path: the path of the lock's file in the folder.

    Yields:
        A function that ends all steps at once; no step starts after it.

    Raises:
        FolderInUse: if another run owns the folder.
        OSError: if the path is no plain file.
    """
    ownership = pure.load("ownership")
    try:
        lock = ownership.lock(path)
    except ownership.Busy as busy:
        raise FolderInUse(str(busy)) from None
    lifeline, owned = ownership.lifeline()
    names = {LOCK_VARIABLE: str(Path(path).absolute()), LIFELINE_VARIABLE: _address(lifeline)}
    before = {name: os.environ.get(name) for name in names}

    def end() -> None:
        nonlocal owned
        if owned >= 0:
            ownership.cut(owned)
            owned = -1

    try:
        try:
            ownership.share(lock)
        except ownership.Busy as busy:
            raise FolderInUse(str(busy)) from None
        os.environ.update(names)
        yield end
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        end()
        os.close(lifeline)
        os.close(lock)


def follow() -> None:
    """Tie this process, a step, and what it starts, to the run that started it; nothing where there is none.

    The process exits if that run has ended already.
    """
    address = os.environ.get(LIFELINE_VARIABLE)
    if address is None or _shared:
        return
    ownership = pure.load("ownership")
    os.setpgid(0, 0)  # The lifeline ends the whole group: not that of the shell from which the run was started.
    path, _, identity = address.rpartition("#")
    try:
        lifeline = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        sys.exit("The run that started this step has ended: ending.")
    if _identity(lifeline) != identity:  # The number of the run's process belongs to another one by now.
        sys.exit("The run that started this step has ended: ending.")
    ownership.end_with(lifeline)
    try:
        _shared.append(ownership.lock(os.environ[LOCK_VARIABLE], shared=True))
    except ownership.Busy as busy:
        sys.exit(f"Another run has taken the folder: ending. {busy}")


def locks() -> tuple[int, ...]:
    """Descriptors that what this process starts has to inherit, so that the lock lasts as long as that does."""
    return tuple(_shared)


def set_aside(path: str | Path) -> Path:
    """Rename a file that cannot be used to `<name>.unreadable-<number>`."""
    return pure.load("ownership").set_aside(path)


def sync_folder(folder: str | Path) -> None:
    """Have the disk hold the names of a folder's files, also if the machine loses its power."""
    pure.load("ownership").sync_folder(folder)


def _address(lifeline: int) -> str:
    return f"/proc/{os.getpid()}/fd/{lifeline}#{_identity(lifeline)}"


def _identity(descriptor: int) -> str:
    about = os.fstat(descriptor)
    return f"{about.st_dev}:{about.st_ino}"
