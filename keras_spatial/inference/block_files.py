"""Arrays in files to which several processes write, and from which each reads what it needs."""

import contextlib
import json
import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from keras_spatial.processes import Processes

Starts = tuple[int, ...]


class Carrier(Protocol):
    """Carries files between processes that have no file system in common, such as through an object store.

    Files are named by their paths below the workspace, with slashes.
    """

    def send(self, name: str, path: Path) -> None:
        """Hand a complete file to the other processes."""

    def fetch(self, name: str, path: Path) -> None:
        """Make a copy of a file that another process has sent."""

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with everything in it; "" is the whole workspace."""


@dataclass(frozen=True)
class Workspace:
    """A folder in which the processes of a job exchange files.

    Attributes:
        folder: the folder, which all processes see. With a carrier, each process has a folder of its own instead, in
            which its own files and copies of others lie.
        carrier: what brings files from one process to another; None if all see the folder.
        name: the name of the folder below that of the whole workspace, for the carrier.
    """

    folder: Path
    carrier: Carrier | None = None
    name: str = ""

    def __truediv__(self, name: str) -> "Workspace":
        return Workspace(self.folder / name, self.carrier, f"{self.name}/{name}".lstrip("/"))

    def save(self, name: str, values: np.ndarray) -> None:
        """Write an array to a file that all processes can then read."""
        self.folder.mkdir(parents=True, exist_ok=True)
        np.save(self.folder / name, values)
        if self.carrier is not None:
            self.carrier.send(f"{self.name}/{name}", self.folder / name)

    def load(self, name: str) -> np.ndarray:
        """An array in a file, from which only what is used is read."""
        path = self.folder / name
        if self.carrier is not None and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self.carrier.fetch(f"{self.name}/{name}", path)
        return np.load(path, mmap_mode="r")

    def remove(self, name: str, *, own: bool) -> None:
        """Remove a file that this process has written, or its copy of another's."""
        if own or self.carrier is not None:
            (self.folder / name).unlink(missing_ok=True)
        if own and self.carrier is not None:
            self.carrier.remove(f"{self.name}/{name}")

    def unseen(self, names: Sequence[str]) -> list[str]:
        """The paths of the files that are not there, as far as that can be seen in a folder."""
        return [] if self.carrier is not None else [str(p) for n in names if not (p := self.folder / n).exists()]


class BlockFiles:
    """An array whose blocks are NumPy files in one workspace, which all processes of a job see.

    Each file has one writer and is complete before another process opens it. One file for the whole array would not do:
    on a network file system, a page in which blocks of two machines meet may keep the voxels of only one of them. A
    reader maps the files into memory, so that it reads no more than it asks for; a Zarr array would read whole chunks.

    Args:
        workspace: where the files are. Its folder is made when the first block is written.
        shape: the shape of the array.
        dtype: the type of its values.

    Attributes:
        bytes_written: how many bytes of the array this process has written.
        bytes_read: how many bytes of the array this process has read.
    """

    def __init__(self, workspace: Workspace, shape: Sequence[int], dtype: Any):
        self.workspace, self.shape, self.dtype = workspace, tuple(int(n) for n in shape), np.dtype(dtype)
        self.bytes_written = self.bytes_read = 0
        self._own: dict[Starts, Starts] = {}
        self._known: dict[Starts, Starts] = {}

    def write(self, index: Sequence[slice], values: np.ndarray) -> None:
        """Write a block, which no other process writes.

        Args:
            index: where the block lies: one slice for each axis.
            values: the block.
        """
        start = tuple(s.start for s in index)
        self.workspace.save(_name(start), np.asarray(values, self.dtype))
        self._own[start] = self._known[start] = values.shape
        self.bytes_written += values.size * self.dtype.itemsize

    def __getitem__(self, index: slice | tuple[slice, ...]) -> np.ndarray:
        """Read the values of a box into a new array.

        Args:
            index: a slice for each of the first axes; the others are read whole.

        Raises:
            FileNotFoundError: if no process has written a part of the box.
        """
        given = index if isinstance(index, tuple) else (index,)
        full = [
            slice(*s.indices(n)) for s, n in zip((*given, *[slice(None)] * len(self.shape)), self.shape, strict=False)
        ]
        result = np.empty([s.stop - s.start for s in full], self.dtype)
        filled = 0
        for start, sizes in self._known.items():
            common = [(max(s.start, a), min(s.stop, a + n)) for s, a, n in zip(full, start, sizes, strict=True)]
            if any(first >= last for first, last in common):
                continue
            block = self.workspace.load(_name(start))
            into = tuple(slice(first - s.start, last - s.start) for (first, last), s in zip(common, full, strict=True))
            result[into] = block[
                tuple(slice(first - a, last - a) for (first, last), a in zip(common, start, strict=True))
            ]
            filled += result[into].size
        if filled != result.size:
            raise FileNotFoundError(
                f"{self.workspace.folder}: expected blocks of the whole box {[(s.start, s.stop) for s in full]}. "
                f"Received: blocks of {filled} of its {result.size} values"
            )
        self.bytes_read += result.nbytes
        return result

    def discard(self) -> None:
        """Remove the files that this process has written, once no process reads them any more, and its copies of
        others.
        """
        for start in self._known:
            self.workspace.remove(_name(start), own=start in self._own)
        self._own.clear()
        self._known.clear()


