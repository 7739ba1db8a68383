"""Data sets at a URL: they are built in a folder of this machine that stands for it, and uploaded once complete.

TensorFlow, which writes the records, opens `s3://` only with TensorFlow I/O, which has no build for current versions,
and no object store can rename a folder. So a data set is built in a local folder, where the work can also be resumed
after a failure, and a reader of the URL finds a complete data set or none.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import object_store
from datasets.locking import exclusive

CACHE_VARIABLE = "KERAS_SPATIAL_CACHE"
_LAST = "dataset_info.json"
"""The file that makes a folder a data set, so it is uploaded last."""
_DIGESTS = ".digests.json"


def nearby(data_dir: str | os.PathLike) -> Path:
    """The folder of this machine with the data sets of a `data_dir`: the path itself, or a folder that stands for a
    URL."""
    if not object_store.is_url(data_dir):
        return Path(data_dir)
    given = os.environ.get(CACHE_VARIABLE)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(given) if given else Path(home) / "keras-spatial"
    return root / hashlib.sha256(str(data_dir).rstrip("/").encode()).hexdigest()[:16]


@dataclass
class Publication:
    """What `published` did.

    Attributes:
        uploaded: whether it has uploaded a data set.
        downloaded: whether it has downloaded a data set, which another machine may have published.
    """

    uploaded: bool = False
    downloaded: bool = False


@contextmanager
def published(data_dir: str | os.PathLike, parts: tuple[str, str, str]) -> Iterator[Publication]:
    """Download the data set at a URL before the `with` block, and upload what has changed after it.

    The files are in the folder `nearby(data_dir)`. If `data_dir` is a path, there is nothing to do.

    Args:
        data_dir: a path or a URL.
        parts: the name, the config and the version of the data set, which are its folder below `data_dir`.

    Raises:
        BuildInProgressError: if another process of this machine is building the same data set.
        StorageError: if the store refuses or cannot be reached. What was built is kept, and the next call uploads it.
    """
    publication = Publication()
    if not object_store.is_url(data_dir):
        yield publication
        return
    folder = nearby(data_dir).joinpath(*parts)
    url = object_store.join(str(data_dir), *parts)
    known = folder.parents[1] / f".published-{parts[1]}-{parts[2]}.json"
    with exclusive(folder.parents[1] / f".lock-published-{parts[1]}"):
        there = _there(url)
        if _LAST in there and _read(known) != [there, _here(folder)]:
            _download(url, folder)
            _write(known, [there, _here(folder)])
            publication.downloaded = True
        _share_digests(url, folder, upload=False)
        yield publication
        if folder.is_dir() and _read(known) != [there, _here(folder)]:
            _upload(folder, url, list(there))
            _share_digests(url, folder, upload=True)
            _write(known, [_there(url), _here(folder)])
            publication.uploaded = True


def _there(url: str) -> dict[str, Any]:
    """The size and the version of each object below a URL."""
    _, found = object_store.listing(url)
    return {name: [about["size"], object_store.version(about)] for name, about in sorted(found.items())}


def _here(folder: Path) -> dict[str, Any]:
    """The size and the time of each file of a folder."""
    files = {path.relative_to(folder).as_posix(): path.stat() for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: [about.st_size, about.st_mtime_ns] for name, about in files.items()}


def _download(url: str, folder: Path) -> None:
    """Download a data set into a folder, and replace what was there."""
    part, old = (folder.with_name(f".{kind}-{uuid.uuid4().hex}") for kind in ("part", "old"))
    try:
        with object_store.named(url):
            object_store.system(url).get(url, str(part), recursive=True)
        if folder.is_dir():
            folder.rename(old)
        part.rename(folder)
    finally:
        for left in (part, old):
            shutil.rmtree(left, ignore_errors=True)


def _upload(folder: Path, url: str, there: list[str]) -> None:
    names = [name for name in _here(folder) if name != _LAST]
    with object_store.named(url):
        store = object_store.system(url)
        if _LAST in there:
            store.rm(object_store.join(url, _LAST))
        store.put([str(folder / name) for name in names], [object_store.join(url, name) for name in names])
        for name in {*there} - {*names, _LAST}:
            store.rm(object_store.join(url, name))
        store.put_file(str(folder / _LAST), object_store.join(url, _LAST))


def _share_digests(url: str, folder: Path, *, upload: bool) -> None:
    """Exchange the digests of the sources with the store, so that another machine need not read all sources for
    them.
    """
    near, place = folder.parents[1] / _DIGESTS, object_store.join(url.rsplit("/", 2)[0], _DIGESTS)
    with object_store.named(place):
        store = object_store.system(place)
        if upload and near.is_file():
            store.put_file(str(near), place)
        elif not upload and not near.is_file() and store.exists(place):
            near.parent.mkdir(parents=True, exist_ok=True)
            store.get_file(store._strip_protocol(place), str(near))


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _write(path: Path, value: Any) -> None:
    part = path.with_name(f".part-{uuid.uuid4().hex}")
    part.write_text(json.dumps(value))
    part.replace(path)
