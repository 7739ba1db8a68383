"""Files that are either complete or absent, and logs that lose at most one line if a process is killed."""

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components import pure
from components.owner import sync_folder

_SEAL = "sha256"


def write_json(path: str | Path, value: Any) -> Path:
    """Write a value as JSON; the file appears only when it is complete and on the disk."""
    return write_text(path, json.dumps(value, indent=1, allow_nan=False))


def write_text(path: str | Path, text: str) -> Path:
    """Write a text. The file appears only when it is complete and on the disk, even if the machine loses power."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two pods may write a file of this name at once, and have the same process number.
    part = path.with_name(f".part-{uuid.uuid4().hex}")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)
    return path


def read_json(path: str | Path) -> Any:
    """Read a JSON file, which must be a regular file.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is not JSON; the message names the file.
    """
    try:
        return parse_json(pure.load("_paths").regular(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON. Received: {error}") from error


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: if it is damaged, or nested so deeply that Python cannot read it.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def sealed(value: dict[str, Any]) -> dict[str, Any]:
    """A value for JSON with the digest of its content, which `unsealed` verifies."""
    return {**value, _SEAL: _digest(value)}


def unsealed(value: Any) -> dict[str, Any]:
    """The value that `sealed` was given.

    Raises:
        ValueError: if it is not a sealed value, or its content has changed.
    """
    if not isinstance(value, dict) or _SEAL not in value:
        raise ValueError(f"expected an object with {_SEAL!r}. Received: {str(value)[:40]}")
    content = {name: part for name, part in value.items() if name != _SEAL}
    if value[_SEAL] != _digest(content):
        raise ValueError("its content has changed since it was written")
    return content


def _digest(value: dict[str, Any]) -> str:
    # Convert the value as JSON does, which has no tuples and only strings as names.
    plain = json.loads(json.dumps(value))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def append_json(path: str | Path, value: Any) -> None:
    """Append a line of JSON to a log. If a kill or a full disk has cut the last line, the new one begins on its own."""
    with Path(path).open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(json.dumps(value).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_jsons(path: str | Path) -> Iterator[dict[str, Any]]:
    """The objects of a log in order, without lines that are cut or damaged; none if there is no log."""
    try:
        lines = pure.load("_paths").regular(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            value = parse_json(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value
