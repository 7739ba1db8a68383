"""Names of files: their endings, what the file system and UTF-8 allow, and temporary names that fit beside them."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

# What Linux file systems allow for one part of a path.
NAME_BYTES = 255

# The endings of volumes, here alone. Upper and lower case are the same everywhere: scanners' software writes .NII.GZ.
NIFTI = (".nii.gz", ".nii")
ITK = (".nrrd", ".mha")
VOLUMES = (*NIFTI, *ITK)
"""Files that `read_volume` takes as one volume."""
RESULTS = (*NIFTI, ".dcm")
"""Label files that are written: NIfTI, or a DICOM segmentation."""
LABELS = (*VOLUMES, ".dcm")
"""Label files that are read."""
_WRITTEN = (*NIFTI, ".zarr", ".html", ".json", ".keras")


def ending_of(name: str | os.PathLike, endings: Sequence[str]) -> str:
    """Which of the endings a file's name has, in small letters, or ""."""
    lower = Path(name).name.lower()
    return next((ending for ending in endings if lower.endswith(ending)), "")


def stem_of(name: str, endings: Sequence[str]) -> str:
    """A file's name without the one of the endings that it has."""
    return name[: len(name) - len(ending_of(name, endings))]


def partial(path: Path) -> Path:
    """A hidden name beside `path` for a file that is not yet complete.

    It has the suffixes of a NIfTI file, by which writers choose a format, and fits wherever the name itself fits: a
    prefix before a name of 251 characters would not.
    """
    ending = ending_of(path.name, _WRITTEN) or ".tmp"
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
    """The text with each byte that is no UTF-8 as an escape, such as `\\\\xff`, so that it can be written anywhere."""
    text = os.fspath(text)
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