def _name(start: Starts) -> str:
    return f"{'-'.join(map(str, start))}.npy"


def publish(job: Processes, what: str, arrays: Sequence[BlockFiles]) -> None:
    """Tell all processes which blocks of some arrays exist. Every process must call it, after its last write.

    The names are exchanged instead of listing folders, because network file systems show new files of other machines
    late.

    Args:
        job: the processes.
        what: the name of the arrays, for the message if a process does not answer.
        arrays: the same arrays in all processes, in the same order.

    Raises:
        RuntimeError: in all processes, if one of them does not see a block of another: they have no common folder.
    """
    own = [[[list(start), list(sizes)] for start, sizes in array._own.items()] for array in arrays]
    for theirs in job.exchange(f"blocks of {what}", json.dumps(own)):
        for array, blocks in zip(arrays, json.loads(theirs), strict=True):
            array._known |= {tuple(start): tuple(sizes) for start, sizes in blocks}
    missing = [path for array in arrays for path in array.workspace.unseen([_name(start) for start in array._known])]
    found = job.exchange(f"folder of {what}", missing[0] if missing else "")
    if any(found):
        lines = "\n".join(f"  - process {rank} does not see {path}" for rank, path in enumerate(found) if path)
        raise RuntimeError(
            f"The processes of a job must have a folder in common, on a file system that all of them see:\n{lines}"
        )


@contextlib.contextmanager
def shared_workspace(job: Processes, workspace: Workspace) -> Iterator[Workspace]:
    """A workspace that is empty at first and removed at the end. Every process must call it.

    A carrier that cannot remove its files at the end is only warned of.

    Args:
        job: the processes.
        workspace: without a carrier, the same folder in all processes; with one, a folder of each process's own.

    Raises:
        RuntimeError: in all processes, if one of them does not see the folder that the first one has made.
        OSError: if the carrier cannot remove what an earlier job has left.
    """
    folder, carrier = workspace.folder, workspace.carrier

    def clear() -> None:
        if job.is_first or carrier is not None:
            shutil.rmtree(folder, ignore_errors=True)
        if job.is_first and carrier is not None:
            carrier.remove("")

    clear()
    if job.is_first or carrier is not None:
        folder.mkdir(parents=True)
    job.exchange("making of the workspace", "made")
    if carrier is None:
        job.agree(f"folder {folder}", {"it is there": folder.is_dir()})
    try:
        yield workspace
        job.exchange("end of the workspace", "done")
    finally:
        try:
            clear()
        except OSError as error:
            # Neither the results nor the error that has ended the job may be lost because of these files.
            warnings.warn(
                f"{error}. The files that the processes have given each other remain there; no process needs them any "
                "more, so remove them by hand.",
                stacklevel=3,
            )
