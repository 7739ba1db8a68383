"""File names: what the file system and UTF-8 allow, and temporary names that always fit beside them."""

import hashlib
import os
from pathlib import Path

# The longest name that Linux file systems allow for one part of a path.
NAME_BYTES = 255


def partial(path: Path) -> Path:
    """A hidden name beside `path` for a file that is not yet complete.

    It keeps the suffixes by which writers choose a format, such as `.nii.gz`, and has a fixed length, because a prefix
    before a name of 251 characters would not fit.
    """
    ending = next((e for e in (".nii.gz", ".nii", ".zarr", ".html", ".json") if path.name.endswith(e)), ".tmp")
    return path.with_name(f".part-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}{ending}")


def fault_of_name(path: str | os.PathLike) -> str | None:
    """What is wrong with a path as the name of a file, or None."""
    text = os.fspath(path)
    if "\0" in text:
        return "a NUL character"
    longest = max((len(os.fsencode(part)) for part in Path(text).parts), default=0)
    if longest > NAME_BYTES:
        return f"a name of {longest} bytes, where file systems allow {NAME_BYTES}"
    if printable(text) != text:
        return "bytes that are not UTF-8"
    return None


def printable(text: str | os.PathLike) -> str:
    """The text with each byte that is not UTF-8 as an escape, such as `\\\\xff`, so that it can be written anywhere."""
    text = os.fspath(text)
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
