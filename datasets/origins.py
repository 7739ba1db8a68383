"""Where the files of cases are: in a folder, or in an object store, from which they are downloaded one case at a time.

The objects at a URL are listed once. A folder of empty files with the same names, the outline, stands for them, so code
that finds cases by their names works as in any folder. The paths of a case are then those of the outline, and `near`
gives the case with its files downloaded.
"""

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol, Self, TypeVar

from datasets import object_store, sources
from datasets.cases import ChangedCaseError
from keras_spatial._paths import fault_of_name, printable
from keras_spatial.volumes import FileNameError

DESCRIPTION = "dataset.json"
"""The file that describes a data set. Its content is downloaded with the listing."""
KEPT_BYTES = 4 << 30
"""The number of bytes of downloaded files that are kept after their case has been read, because a data set of
unknown intensities is read twice. At most half of the free disk space is used.
"""
HEAD_BYTES = 1 << 16
"""The number of bytes at the beginning of a file that tell what it is."""
HEADS_AT_ONCE = 100
"""The number of objects of which the first bytes are read at the same time."""
_NAMES, _KEPT, _NEAR = "names", "kept", "near-"


class Movable(Protocol):
    """A case, or anything else that refers to files."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All files, and folders that are series of files."""
        ...

    def moved(self, move: Callable[[Path], Path]) -> Self:
        """The same case with other paths."""
        ...


AnyMovable = TypeVar("AnyMovable", bound=Movable)


class Origin(Protocol):
    """Where the files of cases lie. It can be pickled, because Beam sends it to its workers."""

    location: str
    """The path or the URL."""
    folder: Path
    """The folder with all names, or the file to which the location refers. It exists only if the location does."""
    local: bool
    """Whether the files can be read in place, as often as needed."""

    def key(self, path: Path) -> bytes:
        """The key of a file or a folder in caches."""
        ...

    def identity(self, path: Path) -> list[int]:
        """Numbers that change whenever a file or a folder does, see `datasets.sources.identity`."""
        ...

    def digest(self, path: Path) -> str:
        """The digest of a file or a folder, see `datasets.sources.digest`."""
        ...

    def near(self, case: AnyMovable) -> contextlib.AbstractContextManager[AnyMovable]:
        """The case with its files on this machine, inside a `with` block.

        Raises:
            ChangedCaseError: if a file has changed since it was listed.
            StorageError: if the store refuses or cannot be reached.
        """
        ...

    def named(self) -> contextlib.AbstractContextManager[None]:
        """Let errors of the `with` block name files by their addresses instead of their paths on this machine."""
        ...

    def shown(self, text: str) -> str:
        """A text in which the paths of files on this machine are replaced by their addresses."""
        ...


class LocalOrigin(sources.LocalFiles):
    """A folder or a file of this machine."""

    local = True

    def __init__(self, folder: str | Path):
        self.folder, self.location = Path(folder), str(folder)

    @contextmanager
    def near(self, case: AnyMovable) -> Iterator[AnyMovable]:
        yield case

    @contextmanager
    def named(self) -> Iterator[None]:
        yield

    def shown(self, text: str) -> str:
        return text


HERE = LocalOrigin("/")
"""The origin of cases that are known only by the paths of their files."""


@dataclass(frozen=True)
class Listed:
    """What is known about an object in a store.

    Attributes:
        size: the number of bytes.
        version: the store's name for this version of the content; empty if versions are not compared.
        sha256: the digest of the content, or "" if the object was never read.
    """

    size: int
    version: str
    sha256: str = ""


