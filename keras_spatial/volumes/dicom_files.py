"""DICOM files on disk: what they are by their first bytes, and reading them within the size that they have."""

import importlib
import io
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from keras_spatial.volumes.pseudonyms import quiet
from keras_spatial.volumes.volume import UnreadableVolumeError

PREAMBLE, MAGIC = 128, b"DICM"
SEGMENTATION = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_DEFLATED = b"1.2.840.10008.1.2.1.99"


def pydicom(purpose: str) -> Any:
    """Import the package pydicom.

    Raises:
        ImportError: if it is not installed; the message has the command that installs it.
    """
    try:
        return importlib.import_module("pydicom")
    except ImportError as error:
        raise ImportError(f"{purpose} needs pydicom. Install it: pip install 'keras-spatial[dicom]'") from error


def is_dicom(path: Path) -> bool:
    """Whether a file can be read and has DICOM's mark after its preamble."""
    try:
        with path.open("rb") as file:
            return file.read(PREAMBLE + len(MAGIC))[PREAMBLE:] == MAGIC
    except OSError:
        return False


def is_segmentation(path: Path) -> bool:
    """Whether a DICOM file is a segmentation."""
    try:
        with quiet():
            found = pydicom("Reading DICOM").filereader.read_file_meta_info(path).get("MediaStorageSOPClassUID", "")
        return str(found) in SEGMENTATION
    except ImportError:
        raise
    # pydicom raises errors of many kinds for damaged files.
    except Exception:
        return False


def read_head(head: bytes, last: str) -> Any:
    """The data set in the first bytes of a DICOM file, up to a field.

    Args:
        head: the bytes. Where they end inside a field, only a part of its value is there.
        last: the keyword of the last field to read.

    Returns:
        The data set, or None if it is deflated.

    Raises:
        Exception: errors of many kinds if the bytes are damaged or end inside a sequence; their messages quote the
            header.
    """
    if _DEFLATED in head:
        return None
    reader = pydicom("Reading DICOM")
    end = reader.tag.Tag(last)
    return reader.filereader.read_partial(io.BytesIO(head), stop_when=lambda tag, *_: tag > end)


class BoundedFile(io.BufferedReader):
    """A file that never reads beyond its end, because Python would allocate as many bytes as a damaged length says."""

    def __init__(self, path: Path):
        super().__init__(io.FileIO(path))
        self._bytes = path.stat().st_size

    @property
    def left(self) -> int:
        """The number of bytes from here to the end of the file."""
        return max(self._bytes - self.tell(), 0)

    def read(self, size: int | None = -1) -> bytes:
        return super().read(self.left if size is None or size < 0 else min(size, self.left))


@contextmanager
def opened(path: Path, name: str, **options: Any) -> Iterator[tuple[Any, BoundedFile]]:
    """Read a DICOM file with pydicom, without allocating more than the file is long, and keep it open.

    Args:
        path: the path of the file.
        name: the name of the file in messages.
        options: those of `pydicom.dcmread`.

    Returns:
        The data set, and the file, which stands where pydicom has stopped: at the pixels with `stop_before_pixels`.

    Raises:
        UnreadableVolumeError: if the headers are deflated.
        Exception: errors of many kinds if the file is damaged; their messages quote the header.
    """
    # pydicom would decompress the whole file before anything is known about its size.
    if _mentions(path, _DEFLATED):
        raise UnreadableVolumeError(
            f"{name}: its headers are deflated, so their size is not known in advance. Convert it, for "
            "instance with dcmconv of DCMTK. Received: transfer syntax Deflated Explicit VR Little Endian"
        )
    with BoundedFile(path) as file:
        yield pydicom("Reading DICOM").dcmread(file, **options), file


def read_dataset(path: Path, name: str, **options: Any) -> Any:
    """The data set of a DICOM file; see `opened`."""
    with opened(path, name, **options) as (found, _):
        return found


def _mentions(path: Path, text: bytes) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(text) >= 0
