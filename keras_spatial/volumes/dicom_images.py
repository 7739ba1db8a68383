"""The images that a DICOM file holds, as its header describes them. No pixel is read.

A classic file holds one image. An enhanced file holds many, its frames: its functional groups say where each frame lies
and how it is scaled, and a group belongs either to one frame or to all of them.
"""

import re
import stat
from collections.abc import MutableSequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_spatial._paths import kind_of
from keras_spatial.volumes.dicom_files import MAGIC, PREAMBLE, SEGMENTATION, is_dicom, pydicom, read_dataset, read_head
from keras_spatial.volumes.pseudonyms import quiet
from keras_spatial.volumes.volume import UnreadableVolumeError, VolumeError

_SHARED, _OWN = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SeriesNumber",
    "PatientID", "Modality", "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored",
    "PixelRepresentation", "RescaleSlope", "RescaleIntercept", "TemporalPositionIdentifier", "AcquisitionNumber",
    "EchoNumbers", "EchoTime", "DiffusionBValue", "TriggerTime", _SHARED, _OWN,
]  # fmt: skip
_DIGITS = r"[-+.0-9eE]*"
# The fields in which images at the same position differ if a series has several volumes, as classic files call them:
# for a frame the functional group that holds it and its name there, and the pattern of what messages may show.
_TIMES: dict[str, tuple[str, str, str]] = {
    "TemporalPositionIdentifier": ("FrameContentSequence", "TemporalPositionIndex", _DIGITS),
    "AcquisitionNumber": ("FrameContentSequence", "FrameAcquisitionNumber", _DIGITS),
    "EchoNumbers": ("", "", _DIGITS),
    "EchoTime": ("MREchoSequence", "EffectiveEchoTime", _DIGITS),
    "DiffusionBValue": ("MRDiffusionSequence", "DiffusionBValue", _DIGITS),
    "TriggerTime": ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime", _DIGITS),
    "StackID": ("FrameContentSequence", "StackID", _DIGITS),
    "ComplexImageComponent": ("MRImageFrameTypeSequence", "ComplexImageComponent", "[A-Z]*"),
}
TIMES = tuple(_TIMES)


@dataclass(frozen=True, eq=False)
class Slice:
    """An image of a series: that of a file, or a frame of an enhanced one.

    Attributes:
        path: the path of the file.
        called: the name of the image in messages.
        index: the number of the frame in its file, from 0; None for the image of a classic file.
        number: the InstanceNumber, or None.
        uid: the SOPInstanceUID, or "".
        patient, frame: the PatientID and the FrameOfReferenceUID, for comparisons.
        modality: the modality, such as "CT".
        syntax: the UID of the transfer syntax, which determines the compression.
        frames: the number of images in the file.
        rows, columns, samples, bits, signed, photometric: the format of the image.
        position: the centre of the first pixel in mm, in DICOM's axes (x to the left, y to the back, z up).
        orientation: the directions of a row and of a column.
        spacing: the distances between rows and between columns in mm.
        slope, intercept: the value of a stored pixel is `slope * pixel + intercept`.
        times: the values of the fields `TIMES`, in which images at the same position may differ.
    """

    path: Path
    called: str
    index: int | None
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


def read_slices(path: Path, name: str) -> tuple[tuple[str, ...], list[Slice]] | None:
    """The key that identifies the series of a file, and its images; None if the file is no image.

    Raises:
        UnreadableVolumeError: if the file is damaged, or its transfer syntax cannot be read within limits.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise UnreadableVolumeError(f"{name}: expected a regular file. Received: {kind_of(mode)}")
        if not is_dicom(path):
            raise UnreadableVolumeError(
                f"{name}: not a DICOM file; copy or download it again. Expected {MAGIC.decode()} after "
                f"{PREAMBLE} bytes."
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
            images = _frames(path, name, header) if header.get(_OWN) else [_image(path, name, header)]
            key = (_text(header, "SeriesInstanceUID"), _text(header, "StudyInstanceUID"))
            return (key if key[0] else (*key, images[0].frame, _text(header, "SeriesNumber"))), images
    except VolumeError:
        raise
    # pydicom raises errors of many kinds. Their messages quote the header, so neither message nor cause is kept.
    except Exception as error:
        raise UnreadableVolumeError(
            f"{name}: its DICOM header is damaged; copy or download it again. Received: {type(error).__name__}"
        ) from None


def series_uid(head: bytes) -> str:
    """The UID of the series of the images in a DICOM file, by its first bytes.

    Returns:
        "" if the file is no image, or if the bytes do not tell: they are damaged, deflated, or end too early. Objects
        with and without an image have classes in common, so the bytes must reach the image's size in these.
    """
    if not head[PREAMBLE:].startswith(MAGIC):
        return ""
    try:
        with quiet():
            header = read_head(head, "Rows")
            if header is None or _is_no_image(header):
                return ""
            uid = header["SeriesInstanceUID"]
            # The bytes may end inside the UID, which nothing follows then.
            return "" if max(header.keys()) == uid.tag else _text(header, uid.keyword)
    except ImportError:
        raise
    # pydicom raises errors of many kinds for damaged files.
    except Exception:
        return ""


def _is_no_image(header: Any) -> bool:
    """Whether a file is a segmentation or no image at all, such as a report, a plan or a directory.

    Its header must say so in two places: an image whose header is damaged is an error, and must not be left out.
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
    return (
        "Image" not in kind and (uid != "" or "Directory" in kind) and (kind != stored or not _of_the_standard(stored))
    )