class StoreOrigin:
    """A folder or a single file in an object store.

    Args:
        url: the address.
        files: the objects there, by their names below the URL; a single file has the name "".
        scratch: a folder for the outline and for downloads, which the caller removes.
        contents: the known contents of files, by their names. These files may also be missing in the store.

    Raises:
        FileNameError: if the name of an object cannot be that of a file.
    """

    local = False

    def __init__(self, url: str, files: Mapping[str, Listed], scratch: Path, contents: Mapping[str, bytes]):
        self.location = url.rstrip("/")
        self._files, self._scratch = dict(files), scratch
        # The outline keeps the last part of the URL, because it is the name of a plain folder, or holds the ending of a
        # file.
        self.folder = scratch / _NAMES / self._last
        self._folders = _by_folder(self._files)
        self._kept = self._keepers()
        self._outline(contents)

    @classmethod
    def listed(cls, url: str, scratch: Path) -> Self:
        """The origin for a URL, with everything that the store lists below it.

        Raises:
            StorageError: if the store refuses or cannot be reached.
            FileNameError: if the name of an object cannot be that of a file.
        """
        root, found = object_store.listing(url)
        files = {
            name: Listed(int(about["size"]), object_store.version(about))
            for name, about in found.items()
            # Programs that show a store as folders leave objects that stand for folders.
            if not name.endswith("/") and about["type"] == "file"
        }
        described = [name for name in files if PurePosixPath(name).name == DESCRIPTION]
        with object_store.named(url):
            contents = object_store.system(url).cat([f"{root}/{name}" for name in described]) if described else {}
        return cls(url, files, scratch, {name: contents[f"{root}/{name}"] for name in described})

    @property
    def _last(self) -> str:
        return self.location.rpartition("/")[2]

    @property
    def files(self) -> Mapping[str, Listed]:
        """The objects of the store, by their names below the URL."""
        return self._files

    def below(self, path: Path) -> list[str]:
        """The names of the file at a path, or of all files of the folder there, without hidden ones."""
        return self._below(path)

    def heads(self, names: Sequence[str]) -> Iterator[bytes]:
        """Yield the first `HEAD_BYTES` of objects; b"" of one that is gone.

        `HEADS_AT_ONCE` of them are read at the same time, and no more are in memory.

        Raises:
            StorageError: if the store refuses or cannot be reached.
        """
        for start in range(0, len(names), HEADS_AT_ONCE):
            yield from self._heads(names[start : start + HEADS_AT_ONCE])

    def _heads(self, names: Sequence[str]) -> list[bytes]:
        # A store gives an error for any range of an empty object.
        asked = [name for name in names if self._files[name].size]
        with object_store.named(self.location):
            store = object_store.system(self.location)
            places = [store._strip_protocol(self._url(name)) for name in asked]
            given = store.cat_ranges(places, [0] * len(places), [HEAD_BYTES] * len(places), on_error="return")
        found = dict.fromkeys(names, b"")
        for name, head in zip(asked, given, strict=True):
            if isinstance(head, bytes):
                found[name] = head
            elif not isinstance(head, FileNotFoundError):
                with object_store.named(self._url(name)):
                    raise head
        return [found[name] for name in names]

    def key(self, path: Path) -> bytes:
        return self._url(self._name(path)).encode()

    def identity(self, path: Path) -> list[int]:
        below = self._below(path)
        if not below:
            return [-1]
        facts = [(name, self._files[name].size, self._files[name].version) for name in below]
        mark = int.from_bytes(hashlib.sha256(repr(facts).encode()).digest()[:6])
        # Times are not needed, because the version follows from the content.
        return [sum(size for _, size, _ in facts), 0, 0, mark]

    def digest(self, path: Path) -> str:
        below = self._below(path)
        if not below:
            raise FileNotFoundError(f"{self._url(self._name(path))}: nothing is there")
        if below == [self._name(path)] and self._files[below[0]].sha256:
            return self._files[below[0]].sha256
        with self._brought(below) as place:
            return sources.digest(place(path))

    @contextmanager
    def near(self, case: AnyMovable) -> Iterator[AnyMovable]:
        # The reader of a case raises an error for a missing file, so missing files are skipped here.
        names = [name for path in case.files for name in self._below(path)]
        with self.named(), self._brought(names) as place:
            yield case.moved(place)

    @contextmanager
    def named(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            error.args = tuple(self.shown(value) if isinstance(value, str) else value for value in error.args)
            raise

    def shown(self, text: str) -> str:
        places = rf"{re.escape(str(self._scratch))}/(?:{_NAMES}|{_NEAR}[0-9a-f]+)/{re.escape(self._last)}"
        return re.sub(places, lambda _: self.location, text)

    def _outline(self, contents: Mapping[str, bytes]) -> None:
        for name in self._files:
            path = PurePosixPath(name)
            # The name of an object may be anything, not only the path of a file inside the folder.
            strange = path.is_absolute() or ".." in path.parts or (name and name != str(path))
            fault = "no relative path" if strange else fault_of_name(name)
            if fault is None:
                place = self.folder / name if name else self.folder
                try:
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_bytes(contents.get(name, b""))
                except OSError as error:
                    fault = f"{type(error).__name__}, perhaps because it is a file and a folder"
            if fault is not None:
                raise FileNameError(f"{printable(self._url(name))}: rename the object. Received: {fault}")
        for name in contents.keys() - self._files.keys():
            (self.folder / name).write_bytes(contents[name])

    def _keepers(self) -> frozenset[str]:
        """The names of the files that are kept once they have been downloaded."""
        free = shutil.disk_usage(self._scratch).free
        limit, total, kept = min(KEPT_BYTES, free // 2), 0, set()
        for name, about in sorted(self._files.items()):
            total += about.size
            if total <= limit:
                kept.add(name)
        return frozenset(kept)

    def _url(self, name: str) -> str:
        return f"{self.location}/{name}" if name else self.location

    def _name(self, path: Path) -> str:
        relative = path.relative_to(self.folder)
        return relative.as_posix() if relative.parts else ""

    def _below(self, path: Path) -> list[str]:
        """The names of the file at a path of the outline, or of all files of the folder there, without hidden ones."""
        name = self._name(path)
        return [name] if name in self._files else self._folders.get(name, [])

    @contextmanager
    def _brought(self, names: Sequence[str]) -> Iterator[Callable[[Path], Path]]:
        """Download files to a new folder, which exists inside a `with` block.

        The block gets a function from paths of the outline to paths in that folder.
        """
        # A worker on another machine has no outline, and nothing would remove the files that it keeps.
        keep = (self._scratch / _NAMES).is_dir()
        near = self._scratch / f"{_NEAR}{uuid.uuid4().hex}"
        root = near / self._last
        try:
            for name in sorted(set(names)):
                self._bring(name, root / name if name else root, keep=keep)
            yield lambda path: root / path.relative_to(self.folder)
        finally:
            shutil.rmtree(near, ignore_errors=True)

    def _bring(self, name: str, target: Path, *, keep: bool) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        kept = self._scratch / _KEPT / hashlib.sha256(name.encode()).hexdigest()
        with contextlib.suppress(OSError):
            os.link(kept, target)
            return
        url, listed = self._url(name), self._files[name]
        fault = _brought(url, target, listed)
        if fault:
            raise _other(url, fault)
        if keep and name in self._kept:
            kept.parent.mkdir(exist_ok=True)
            with contextlib.suppress(OSError):
                os.link(target, kept)


class CheckedOrigin(StoreOrigin):
    """The files of a folder of this machine, such as a mounted volume, as they were when they were checked.

    They are read in place, through links in a folder that contains nothing else, so a file that was added after the
    check is not among them.

    Args:
        folder: the absolute path of the folder.
        files: the files that were checked, by their names relative to the folder, each with its digest.
        scratch, contents: as for `StoreOrigin`.
    """

    def __init__(self, folder: str, files: Mapping[str, Listed], scratch: Path, contents: Mapping[str, bytes]):
        super().__init__(folder, files, scratch, contents)
        # The identity of each file whose digest was compared, by name.
        self._compared: dict[str, list[int]] = {}

    def _keepers(self) -> frozenset[str]:
        return frozenset()

    @contextmanager
    def _brought(self, names: Sequence[str]) -> Iterator[Callable[[Path], Path]]:
        with super()._brought(names) as place:
            yield place
            for name in names:
                if sources.identity(Path(self._url(name))) != self._compared[name]:
                    raise _other(self._url(name), "a file that was written while it was read")

    def _bring(self, name: str, target: Path, *, keep: bool) -> None:
        path, listed = Path(self._url(name)), self._files[name]
        now = sources.identity(path)
        if self._compared.get(name) != now:
            try:
                found = sources.digest(path)
            except FileNotFoundError:
                raise _other(str(path), "nothing") from None
            if found != listed.sha256:
                raise _other(str(path), f"SHA-256 {found}, not {listed.sha256}")
            self._compared[name] = now
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)


def _other(place: str, fault: str) -> ChangedCaseError:
    """The error for a file that differs from what is known of it."""
    return ChangedCaseError(
        f"{place}: expected the file as it was when it was listed or checked. Received: {fault}. Start again with the "
        "files as they are now"
    )


def _brought(url: str, target: Path, listed: Listed) -> str:
    """Download a file. Returns how it differs from what was listed, or ""."""
    with object_store.named(url):
        store = object_store.system(url)
        try:
            store.get_file(store._strip_protocol(url), str(target))
            # A file that was overwritten after it was listed, or while it was read, has another version now.
            now = listed.version if listed.sha256 else object_store.version(store.info(url))
        except FileNotFoundError:
            return "nothing"
    if target.stat().st_size != listed.size:
        return f"{target.stat().st_size} bytes, not {listed.size}"
    if now != listed.version:
        return f"version {now}, not {listed.version}"
    found = sources.digest(target) if listed.sha256 else ""
    return "" if found == listed.sha256 else f"SHA-256 {found}, not {listed.sha256}"


def _by_folder(names: Iterable[str]) -> dict[str, list[str]]:
    """The files below each folder in the order of their names, without hidden ones."""
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        parts = PurePosixPath(name).parts
        for depth in range(len(parts) - 1, -1, -1):
            if parts[depth].startswith("."):
                break
            found.setdefault("/".join(parts[:depth]), []).append(name)
    return found


@contextmanager
def opened(location: "str | os.PathLike | Origin") -> Iterator[Origin]:
    """The origin for a path or a URL. Downloaded files are removed at the end of the `with` block.

    A `file://` URL is the path that it names.

    Raises:
        StorageError: if the store refuses or cannot be reached.
        FileNameError: if the name of an object cannot be that of a file.
    """
    if not isinstance(location, (str, os.PathLike)):
        yield location
    elif not object_store.is_url(location):
        yield LocalOrigin(Path(location))
    elif (path := object_store.path_of(location)) is not None:
        yield LocalOrigin(path)
    else:
        with tempfile.TemporaryDirectory(prefix="keras-spatial-") as scratch:
            yield StoreOrigin.listed(str(location), Path(scratch))
