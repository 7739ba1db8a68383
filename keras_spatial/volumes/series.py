"""Find the DICOM series in a folder by their headers. Nothing that identifies a patient leaves this package.

pydicom reads the headers, so that files that are too large or do not belong together are known before any pixel is
decoded.
"""

import importlib
import io
import mmap
import os
import re
import stat
from collections.abc import Iterator, MutableSequence, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_spatial._paths import fault_of_name, kind_of, printable, walk
from keras_spatial.volumes.identity import called, identifiers_kept, pseudonym, quiet
from keras_spatial.volumes.volume import (
    DimensionError,
    FileNameError,
    SeriesError,
    UnreadableVolumeError,
    VolumeError,
)

_PREAMBLE, _MAGIC = 128, b"DICM"
# A file with one of these endings that is not DICOM is damaged; with any other ending it is something else.
_ENDINGS = (".dcm", ".dicom", ".ima")
_DEFLATED = b"1.2.840.10008.1.2.1.99"
SEGMENTATION = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SeriesNumber",
    "PatientID", "Modality", "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored",
    "PixelRepresentation", "RescaleSlope", "RescaleIntercept", "TemporalPositionIdentifier", "AcquisitionNumber",
    "EchoNumbers", "EchoTime", "DiffusionBValue", "TriggerTime",
]  # fmt: skip
# The fields in which images at the same position differ if a series has several volumes.
TIMES = (
    "TemporalPositionIdentifier", "AcquisitionNumber", "EchoNumbers", "EchoTime", "DiffusionBValue", "TriggerTime"
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Slice:
    """An image of a series, as the header of its file describes it.

    Attributes:
        path: the path of the file.
        called: the name of the file in messages.
        number: the InstanceNumber, or None.
        uid: the SOPInstanceUID, or "".
        patient, frame: the PatientID and the FrameOfReferenceUID, for comparisons.
        modality: the modality, such as "CT".
        syntax: the UID of the transfer syntax, which determines the compression.
        frames, rows, columns, samples, bits, signed, photometric: the format of the image.
        position: the centre of the first pixel in mm, in DICOM's axes (x to the left, y to the back, z up).
        orientation: the directions of a row and of a column.
        spacing: the distances between rows and between columns in mm.
        slope, intercept: the value of a stored pixel is `slope * pixel + intercept`.
        times: the values of the fields `TIMES`, in which images at the same position may differ.
    """

    path: Path
    called: str
    number: int | None
    uid: str
    patient: str
    frame: str
    modality: str
    syntax: str
    frames: int
    rows: int
    columns: int
    samples: int
    bits: int
    signed: bool
    photometric: str
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    slope: float
    intercept: float
    times: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Series:
    """A DICOM series that `find_series` has found.

    Its `str()` is its name in messages: "DICOM series" and its pseudonym, or its UID with
    `KERAS_SPATIAL_IDENTIFIERS=keep`.

    Attributes:
        folder: the folder in which it was looked for.
        name: its pseudonym, or its UID with `KERAS_SPATIAL_IDENTIFIERS=keep`; also used in the names of files.
        slices: its images, in the order of the names of their files.
        fault: why it cannot be read, if its headers tell; otherwise None.
    """

    folder: Path
    name: str
    slices: tuple[Slice, ...]
    fault: VolumeError | None = None

    def __str__(self) -> str:
        return f"DICOM series {self.name}"

    @property
    def summary(self) -> str:
        """The modality, the number of images and their size, such as "CT, 120 images of 512 x 512"."""
        if not self.slices:
            return "no image"
        first = self.slices[0]
        return f"{first.modality or 'unknown modality'}, {len(self.slices)} images of {first.columns} x {first.rows}"


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
            return file.read(_PREAMBLE + len(_MAGIC))[_PREAMBLE:] == _MAGIC
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


def find_series(folder: str | Path) -> list[Series]:
    """Find the DICOM series of a folder and its subfolders, ordered by their pseudonyms. Only headers are read.

    Files that are not DICOM, and DICOM objects that are not images, such as reports and plans, are left out. A damaged
    file is a fault of every series with images in the same folder, because it may belong to any of them.

    Raises:
        UnreadableVolumeError: if the folder does not exist.
        FileNameError: if its name cannot be used.
        ImportError: if pydicom is not installed.

    Example:

    ```python
    for series in ks.volumes.find_series("study"):
        print(series, series.summary)
        volume = ks.volumes.read_volume(series)
    ```
    """
    folder = Path(folder)
    if fault := fault_of_name(folder):
        raise FileNameError(f"{printable(folder)}: rename the folder. Received: {fault}")
    if not folder.is_dir():
        raise UnreadableVolumeError(f"{folder}: no such folder. Expected a folder with the files of a DICOM series.")
    files = list(_files(folder))
    slices: dict[tuple[str, ...], list[Slice]] = {}
    faults: dict[Path, list[VolumeError]] = {}
    for number, path in enumerate(files, start=1):
        name = called(path, number, len(files))
        try:
            found = read_slice(path, name)
        except VolumeError as error:
            faults.setdefault(path.parent, []).append(error)
            continue
        if found is not None:
            key, image = found
            # Images without a UID belong together if they lie in the same folder.
            slices.setdefault(key if key[0] else (*key, str(path.parent)), []).append(image)
    result = [_series(folder, key, images, faults) for key, images in slices.items()]
    known = {image.path.parent for images in slices.values() for image in images}
    for parent in sorted(set(faults) - known):
        place = os.fspath(parent.relative_to(folder))
        result.append(Series(folder, _name(place, place), (), faults[parent][0]))
    return sorted(result, key=lambda series: series.name)


def read_slice(path: Path, name: str) -> tuple[tuple[str, ...], Slice] | None:
    """The key that identifies the series of a file, and its image; None if the file has no image.

    Raises:
        UnreadableVolumeError: if the file is damaged, or its transfer syntax cannot be read within limits.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise UnreadableVolumeError(f"{name}: expected a regular file. Received: {kind_of(mode)}")
        if not is_dicom(path):
            raise UnreadableVolumeError(
                f"{name}: not a DICOM file; copy or download it again. Expected {_MAGIC.decode()} after "
                f"{_PREAMBLE} bytes."
            )
        with quiet():
            header = read_dataset(path, name, stop_before_pixels=True, specific_tags=_TAGS)
            if _is_no_image(header):
                return None
            if "Rows" not in header:
                raise UnreadableVolumeError(
                    f"{name}: its DICOM header is damaged; copy or download it again. Received: neither the size of an "
                    "image nor a class of objects that are not images"
                )
            image = _image(path, name, _text(header.file_meta, "TransferSyntaxUID"), header)
            key = (_text(header, "SeriesInstanceUID"), _text(header, "StudyInstanceUID"))
            return (key if key[0] else (*key, image.frame, _text(header, "SeriesNumber"))), image
    except VolumeError:
        raise
    # pydicom raises errors of many kinds. Their messages quote the header, so neither message nor cause is kept.
    except Exception as error:
        raise UnreadableVolumeError(
            f"{name}: its DICOM header is damaged; copy or download it again. Received: {type(error).__name__}"
        ) from None


def read_dataset(path: Path, name: str, **options: Any) -> Any:
    """Read a DICOM file with pydicom, without allocating more than the file is long.

    Args:
        path: the path of the file.
        name: the name of the file in messages.
        options: those of `pydicom.dcmread`.

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
        return pydicom("Reading DICOM").dcmread(file, **options)


def _is_no_image(header: Any) -> bool:
    """Whether a file says, in two places, that it is a segmentation or not an image: a report, a plan, a directory.

    A file without the size of its image that is only damaged is not left out.
    """
    uid = _text(header, "SOPClassUID")
    stored = _text(header.file_meta, "MediaStorageSOPClassUID")
    if uid in SEGMENTATION:
        return True
    if "Rows" in header or not re.fullmatch(r"[0-9]+(\.[0-9]+){4,}", stored) or uid not in (stored, ""):
        return False
    # The standard's own classes have names; those of image classes contain "Image". A directory names its class only
    # once.
    kind = str(pydicom("Reading DICOM").uid.UID(stored).name)
    return "Image" not in kind and (uid != "" or "Directory" in kind) and (kind != stored or not _own(stored))


def _own(uid: str) -> bool:
    """Whether a UID is assigned by the DICOM standard."""
    return uid.startswith("1.2.840.10008.")


def _mentions(path: Path, text: bytes) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(text) >= 0


class BoundedFile(io.BufferedReader):
    """A file that never reads beyond its end, because Python would allocate as many bytes as a damaged length says."""

    def __init__(self, path: Path):
        super().__init__(io.FileIO(path))
        self._bytes = path.stat().st_size

    def read(self, size: int | None = -1) -> bytes:
        left = max(self._bytes - self.tell(), 0)
        return super().read(left if size is None or size < 0 else min(size, left))


def _image(path: Path, name: str, syntax: str, header: Any) -> Slice:
    return Slice(
        path=path,
        called=name,
        number=_integer(header, "InstanceNumber"),
        uid=_text(header, "SOPInstanceUID", "MediaStorageSOPInstanceUID"),
        patient=_text(header, "PatientID"),
        frame=_text(header, "FrameOfReferenceUID"),
        modality=_term(_text(header, "Modality"), "[A-Z]{2,4}"),
        syntax=_term(syntax, r"1\.2\.840\.10008\.1\.2[.0-9]*"),
        frames=_integer(header, "NumberOfFrames") or 1,
        rows=_integer(header, "Rows") or 0,
        columns=_integer(header, "Columns") or 0,
        samples=_integer(header, "SamplesPerPixel") or 1,
        bits=_integer(header, "BitsStored") or _integer(header, "BitsAllocated") or 16,
        signed=_integer(header, "PixelRepresentation") == 1,
        photometric=_term(
            _text(header, "PhotometricInterpretation"), "MONOCHROME[12]|RGB|PALETTE COLOR|YBR_[A-Z0-9_]+"
        ),
        position=_numbers(header, "ImagePositionPatient"),
        orientation=_numbers(header, "ImageOrientationPatient"),
        spacing=_numbers(header, "PixelSpacing"),
        slope=(_numbers(header, "RescaleSlope") or (1.0,))[0],
        intercept=(_numbers(header, "RescaleIntercept") or (0.0,))[0],
        times=tuple(_term(_text(header, keyword), r"[-+.0-9eE]*") for keyword in TIMES),
    )


def _text(header: Any, keyword: str, instead: str = "") -> str:
    """A field as text; if it is absent or empty, a field of the file's meta header instead, or else ""."""
    value = header.get(keyword)
    if value in (None, "") and instead:
        value = header.file_meta.get(instead)
    return "" if value is None else str(value).strip()


def _term(text: str, pattern: str) -> str:
    """A text that messages may show, if it matches the pattern of valid ones: a damaged header may contain anything."""
    return text if not text or re.fullmatch(pattern, text) else "an unknown one"


def _integer(header: Any, keyword: str) -> int | None:
    value = header.get(keyword)
    return None if value in (None, "") else int(value)


def _numbers(header: Any, keyword: str) -> tuple[float, ...]:
    value = header.get(keyword)
    if value in (None, ""):
        return ()
    return tuple(float(v) for v in value) if isinstance(value, MutableSequence) else (float(value),)


def _files(folder: Path) -> Iterator[Path]:
    """The files that are DICOM or should be, folder by folder, in the order of their names."""
    for path in walk(folder, hidden=False):
        if not path.is_dir() and (path.name.lower().endswith(_ENDINGS) or (path.is_file() and is_dicom(path))):
            yield path


def _series(
    folder: Path, key: tuple[str, ...], images: Sequence[Slice], faults: dict[Path, list[VolumeError]]
) -> Series:
    nearby = [error for parent in dict.fromkeys(i.path.parent for i in images) for error in faults.get(parent, ())]
    fault = nearby[0] if nearby else None
    if fault is None and any(image.frames > 1 for image in images):
        fault = DimensionError(
            f"{images[0].called}: expected one image in each file. Received: {max(i.frames for i in images)} frames, "
            "as enhanced DICOM has them. Convert it to NIfTI, for instance with dcm2niix"
        )
    uid = key[0]
    return Series(folder, _name(uid, uid or _content(images)), tuple(images), fault)


def _name(uid: str, *identifiers: str) -> str:
    return printable(uid).replace(os.sep, "_") if uid and identifiers_kept() else pseudonym(*identifiers)


def _content(images: Sequence[Slice]) -> str:
    """An identifier for a series without a UID that does not depend on its folder: its images' UIDs or positions."""
    return "\n".join(sorted(image.uid or f"{image.frame} {image.number} {image.position}" for image in images))


def only_series(folder: Path) -> Series:
    """The only series of a folder.

    Raises:
        UnreadableVolumeError: if there is none.
        SeriesError: if there are several.
    """
    found = find_series(folder)
    if not found:
        raise UnreadableVolumeError(
            f"{folder}: expected a file (.nii, .nii.gz, .nrrd, .mha), or a folder with the files of a DICOM series. "
            "Received: a folder without DICOM images"
        )
    if len(found) > 1:
        listed = "; ".join(f"{series.name}: {series.summary}" for series in found[:10])
        more = f"; and {len(found) - 10} more" if len(found) > 10 else ""
        raise SeriesError(
            f"DICOM folder: expected one series. Received: {len(found)}: {listed}{more}. Read one of those that "
            "ks.volumes.find_series returns, or move each series to its own folder"
        )
    return found[0]
