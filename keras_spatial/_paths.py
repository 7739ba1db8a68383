"""Names of files: their endings, what the file system and UTF-8 allow, temporary names that fit beside them, the files
of a folder, and which paths may be opened.

It imports only the standard library, because `components.pure` loads this file without its package.
"""

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

# The longest name that Linux file systems allow for one part of a path.
NAME_BYTES = 255

# The endings of volumes, listed only here. Case is ignored everywhere, because scanner software writes .NII.GZ.
NIFTI = (".nii.gz", ".nii")
ITK = (".nrrd", ".mha")
VOLUMES = (*NIFTI, *ITK)
"""Files that `read_volume` takes as one volume."""
DICOM = (".dcm", ".dicom", ".ima")
"""The endings of DICOM files, which may also have none. The names of such files may be those of patients."""
UNREAD = (".mhd", ".nhdr", ".hdr", ".mgz", ".mgh", ".mnc")
"""The endings of volumes in formats that are not read. A search for volumes names them instead of passing them over."""
RESULTS = (*NIFTI, ".dcm")
"""Label files that are written: NIfTI, or a DICOM segmentation."""
LABELS = (*VOLUMES, ".dcm")
"""Label files that are read."""
_CHANNEL = re.compile(r"(.+)_([0-9]{4})")
_KINDS = {
    stat.S_IFREG: "a regular file",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_WRITTEN = (*NIFTI, ".zarr", ".html", ".json", ".keras")


def ending_of(name: str | os.PathLike, endings: Sequence[str]) -> str:
    """The ending in the list that a file's name has, in lower case, or ""."""
    lower = Path(name).name.lower()
    return next((ending for ending in endings if lower.endswith(ending)), "")


def stem_of(name: str, endings: Sequence[str]) -> str:
    """A file's name without its ending, if that is in the list."""
    return name[: len(name) - len(ending_of(name, endings))]


def channel_of(stem: str) -> tuple[str, int] | None:
    """The case and the number of the channel in a name without its ending, such as `liver_0_0001`, as nnU-Net has them.

    None if the name does not end in such a number.
    """
    match = _CHANNEL.fullmatch(stem)
    return (match[1], int(match[2])) if match else None


def partial(path: Path) -> Path:
    """A hidden name beside `path` for a file that is not yet complete.

    It keeps the suffixes by which writers choose a format, such as `.nii.gz`, and has a fixed length, because a prefix
    before a name of 251 characters would not fit.
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


def kind_of(mode: int) -> str:
    """What kind of file a path with this mode is, in the words of the messages."""
    return _KINDS.get(stat.S_IFMT(mode), "a special file")


def regular(path: str | os.PathLike) -> Path:
    """Return the path if it is that of a regular file. Whatever opens a file that a user named calls this first.

    Opening a named pipe waits for whoever writes to it, perhaps forever, and a device may never end.

    Raises:
        OSError: if it is something else, or cannot be found.
    """
    path = Path(path)
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(number, f"is {kind_of(mode)}, not a regular file", os.fspath(path))
    return path


def printable(text: str | os.PathLike) -> str:
    """The text with each non-UTF-8 byte as an escape, such as `\\\\xff`, so that any output accepts it."""
    text = os.fspath(text)
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def walk(folder: str | os.PathLike, *, hidden: bool = True) -> Iterator[Path]:
    """Yield the files of a folder and of all folders in it, in the order of their names, following links to folders.

    `Path.rglob` and `os.walk` silently leave out what lies behind such a link, so data that were mounted or linked into
    place would be missing. Each folder is entered once, under its own name if it lies in `folder`, so that links in a
    circle come to an end. Of a link to a folder that is entered under another name, the path of the link itself is
    yielded.

    Args:
        folder: the folder to search. A folder that is missing or cannot be read counts as empty.
        hidden: whether to enter folders and yield files whose names begin with a dot.
    """
    entered: set[tuple[int, int]] = set()
    waiting = [Path(folder)]
    while waiting:
        links: list[Path] = []
        for start in waiting:
            yield from _below(start, entered, links, hidden)
        # Links come last, so that folders are entered under their own names.
        waiting = links


def _below(start: Path, entered: set[tuple[int, int]], links: list[Path], hidden: bool) -> Iterator[Path]:
    """Yield the files below one folder, and collect the links to other folders."""
    for name, folders, names in os.walk(start):
        parent = Path(name)
        try:
            status = parent.stat()
        except OSError:
            folders.clear()
            continue
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            yield parent
            continue
        entered.add((status.st_dev, status.st_ino))
        below = [parent / name for name in sorted(folders) if hidden or not name.startswith(".")]
        links += [path for path in below if path.is_symlink()]
        folders[:] = [path.name for path in below if not path.is_symlink()]
        yield from (parent / name for name in sorted(names) if hidden or not name.startswith("."))
