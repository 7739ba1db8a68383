"""Recognise the files from which a data set was built by their digests rather than their sizes."""

import hashlib
import json
import os
import stat
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from keras_spatial._paths import regular, walk

# A file may change again within the clock's resolution of its last change, which its times would not show.
_SETTLED = 2e9


def identity(path: Path) -> list[int]:
    """Numbers that change whenever a file does: its size, mtime and ctime in ns, and inode; [-1] if it is missing.

    A file's ctime cannot be set, so it shows an edit whose mtime was set back. For a folder, such as that of a DICOM
    series, the numbers are the size of all files, their latest times, and a digest of the files' own numbers.
    """
    try:
        status = path.stat()
        files = files_of(path) if stat.S_ISDIR(status.st_mode) else None
    except OSError:
        return [-1]
    if files is None:
        return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    known = [identity(file) for file in files]
    named = repr([(os.fsencode(file.relative_to(path)), values) for file, values in zip(files, known, strict=True)])
    mark = int.from_bytes(hashlib.sha256(named.encode()).digest()[:6])
    whole = [values[:3] for values in known if values[0] >= 0]
    return [
        sum(k[0] for k in whole),
        max((k[1] for k in whole), default=0),
        max((k[2] for k in whole), default=0),
        mark,
    ]


def digest(path: Path) -> str:
    """The SHA-256 of a file as hexadecimal text, or, for a folder, that of its files' digests without their names.

    Raises:
        OSError: if a file cannot be read.
    """
    if path.is_dir():
        return hashlib.sha256("".join(sorted(map(digest, files_of(path)))).encode()).hexdigest()
    with regular(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_of(folder: Path) -> list[Path]:
    """The files of the folder of a series, in the order of their names."""
    return sorted(path for path in walk(folder, hidden=False) if path.is_file())


class Files(Protocol):
    """Files that can be identified, on this machine or elsewhere."""

    def key(self, path: Path) -> bytes:
        """The key of a file in caches."""
        ...

    def identity(self, path: Path) -> list[int]:
        """Numbers that change whenever a file does."""
        ...

    def digest(self, path: Path) -> str:
        """The digest of a file."""
        ...


class LocalFiles:
    """The files of this machine."""

    def key(self, path: Path) -> bytes:
        return os.fsencode(path.absolute())

    def identity(self, path: Path) -> list[int]:
        return identity(path)

    def digest(self, path: Path) -> str:
        return digest(path)


class Digests:
    """The digests of files, each of which is computed again only if the `identity` of its file has changed.

    Args:
        cache: the JSON file in which they are kept. If it is missing or damaged, the digests are computed again.
        files: the files; by default those of this machine.
    """

    def __init__(self, cache: Path, files: Files | None = None):
        self._cache, self._files = cache, files or LocalFiles()
        self._known = _read(cache)
        self._saved = dict(self._known)
        self.computed = 0

    def __getitem__(self, path: Path) -> str:
        """The digest of a file; "" if it cannot be read."""
        now = self._files.identity(path)
        known = self._known.get(self._key(path))
        if known is not None and known[0] == now:
            return known[1]
        try:
            found = self._files.digest(path)
        except OSError:
            return ""
        self.computed += 1
        self.add(path, now, found)
        return found

    def add(self, path: Path, before: list[int], found: str) -> None:
        """Keep a digest that was computed elsewhere.

        Args:
            path: the path of the file.
            before: the identity of the file before it was read.
            found: the digest of the file.
        """
        settled = before[0] >= 0 and time.time_ns() - max(before[1:3]) > _SETTLED
        if settled and self._files.identity(path) == before:
            self._known[self._key(path)] = [before, found]

    def _key(self, path: Path) -> str:
        # Only a digest of the path is kept, because a folder of DICOM files may be named after the patient.
        return hashlib.sha256(self._files.key(path)).hexdigest()

    def save(self) -> None:
        """Write the cache if it has changed. The file appears only when it is complete.

        If the folder cannot be written, nothing is kept, and the digests are computed again the next time.
        """
        if self._known == self._saved:
            return
        with suppress(OSError):
            self._write()

    def _write(self) -> None:
        self._cache.parent.mkdir(parents=True, exist_ok=True)
        part = self._cache.with_name(f".part-{uuid.uuid4().hex}")
        try:
            part.write_text(json.dumps(self._known))
            part.replace(self._cache)
        finally:
            part.unlink(missing_ok=True)
        self._saved = dict(self._known)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(values, dict):
        return {}
    return {
        name: entry
        for name, entry in values.items()
        if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], list) and isinstance(entry[1], str)
    }