def _of_the_standard(uid: str) -> bool:
    """Whether a UID is assigned by the DICOM standard."""
    return uid.startswith("1.2.840.10008.")


def _image(path: Path, name: str, header: Any) -> Slice:
    """The image of a classic file."""
    return Slice(
        path=path,
        called=name,
        index=None,
        number=_integer(header, "InstanceNumber"),
        position=_numbers(header, "ImagePositionPatient"),
        orientation=_numbers(header, "ImageOrientationPatient"),
        spacing=_numbers(header, "PixelSpacing"),
        slope=(_numbers(header, "RescaleSlope") or (1.0,))[0],
        intercept=(_numbers(header, "RescaleIntercept") or (0.0,))[0],
        times=tuple(_term(_text(header, keyword), pattern) for keyword, (*_, pattern) in _TIMES.items()),
        **_format(header),
    )


def _frames(path: Path, name: str, header: Any) -> list[Slice]:
    """The frames of an enhanced file, in the order of the file.

    Raises:
        UnreadableVolumeError: if there are not as many functional groups as frames.
    """
    own, shared = header[_OWN].value, header.get(_SHARED) or ()
    given, common = len(own), _format(header)
    if common["frames"] != given:
        raise UnreadableVolumeError(
            f"{name}: its DICOM header is damaged; copy or download it again. Expected functional groups for each of "
            f"its {common['frames']} frames. Received: {given}"
        )
    return [
        _frame([groups, *shared], path, f"{name}, frame {index + 1} of {given}", index, common)
        for index, groups in enumerate(own)
    ]


def _frame(groups: list[Any], path: Path, name: str, index: int, common: dict[str, Any]) -> Slice:
    """A frame by its functional groups, its own before the shared ones."""

    def group(sequence: str) -> Any:
        return next((g[sequence].value[0] for g in groups if g.get(sequence)), {})

    scale = group("PixelValueTransformationSequence")
    return Slice(
        path=path,
        called=name,
        index=index,
        number=None,
        position=_numbers(group("PlanePositionSequence"), "ImagePositionPatient"),
        orientation=_numbers(group("PlaneOrientationSequence"), "ImageOrientationPatient"),
        spacing=_numbers(group("PixelMeasuresSequence"), "PixelSpacing"),
        slope=(_numbers(scale, "RescaleSlope") or (1.0,))[0],
        intercept=(_numbers(scale, "RescaleIntercept") or (0.0,))[0],
        times=tuple(_term(_text(group(g), keyword), pattern) for g, keyword, pattern in _TIMES.values()),
        **common,
    )


def _format(header: Any) -> dict[str, Any]:
    """The fields of `Slice` that all images of a file have in common."""
    return {
        "uid": _text(header, "SOPInstanceUID", "MediaStorageSOPInstanceUID"),
        "patient": _text(header, "PatientID"),
        "frame": _text(header, "FrameOfReferenceUID"),
        "modality": _term(_text(header, "Modality"), "[A-Z]{2,4}"),
        "syntax": _term(_text(header.file_meta, "TransferSyntaxUID"), r"1\.2\.840\.10008\.1\.2[.0-9]*"),
        "frames": _integer(header, "NumberOfFrames") or 1,
        "rows": _integer(header, "Rows") or 0,
        "columns": _integer(header, "Columns") or 0,
        "samples": _integer(header, "SamplesPerPixel") or 1,
        "bits": _integer(header, "BitsStored") or _integer(header, "BitsAllocated") or 16,
        "signed": _integer(header, "PixelRepresentation") == 1,
        "photometric": _term(
            _text(header, "PhotometricInterpretation"), "MONOCHROME[12]|RGB|PALETTE COLOR|YBR_[A-Z0-9_]+"
        ),
    }


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
