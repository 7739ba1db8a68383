"""Access to object stores by URL: `gs://...` and `s3://...` through fsspec and its packages gcsfs and s3fs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}


class StorageError(OSError):
    """A folder or an object store cannot be read or written; the message says what an administrator has to change."""


def is_url(location: str | os.PathLike) -> bool:
    """Whether a location is a URL rather than a path."""
    return "://" in str(location)


def path_of(location: str | os.PathLike) -> Path | None:
    """The path that a `file://` URL names; None for any other location.

    Raises:
        StorageError: if the URL names another host than this machine, which it may call `localhost` (RFC 8089).
    """
    scheme, mark, rest = str(location).partition("://")
    if not mark or scheme != "file":
        return None
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost") or not slash:
        raise StorageError(
            f"{location}: expected file:///PATH, an absolute path of this machine. Received: "
            f"{f'the host {host!r}' if host else 'no path'}. A file of another machine has to be on a volume that this "
            "one has mounted, or in an object store."
        )
    return Path(f"/{path}")


class _Files(LocalFileSystem):
    """The files of this machine by `file://` URLs, whose host fsspec's own class takes for a folder."""

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        named = path_of(path) if isinstance(path, str) else None
        return super()._strip_protocol(path if named is None else str(named))


def join(location: str, *parts: str) -> str:
    """A path or URL below another one."""
    return "/".join([location.rstrip("/"), *parts])


def system(location: str) -> Any:
    """The file system of fsspec for a URL, with an empty cache.

    Raises:
        StorageError: if there is no file system for the URL, its package is not installed, or it names a file of
            another machine.
    """
    protocol = location.partition("://")[0]
    path_of(location)
    try:
        found = _Files() if protocol == "file" else fsspec.filesystem(protocol)
    except (ImportError, ValueError) as error:
        package = _PACKAGES.get(protocol)
        remedy = f"install {package} in the image" if package else f"expected one of {sorted(_PACKAGES)}"
        raise StorageError(f"{location}: cannot be opened: {error}; {remedy}.") from error
    # Other processes may have written there since the last call.
    found.invalidate_cache()
    return found


@contextmanager
def named(location: str) -> Iterator[None]:
    """Turn every error of the `with` block into a `StorageError`: the stores' clients raise errors of many kinds."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        raise StorageError(
            f"{location}: {type(error).__name__}: {error}. Look at the address, the credentials (files of a secret, or "
            "the service account's) and AWS_ENDPOINT_URL."
        ) from error


def listing(location: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """List all objects below a URL.

    Returns:
        The URL as the file system writes it, and what the store says about each object, by the name of the object below
        that URL. If the URL is that of a single object, its name is "".

    Raises:
        StorageError: if the store refuses or cannot be reached.
    """
    with named(location):
        found = system(location)
        root = found._strip_protocol(location).rstrip("/")
        below = found.find(root, detail=True)
        return root, {name[len(root) :].removeprefix("/"): about for name, about in below.items()}


def version(about: dict[str, Any]) -> str:
    """A text that changes whenever an object does."""
    return str(about.get("ETag") or about.get("etag") or about.get("md5Hash") or about.get("mtime"))
