"""The task of a model, which travels inside its `.keras` file, as text.

A `.keras` file is a zip archive. Keras reads the members that it knows and ignores others, so the description is a
member of its own, and plain Keras loads the file without this package. `keras_spatial.volumes.task` interprets the
text.
"""

import os
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import Any

from keras_spatial._paths import partial, regular

MEMBER = "task.json"
"""Name of the description in the archive."""
TRAINED = "model.keras"
"""The name of the model that a training writes. Earlier versions wrote the description beside it."""
_ATTRIBUTE = "_keras_spatial_task"
# A task with as many classes as labels can have takes a few kilobytes.
_LONGEST = 1 << 20


def read_member(path: str | os.PathLike) -> str | None:
    """The description in a `.keras` file; None if the file has none, or is not a zip archive.

    Raises:
        ValueError: if the description is damaged or too long.
    """
    if not Path(path).is_file() or not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        if MEMBER not in archive.namelist():
            return None
        # Reading decompresses no more than this number of bytes.
        size = archive.getinfo(MEMBER).file_size
        if size > _LONGEST:
            raise ValueError(
                f"{path}: expected a description of at most {_LONGEST} bytes. Received: {size} in {MEMBER}"
            )
        try:
            return archive.read(MEMBER).decode("utf-8")
        # `zipfile` raises these for a damaged member, an unknown method of compression, and an encrypted member.
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
            raise ValueError(f"{path}: {MEMBER} in it is damaged: {type(error).__name__}: {error}") from error


def read_text(path: str | os.PathLike) -> str | None:
    """The description of a model: in its `.keras` file or, for models of earlier versions, beside it; None if missing.

    Only a training's `model.keras` may have a description beside it, because other files may share their folder.
    """
    text = read_member(path)
    beside = Path(path).with_name(MEMBER)
    if text is None and Path(path).name == TRAINED and beside.is_file():
        return beside.read_text(encoding="utf-8")
    return text


def write_member(path: str | os.PathLike, text: str) -> None:
    """Put a description into a `.keras` file in place of the one that it may hold.

    The file is replaced when the new one is complete, so that a reader sees either the old or the new one.
    """
    path = regular(path)
    part = partial(path)
    try:
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(part, "w") as target:
            for about in source.infolist():
                if about.filename != MEMBER:
                    with source.open(about) as old, target.open(about, "w", force_zip64=True) as new:
                        shutil.copyfileobj(old, new, 1 << 20)
            target.writestr(MEMBER, text)
        shutil.copymode(path, part)
        # This may be the only copy of the model, so it must survive a loss of power.
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def attached(model: Any) -> str | None:
    """The description that a model was loaded with."""
    return getattr(model, _ATTRIBUTE, None)


def attach(model: Any, text: str | None) -> None:
    """Give a model the description of its file; a partitioned copy has it as well."""
    setattr(model, _ATTRIBUTE, text)
