"""Folders and files by path or by URL: `gs://...` and `s3://...` through fsspec and its packages gcsfs and s3fs.

Most steps work on local files: files in an object store are downloaded before a step and uploaded after it, and files
on a mounted volume are used in place.
"""

import atexit
import functools
import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components import console, pure
from components.files import write_text
from datasets.object_store import StorageError, is_url, join, listing, named, system, version

REFERENCE = "reference.json"
"""The file in the folder of an artifact that says where its files really are."""
_MIRROR_SECONDS = 30.0


def writable(folder: str | Path) -> Path:
    """Make a folder, and make sure that files can be written in it.

    Raises:
        StorageError: if they cannot; the message says what a pod of this user needs.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".probe-", dir=folder)
        os.close(handle)
        Path(name).unlink()
    except OSError as error:
        raise StorageError(
            f"{folder}: cannot be written by user {os.getuid()}, groups {sorted({os.getgid(), *os.getgroups()})}: "
            f"{error}. {_owner(folder)} On Kubernetes a volume must be writable for the group of the pods: KFP cannot "
            "set fsGroup for a step, so an administrator changes the volume's owner or mode once; see 'Storage' in "
            "pipelines/README.md."
        ) from error
    return folder


def _owner(folder: Path) -> str:
    for path in (folder, *folder.parents):
        try:
            about = path.stat()
        except OSError:
            continue
        return f"{path} belongs to user {about.st_uid}, group {about.st_gid}, mode {about.st_mode & 0o7777:o}."
    return ""


def read_json(location: str) -> Any | None:
    """Read a JSON file by path or URL; None if there is no file, or it is incomplete.

    Raises:
        OSError: if the file cannot be read, for example a StorageError if a store refuses or cannot be reached.
    """
    try:
        return json.loads(_content(location))
    except (FileNotFoundError, RecursionError, ValueError):
        return None


def read_bytes(location: str) -> bytes | None:
    """Read a small file by path or URL; None if there is no file."""
    try:
        return _content(location)
    except FileNotFoundError:
        return None


def write_json(location: str, value: Any) -> None:
    """Write a JSON file by path or URL. It appears only when it is complete and, on a file system, on the disk.

    Raises:
        OSError: if it cannot be written, for example a StorageError if a store refuses or cannot be reached.
    """
    text = json.dumps(value, indent=1, allow_nan=False)
    if is_url(location):
        with named(location), system(location).open(location, "wb") as file:
            file.write(text.encode())
        return
    writable(Path(location).parent)
    write_text(location, text)


def upload(source: str | Path, location: str) -> None:
    """Copy a file, or a folder with its whole content, to a URL.

    Raises:
        StorageError: if the store refuses or cannot be reached.
    """
    source = Path(source)
    files = sorted(p for p in _walk(source) if p.is_file()) if source.is_dir() else [source]
    targets = [join(location, *p.relative_to(source).parts) if source.is_dir() else location for p in files]
    with named(location):
        system(location).put([str(p) for p in files], targets)


def download(location: str, target: str | Path, only: Callable[[str], bool] = lambda _: True) -> Path:
    """Copy a file, or a folder with its whole content, from a URL. The target appears only when it is complete.

    Args:
        location: the URL.
        target: the path of the file or folder to make.
        only: a function from the last part of a file's name to whether that file of a folder is copied.

    Raises:
        StorageError: if nothing is at the URL, or the store refuses or cannot be reached.
    """
    target = Path(target)
    part = target.with_name(f".part-{os.getpid()}-{target.name}")
    with named(location):
        store = system(location)
        root = store._strip_protocol(location).rstrip("/")
        # The consoles of stores mark folders by empty objects whose names end in a slash.
        found = [name for name in store.find(root) if not name.endswith("/")]
        if not found:
            raise StorageError(f"{location}: nothing is there. Expected a file or a folder with files.")
        single = found == [root]
        found = [name for name in found if single or only(name.rpartition("/")[2])]
        names = [part if single else part / _inside(location, name[len(root) + 1 :]) for name in found]
        if part.is_dir():
            shutil.rmtree(part)
        for name in names:
            name.parent.mkdir(parents=True, exist_ok=True)
        store.get(found, [str(name) for name in names])
    if target.is_dir():
        shutil.rmtree(target)
    part.rename(target)
    return target


def _inside(location: str, name: str) -> str:
    """The name of an object below a URL, if a file in a folder can have this name.

    Stores allow any name, and `data//etc/cron.d/x` or `data/../x` would be a file elsewhere on this machine.

    Raises:
        StorageError: if it cannot.
    """
    if any(part in ("", ".", "..") for part in name.split("/")) or "\0" in name:
        raise StorageError(
            f"{location}: expected objects whose names are those of files below a folder. Received: {name!r}. It may "
            "have been put there to write outside of that folder; remove it if it is not yours."
        )
    return name


def local(location: str, cache: str | Path | None = None, only: Callable[[str], bool] = lambda _: True) -> Path:
    """The local path of a file or folder, which is downloaded once if it is at a URL.

    Args:
        location: the path or the URL.
        cache: the folder for downloads; by default one of this process, which is removed when the process ends.
        only: which files of a folder are downloaded, see `download`.

    Raises:
        StorageError: if nothing is at the URL, or the store refuses or cannot be reached.
    """
    if not is_url(location):
        return Path(location)
    folder = Path(cache) if cache is not None else own_folder(os.getpid())
    folder.mkdir(parents=True, exist_ok=True)
    # The copy keeps the name, because the ending of a file says what it is.
    target = folder / hashlib.sha256(location.encode()).hexdigest()[:16] / location.rstrip("/").rsplit("/", 1)[-1]
    target.parent.mkdir(exist_ok=True)
    return target if target.exists() else download(location, target, only)


@functools.cache
def own_folder(process: int) -> Path:
    """A folder of this process for downloads.

    No other user can write to it or predict its name, because files of others must not be taken for downloads.
    """
    folder = Path(tempfile.mkdtemp(prefix="keras-spatial-"))

    def remove() -> None:
        # A process that this one has forked must not remove the folder.
        if os.getpid() == process:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


def fingerprint(location: str) -> str:
    """The digest of the names, sizes and versions of all objects below a URL."""
    digest = hashlib.sha256(location.encode())
    _, found = listing(location)
    for name, about in sorted(found.items()):
        digest.update(f"{name} {about['size']} {version(about)}\n".encode())
    return digest.hexdigest()[:16]


def remove(location: str) -> None:
    """Delete a file or a folder, if it exists."""
    if is_url(location):
        with named(location):
            store = system(location)
            if store.exists(location):
                store.rm(location, recursive=True)
    elif Path(location).is_dir():
        shutil.rmtree(location)
    else:
        Path(location).unlink(missing_ok=True)


@contextmanager
def mirrored(
    location: str, folder: str | Path, seconds: float = _MIRROR_SECONDS, *, uploads: bool = True
) -> Iterator[Path]:
    """Mirror a local folder to a URL inside a `with` block: download it first, and upload files when they change.

    The files must appear only when they are complete, as backups do. If the process is killed, the uploaded files
    remain; they are at most `seconds` older than the local ones.

    Args:
        location: the URL of the folder.
        folder: the path of the local folder.
        seconds: the number of seconds between two looks for changed files.
        uploads: whether to upload. Only one process of a job does.
    """
    folder = Path(folder)
    if exists(location):
        download(location, folder)
    folder.mkdir(parents=True, exist_ok=True)
    seen = {path: _version(path) for path in _files(folder)}
    stop = threading.Event()

    def pass_on() -> None:
        for path in _files(folder):
            version = _version(path)
            if version is not None and seen.get(path) != version:
                upload(path, join(location, *path.relative_to(folder).parts))
                seen[path] = version

    def watch() -> None:
        while not stop.wait(seconds):
            try:
                pass_on()
            except OSError as error:
                console.say(f"storage: {location}: {error}; trying again")

    if not uploads:
        yield folder
        return
    thread = threading.Thread(target=watch, daemon=True, name="mirror")
    thread.start()
    try:
        yield folder
    finally:
        stop.set()
        thread.join()
        pass_on()


def _files(folder: Path) -> list[Path]:
    """List the files, without those that are not yet complete: their names, or that of their folder, begin with a
    dot.
    """
    return [p for p in sorted(_walk(folder, hidden=False)) if p.is_file()]


def _walk(folder: Path, *, hidden: bool = True) -> Iterator[Path]:
    return pure.load("_paths").walk(folder, hidden=hidden)


def _version(path: Path) -> tuple[int, int] | None:
    try:
        about = path.stat()
    except FileNotFoundError:
        return None
    return about.st_size, about.st_mtime_ns


def exists(location: str) -> bool:
    """Whether there is a file, or a folder with files, at a path or URL."""
    if not is_url(location):
        return Path(location).exists()
    with named(location):
        return bool(system(location).find(location))


def _content(location: str) -> bytes:
    if not is_url(location):
        return pure.load("_paths").regular(location).read_bytes()
    with named(location):
        try:
            with system(location).open(location, "rb") as file:
                return file.read()
        except FileNotFoundError as error:
            missing = error
    raise missing
