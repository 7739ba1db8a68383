"""Arrays in files to which several processes write, and from which each reads what it needs."""

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_spatial.processes import Processes

Starts = tuple[int, ...]


class BlockFiles:
    """An array whose blocks are NumPy files in one folder, which all processes of a job see.

    Each file has one writer and is complete before another process opens it. One file for the whole array would not do:
    on a network file system, a page in which blocks of two machines meet may keep the voxels of only one of them. A
    reader maps the files into memory, so that it reads no more than it asks for; a Zarr array would read whole chunks.

    Args:
        folder: the folder of the files. It is made when the first block is written.
        shape: the shape of the array.
        dtype: the type of its values.

    Attributes:
        bytes_written: how many bytes of the array this process has written.
        bytes_read: how many bytes of the array this process has read.
    """

    def __init__(self, folder: Path, shape: Sequence[int], dtype: Any):
        self.folder, self.shape, self.dtype = folder, tuple(int(n) for n in shape), np.dtype(dtype)
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
        self.folder.mkdir(parents=True, exist_ok=True)
        np.save(self._path(start), np.asarray(values, self.dtype))
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
            block = np.load(self._path(start), mmap_mode="r")
            into = tuple(slice(first - s.start, last - s.start) for (first, last), s in zip(common, full, strict=True))
            result[into] = block[
                tuple(slice(first - a, last - a) for (first, last), a in zip(common, start, strict=True))
            ]
            filled += result[into].size
        if filled != result.size:
            raise FileNotFoundError(
                f"{self.folder}: expected blocks of the whole box {[(s.start, s.stop) for s in full]}. Received: "
                f"blocks of {filled} of its {result.size} values"
            )
        self.bytes_read += result.nbytes
        return result

    def discard(self) -> None:
        """Remove the files that this process has written, when no process reads them any more."""
        for start in self._own:
            self._path(start).unlink(missing_ok=True)
        self._own.clear()
        self._known.clear()

    def _path(self, start: Starts) -> Path:
        return self.folder / f"{'-'.join(map(str, start))}.npy"


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
    missing = [str(path) for array in arrays for path in map(array._path, array._known) if not path.exists()]
    found = job.exchange(f"folder of {what}", missing[0] if missing else "")
    if any(found):
        lines = "\n".join(f"  - process {rank} does not see {path}" for rank, path in enumerate(found) if path)
        raise RuntimeError(
            f"The processes of a job must have a folder in common, on a file system that all of them see:\n{lines}"
        )


@contextlib.contextmanager
def shared_folder(job: Processes, folder: Path) -> Iterator[Path]:
    """Make a folder through which the processes of a job exchange files; it is removed at the end. Every process must
    call it.

    Args:
        job: the processes.
        folder: the path of the folder, which must be the same folder in all of them. Anything in it is removed.

    Raises:
        RuntimeError: in all processes, if one of them does not see the folder that the first one has made.
    """
    if job.is_first:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    job.exchange(f"making of {folder}", "made")
    job.agree(f"folder {folder}", {"it is there": folder.is_dir()})
    try:
        yield folder
        job.exchange(f"end of {folder}", "done")
    finally:
        if job.is_first:
            shutil.rmtree(folder, ignore_errors=True)
