"""Where a streaming step keeps the shards that are not being computed: in host memory or in a file."""

import abc
import bisect
import contextlib
import errno
import math
import os
import tempfile
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_spatial.runtimes.functions import static_sizes

# Tensors of at least this many bytes go to the file. Writing a smaller one costs more than the memory that it frees is
# worth.
MINIMUM_BYTES = 1 << 16
# The largest number of tensors that wait to be written.
QUEUE = 2
# The pieces of the file begin at multiples of the page size, so that no two of them share a page.
_PAGE = 4096
# TensorFlow takes over arrays that are aligned to this many bytes without a copy.
_ALIGNMENT = 64


class OffloadError(OSError):
    """Shards could not be kept where `offload` says; the message names the folder, what failed, and what to do."""


class Storage(abc.ABC):
    """Keeps tensors between the operations of a step. One thread at a time may keep and drop them; any number may bring
    them.

    Attributes:
        held: the number of bytes that are kept now.
        peak: the largest number of bytes that were kept at once.
        written, read: the numbers of bytes that were written to a file and read from it.
    """

    def __init__(self) -> None:
        self.held = self.peak = self.written = self.read = 0

    @abc.abstractmethod
    def keep(self, tensor: tf.Tensor, resident: bool = False) -> Any:
        """Keep a tensor, in host memory if it must be `resident`, and return a handle for it."""

    @abc.abstractmethod
    def prefetch(self, kept: Any) -> None:
        """Begin to bring back the tensor of a handle."""

    @abc.abstractmethod
    def bring(self, kept: Any) -> tf.Tensor:
        """The tensor of a handle."""

    @abc.abstractmethod
    def drop(self, kept: Any) -> None:
        """Stop keeping the tensor of a handle."""

    def leave(self, kept: Sequence[Any]) -> None:
        """Stop keeping some tensors, at the latest when the next one is kept. Any thread may call it at any point."""
        for one in kept:
            self.drop(one)

    def abandon(self) -> None:  # noqa: B027  Nothing is begun by default.
        """Discard the work that was begun for a step that has failed."""

    def _counted(self, size: int) -> None:
        self.held += size
        self.peak = max(self.peak, self.held)


class HostStorage(Storage):
    """Keeps tensors in host memory: results of a device are copied there, and those of a CPU stay where they are."""

    def keep(self, tensor: tf.Tensor, resident: bool = False) -> tf.Tensor:
        self._counted(_byte_size(tensor))
        return _on_host(tensor)

    def prefetch(self, kept: tf.Tensor) -> None:
        pass

    def bring(self, kept: tf.Tensor) -> tf.Tensor:
        return kept

    def drop(self, kept: tf.Tensor) -> None:
        self.held -= _byte_size(kept)


@dataclass
class _Piece:
    """The place of a tensor in the file.

    Attributes:
        start, size: the place in bytes; it occupies whole pages.
        shape, dtype: the shape and dtype of the tensor.
        written: the write operation, which may still be running.
        brought: the read operation, if it has begun.
    """

    start: int
    size: int
    shape: tuple[int, ...]
    dtype: tf.DType
    written: Future
    brought: Future | None = None


