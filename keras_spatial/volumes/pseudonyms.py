"""Pseudonyms in place of patients' identifiers in messages, file names and reports.

DICOM files name the patient in their headers, and often in the names of files and folders too, and every UID leads back
to the patient in the archive that it came from. So a series is called by a pseudonym, which does not depend on its
folder, and a file by its number, unless the user asks for the identifiers.
"""

import hashlib
import hmac
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KEY_VARIABLE = "KERAS_SPATIAL_PSEUDONYM_KEY"
VARIABLE = "KERAS_SPATIAL_IDENTIFIERS"
_CHOICES = {"": False, "replace": False, "keep": True}


def pseudonym(*identifiers: str | bytes) -> str:
    """16 hexadecimal digits that stand for identifiers: the same for equal identifiers, and useless for finding them.

    They are the HMAC-SHA256 of the identifiers with the key in `KERAS_SPATIAL_PSEUDONYM_KEY`. Without a key, everybody
    with a list of candidates, such as that of an archive, can compute which of them a pseudonym stands for.
    """
    parts = [i if isinstance(i, bytes) else i.encode("utf-8", "surrogateescape") for i in identifiers]
    message = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    return hmac.new(os.environ.get(KEY_VARIABLE, "").encode(), message, hashlib.sha256).hexdigest()[:16]


def identifiers_kept() -> bool:
    """Whether `KERAS_SPATIAL_IDENTIFIERS` asks for UIDs and file names in messages and names of results.

    Raises:
        ValueError: if it is neither "replace", the default, nor "keep".
    """
    value = os.environ.get(VARIABLE, "").strip().lower()
    if value not in _CHOICES:
        raise ValueError(f"{VARIABLE}: expected 'replace' or 'keep'. Received: {value!r}")
    return _CHOICES[value]


def called(path: str | os.PathLike, number: int, count: int) -> str:
    """The name of a DICOM file in messages: its number in the order of names, or its path if the user asks for it."""
    if identifiers_kept():
        return os.fspath(path)
    try:
        size = f", {Path(path).stat().st_size} bytes"
    except OSError:
        size = ""
    return f"file {number} of {count} in the order of their names{size} (its name: {VARIABLE}=keep)"


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the warnings and log lines of pydicom and highdicom, which quote the content of headers."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL + 1)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
