"""A run owns its folder, and the processes of its steps end with it.

A run holds a lock in its folder, which its steps share, so that a second run is refused until the last of them has
ended. It also holds the writing end of a pipe, its lifeline. However the run ends, this end is closed, and Linux then
ends every step. A step finds lock and lifeline through environment variables, because the processes that KFP starts
inherit no file descriptors.
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
    """Another run, or one of its steps that has not ended yet, uses the folder."""


@contextmanager
def own(path: str | Path) -> Iterator[Callable[[], None]]:
    """Own a folder inside a `with` block, and set the environment variables by which steps find its owner.

    Args:
        path: the path of the lock's file in the folder.

    Yields:
        A function that ends all steps at once. After it was called, no step can start.

    Raises:
        FolderInUse: if another run owns the folder.
        OSError: if the path is not that of a regular file.
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
    """Make this process, a step, and the processes that it starts end with the run that has started it, if any.

    If that run has already ended, the process exits.
    """
    address = os.environ.get(LIFELINE_VARIABLE)
    if address is None or _shared:
        return
    ownership = pure.load("ownership")
    # The lifeline ends a whole process group, which must not be that of the shell from which the run was started.
    os.setpgid(0, 0)
    path, _, identity = address.rpartition("#")
    try:
        lifeline = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        sys.exit("The run that started this step has ended, so the step ends.")
    # If they differ, another process now has the ID of the run's process.
    if _identity(lifeline) != identity:
        sys.exit("The run that started this step has ended, so the step ends.")
    ownership.end_with(lifeline)
    try:
        _shared.append(ownership.lock(os.environ[LOCK_VARIABLE], shared=True))
    except ownership.Busy as busy:
        sys.exit(f"Another run owns the folder, so this step ends. {busy}")


def locks() -> tuple[int, ...]:
    """The file descriptors that processes started by this one have to inherit, so that they keep the lock, too."""
    return tuple(_shared)


def set_aside(path: str | Path) -> Path:
    """Rename a file that cannot be used to `<name>.unreadable-<number>`."""
    return pure.load("ownership").set_aside(path)


def sync_folder(folder: str | Path) -> None:
    """Make sure that the names of a folder's files are on the disk, even if the machine loses power."""
    pure.load("ownership").sync_folder(folder)


def _address(lifeline: int) -> str:
    return f"/proc/{os.getpid()}/fd/{lifeline}#{_identity(lifeline)}"


def _identity(descriptor: int) -> str:
    about = os.fstat(descriptor)
    return f"{about.st_dev}:{about.st_ino}"