class FileStorage(Storage):
    """Keeps tensors in a file without a name, which the system frees when the process ends, however it ends.

    One thread reads and writes in the order of the requests, while the caller computes. At most `QUEUE` tensors wait to
    be written, so that memory stays bounded. Small tensors stay in memory.

    Args:
        folder: a folder on a file system with enough space.

    Raises:
        OffloadError: if no file can be made there.
    """

    def __init__(self, folder: str | os.PathLike):
        super().__init__()
        self.folder = Path(folder)
        made = [path for path in (self.folder, *self.folder.parents) if not os.path.lexists(path)]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Unbuffered, because shards are large and each is read and written as a whole.
            self._file = tempfile.TemporaryFile(dir=self.folder, buffering=0)  # noqa: SIM115  Open as long as this is.
        except OSError as error:
            _remove_empty(made)
            raise self._named(error, "make a file in it") from error
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="offload")
        self._space, self._lock = Space(), threading.Lock()
        self._waiting: list[Future] = []
        self._left: deque[Any] = deque()

    def keep(self, tensor: tf.Tensor, resident: bool = False) -> Any:
        while self._left:
            self.drop(self._left.popleft())
        size = _byte_size(tensor)
        self._counted(size)
        if resident or size < MINIMUM_BYTES:
            return _on_host(tensor)
        while len(self._waiting) >= QUEUE:
            self._finish(self._waiting.pop(0))
        with self._lock:
            start = self._space.take(size)
        written = self._thread.submit(self._write, start, tensor)
        self._waiting.append(written)
        self.written += size
        return _Piece(start, size, tuple(static_sizes(tensor.shape)), tensor.dtype, written)

    def prefetch(self, kept: Any) -> None:
        if isinstance(kept, _Piece):
            with self._lock:
                kept.brought = self._brought(kept)

    def bring(self, kept: Any) -> tf.Tensor:
        if not isinstance(kept, _Piece):
            return kept
        with self._lock:
            brought, kept.brought = self._brought(kept), None
        self._finish(kept.written)
        return self._finish(brought)

    def _brought(self, kept: _Piece) -> Future:
        if kept.brought is not None:
            return kept.brought
        self.read += kept.size
        return self._thread.submit(self._read, kept)

    def drop(self, kept: Any) -> None:
        if not isinstance(kept, _Piece):
            self.held -= _byte_size(kept)
            return
        self.held -= kept.size
        # The single thread writes to this place only after it has carried out all earlier requests.
        with self._lock:
            self._space.give_back(kept.start, kept.size)
            if not self._space.taken:
                self._space = Space()
                # When the process ends, the thread has already ended, and the file is freed anyway.
                with contextlib.suppress(RuntimeError):
                    self._thread.submit(self._file.truncate, 0)

    def leave(self, kept: Sequence[Any]) -> None:
        # The garbage collector may call this while the same thread holds the lock.
        self._left.extend(kept)

    def abandon(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            future.exception()

    def _finish(self, future: Future) -> Any:
        try:
            return future.result()
        except OSError as error:
            raise self._named(error, f"keep {self.held / 1e9:.3g} GB of shards in it") from error

    def _named(self, error: OSError, what: str) -> OffloadError:
        advice = {
            errno.ENOSPC: "Free some space, name a folder of a larger file system, or use a smaller image",
            errno.EDQUOT: "Its owner's quota is used up: name another folder",
            errno.EACCES: "Name a folder in which you may write",
            errno.EROFS: "It is on a read-only file system: name another one",
        }.get(error.errno or 0, "Name another folder")
        return OffloadError(
            error.errno or 0, f"offload={str(self.folder)!r}: could not {what}: {error.strerror or error}. {advice}"
        )

    # These run in the thread.

    def _write(self, start: int, tensor: tf.Tensor) -> None:
        data = _bytes_of(tensor).data
        done = 0
        while done < len(data):
            done += os.pwrite(self._file.fileno(), data[done:], start + done)

    def _read(self, piece: _Piece) -> tf.Tensor:
        piece.written.result()
        data = _aligned(piece.size)
        view, done = data.data, 0
        while done < piece.size:
            count = os.preadv(self._file.fileno(), [view[done:]], piece.start + done)
            if not count:
                raise OSError(errno.EIO, "the file ends too early")
            done += count
        return tensor_of(data, piece.dtype, piece.shape)


class Space:
    """Allocates parts of a file by first fit; neighbouring free parts are merged."""

    def __init__(self) -> None:
        self._free: list[tuple[int, int]] = []  # (start, end), sorted, never touching.
        self.end = 0
        self.taken = 0

    def take(self, size: int) -> int:
        """Allocate a part of `size` bytes, and return where it starts."""
        size = _pages(size)
        self.taken += size
        for i, (start, end) in enumerate(self._free):
            if end - start >= size:
                self._free[i : i + 1] = [(start + size, end)] if end - start > size else []
                return start
        start = self.end
        if self._free and self._free[-1][1] == start:
            start = self._free.pop()[0]
        self.end = start + size
        return start

    def give_back(self, start: int, size: int) -> None:
        """Free the part of `size` bytes that starts at `start`."""
        end = start + _pages(size)
        self.taken -= end - start
        i = bisect.bisect(self._free, (start, end))
        if i < len(self._free) and self._free[i][0] == end:
            end = self._free.pop(i)[1]
        if i and self._free[i - 1][1] == start:
            i -= 1
            start = self._free.pop(i)[0]
        self._free.insert(i, (start, end))


def check_offload(offload: str | os.PathLike) -> None:
    """Check the value of `offload`, and that its folder, which is made if it does not exist, can be written to.

    Raises:
        ValueError: if it is neither "host" nor a path. A plain name, such as "Host", must be that of an existing
            folder.
        OffloadError: if the folder cannot be written to. Folders that were made are removed again.
    """
    if offload == "host":
        return
    plain = isinstance(offload, str) and os.sep not in offload
    if not isinstance(offload, (str, os.PathLike)) or (plain and not (offload and Path(offload).is_dir())):
        raise ValueError(
            'offload: expected "host", or the path of a folder; to make a folder here, write it with a separator, '
            f"such as './scratch'. Received: offload={offload!r}"
        )
    folder = Path(offload)
    made = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    storage = FileStorage(folder)
    try:
        written = storage.keep(tf.zeros([MINIMUM_BYTES], tf.uint8))
        storage.bring(written)
    except OSError:
        _remove_empty(made)
        raise


def storage_for(offload: str | os.PathLike) -> Storage:
    """The storage for an `offload` of `SpatialParallel`: "host", or a folder."""
    return HostStorage() if offload == "host" else FileStorage(offload)


def tensor_of(data: np.ndarray, dtype: tf.DType, shape: Sequence[int]) -> tf.Tensor:
    """A tensor in host memory that takes over some bytes without a copy."""
    # NumPy's DLPack does not support bfloat16.
    known = np.uint16 if dtype == tf.bfloat16 else dtype.as_numpy_dtype
    tensor = tf.experimental.dlpack.from_dlpack(data.view(known).reshape(tuple(shape)).__dlpack__())
    return tf.bitcast(tensor, dtype) if tensor.dtype != dtype else tensor


def copied(array: np.ndarray, dtype: tf.DType) -> tf.Tensor:
    """A tensor in host memory with a copy of an array."""
    data = _aligned(array.size * dtype.size)
    data.view(array.dtype).reshape(array.shape)[...] = array
    return tensor_of(data, dtype, array.shape)


def _remove_empty(folders: Sequence[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


def _byte_size(tensor: tf.Tensor) -> int:
    return math.prod(static_sizes(tensor.shape)) * tensor.dtype.size


def _on_host(tensor: tf.Tensor) -> tf.Tensor:
    if "CPU" in tensor.device or not tensor.device:
        return tensor
    with tf.device("cpu:0"):
        return tf.identity(tensor)


def _bytes_of(tensor: tf.Tensor) -> np.ndarray:
    """The bytes of a tensor, without a copy if it is in host memory."""
    host: Any = _on_host(tensor)
    # NumPy's buffer protocol does not support bfloat16.
    array = np.asarray(host) if tensor.dtype == tf.bfloat16 else np.frombuffer(host, np.uint8)
    return np.ascontiguousarray(array).view(np.uint8).reshape(-1)


def _aligned(size: int) -> np.ndarray:
    data = np.empty(size + _ALIGNMENT, np.uint8)
    start = -data.ctypes.data % _ALIGNMENT
    return data[start : start + size]
