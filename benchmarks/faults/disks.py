"""File systems that become full or read-only while a command runs, in a private mount namespace."""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

# Set in the environment of a process that has a mount namespace of its own.
_OWN = "KERAS_SPATIAL_FAULT_MOUNTS"
# In bytes; more than any job under attack writes.
_BYTES = 1 << 26


def own_mounts(command: Sequence[str]) -> str:
    """Become `command` in a mount namespace of its own, where it may mount file systems that no other process sees.

    It returns only if the process has such a namespace already, or if this machine does not let this user make one.

    Returns:
        Why the process has no such namespace; empty if it has one.
    """
    if _OWN in os.environ:
        return ""
    start = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--mount"]
    try:
        tried = subprocess.run([*start, "true"], capture_output=True, text=True)
    except OSError as error:
        return f"unshare cannot be run: {error.strerror}"
    if not tried.returncode:
        os.environ[_OWN] = "yes"
        sys.stdout.flush()
        os.execvp(start[0], [*start, *command])
    return tried.stderr.strip() or f"unshare ended with status {tried.returncode}"


class Disk:
    """The disk of a folder, in which a job keeps its state.

    Args:
        folder: the folder. It is made if it does not exist.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._stored = folder.with_name(f".{folder.name}.disk")
        folder.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def limited(self) -> Iterator["Disk"]:
        """Give the folder, with its content, a file system of its own until the end, which can be filled."""
        self._stored.mkdir(exist_ok=True)
        content = self._stored / "content"
        _run("mount", "-t", "tmpfs", "-o", f"size={_BYTES}", "tmpfs", str(self._stored))
        _run("cp", "-a", str(self.folder), str(content))
        _run("mount", "--bind", str(content), str(self.folder))
        try:
            yield self
        finally:
            _run("umount", "--lazy", str(self.folder))
            # Keep what the command has left, for when the same command runs again.
            shutil.rmtree(self.folder)
            _run("cp", "-a", str(content), str(self.folder))
            _run("umount", "--lazy", str(self._stored))
            self._stored.rmdir()

    def fill(self, spare: int) -> None:
        """Leave only this many bytes, in whole pages, for anything that is written from now on."""
        with (self._stored / "filler").open("wb") as file:
            while True:
                about = os.statvfs(self._stored)
                size = about.f_bavail * about.f_frsize - spare // about.f_frsize * about.f_frsize
                if size <= 0:
                    return
                try:
                    os.posix_fallocate(file.fileno(), 0, size)
                    return
                except OSError as error:
                    # The command has written something meanwhile.
                    if error.errno != errno.ENOSPC:
                        raise

    def free(self) -> None:
        """Restore the original free space."""
        (self._stored / "filler").unlink()

    @contextlib.contextmanager
    def read_only(self) -> Iterator[None]:
        """Prevent anything in the folder from being made, changed or removed until the end. Open files stay
        writable.
        """
        aside = self.folder.with_name(f".{self.folder.name}.read-only")
        aside.mkdir(exist_ok=True)
        _run("mount", "--bind", str(self.folder), str(aside))
        # Mounted elsewhere, because a file that is opened for writing meanwhile would prevent it.
        _run("mount", "-o", "remount,bind,ro", str(aside))
        _run("mount", "--bind", str(aside), str(self.folder))
        try:
            yield
        finally:
            _run("umount", "--lazy", str(self.folder))
            _run("umount", "--lazy", str(aside))
            aside.rmdir()


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(command)} ended with status {done.returncode}: {done.stderr.strip()}")
