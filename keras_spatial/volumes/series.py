"""Find the DICOM series in a folder by their headers. Nothing that identifies a patient leaves this package.

pydicom reads the headers, so that files that are too large or do not belong together are known before any pixel is
decoded.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from keras_spatial._paths import DICOM, ending_of, fault_of_name, printable, walk
from keras_spatial.volumes.dicom_files import is_dicom
from keras_spatial.volumes.dicom_images import Slice, read_slices, series_uid
from keras_spatial.volumes.pseudonyms import called, identifiers_kept, pseudonym
from keras_spatial.volumes.volume import (
    DimensionError,
    FileNameError,
    SeriesError,
    UnreadableVolumeError,
    VolumeError,
)


@dataclass(frozen=True, eq=False)
class Series:
    """A DICOM series that `find_series` has found.

    Its `str()` is its name in messages: "DICOM series" and its pseudonym, or its UID with
    `KERAS_SPATIAL_IDENTIFIERS=keep`.

    Attributes:
        folder: the folder in which it was looked for, or the enhanced file.
        name: its pseudonym, or its UID with `KERAS_SPATIAL_IDENTIFIERS=keep`; also used in the names of files.
        slices: its images, in the order of the names of their files, and of the frames in a file.
        fault: why it cannot be read, if its headers tell; otherwise None.
    """

    folder: Path
    name: str
    slices: tuple[Slice, ...]
    fault: VolumeError | None = None

    def __str__(self) -> str:
        return f"DICOM series {self.name}"

    @property
    def enhanced(self) -> bool:
        """Whether its images are frames."""
        return any(image.index is not None for image in self.slices)

    @property
    def summary(self) -> str:
        """The modality, the number of images and their size, such as "CT, 120 images of 512 x 512"."""
        if not self.slices:
            return "no image"
        first = self.slices[0]
        return f"{first.modality or 'unknown modality'}, {len(self.slices)} images of {first.columns} x {first.rows}"


def find_series(folder: str | Path) -> list[Series]:
    """Find the DICOM series of a folder and its subfolders, ordered by their pseudonyms. Only headers are read.

    Files that are not DICOM, and DICOM objects that are not images, such as reports and plans, are left out. A damaged
    file is a fault of every series with images in the same folder, because it may belong to any of them.

    Args:
        folder: a folder, or a file with the frames of an enhanced series.

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
    if not folder.exists():
        raise UnreadableVolumeError(f"{folder}: no such folder. Expected a folder with the files of a DICOM series.")
    files = list(_files(folder)) if folder.is_dir() else [folder]
    slices: dict[tuple[str, ...], list[Slice]] = {}
    faults: dict[Path, list[VolumeError]] = {}
    for number, path in enumerate(files, start=1):
        name = called(path, number, len(files))
        try:
            found = read_slices(path, name)
        except VolumeError as error:
            faults.setdefault(path.parent, []).append(error)
            continue
        if found is not None:
            key, images = found
            # Images without a UID belong together if they lie in the same folder.
            slices.setdefault(key if key[0] else (*key, str(path.parent)), []).extend(images)
    result = [_series(folder, key, images, faults) for key, images in slices.items()]
    known = {image.path.parent for images in slices.values() for image in images}
    for parent in sorted(set(faults) - known):
        place = os.fspath(parent.relative_to(folder)) if folder.is_dir() else folder.name
        result.append(Series(folder, _name(place, place), (), faults[parent][0]))
    return sorted(result, key=lambda series: series.name)


def series_in(head: bytes) -> str:
    """The name of the series to which the images of a DICOM file belong, by its first bytes.

    Returns:
        "" if the bytes do not tell, or if `find_series` leaves the file out because it is no image.
    """
    uid = series_uid(head)
    return f"DICOM series {_name(uid, uid)}" if uid else ""


def _files(folder: Path) -> Iterator[Path]:
    """The files that are DICOM or should be, folder by folder, in the order of their names."""
    for path in walk(folder, hidden=False):
        if not path.is_dir() and (ending_of(path, DICOM) or (path.is_file() and is_dicom(path))):
            yield path


def _series(
    folder: Path, key: tuple[str, ...], images: Sequence[Slice], faults: dict[Path, list[VolumeError]]
) -> Series:
    nearby = [error for parent in dict.fromkeys(i.path.parent for i in images) for error in faults.get(parent, ())]
    fault = nearby[0] if nearby else None
    if fault is None:
        fault = _fault(folder, images)
    uid = key[0]
    return Series(folder, _name(uid, uid or _content(images)), tuple(images), fault)


def _fault(folder: Path, images: Sequence[Slice]) -> VolumeError | None:
    """What is wrong with the images as those of one series, whatever their places are."""
    flat = next((image for image in images if image.index is None), None)
    if flat is None:
        return None
    if flat.frames > 1:
        return DimensionError(
            f"{flat.called}: expected one image in each file, or functional groups that place each frame (enhanced "
            f"DICOM). Received: {flat.frames} frames without. Convert it to NIfTI, for instance with dcm2niix"
        )
    if not folder.is_dir():
        return SeriesError("expected a volume. Received: one file of a series. Give the folder of the series instead")
    if any(image.index is not None for image in images):
        return SeriesError("its files are mixed: some hold one image, others frames. Move each kind to its own folder")
    return None


def _name(uid: str, *identifiers: str) -> str:
    return printable(uid).replace(os.sep, "_") if uid and identifiers_kept() else pseudonym(*identifiers)


def _content(images: Sequence[Slice]) -> str:
    """An identifier for a series without a UID that does not depend on its folder: its images' UIDs or positions."""
    return "\n".join(sorted(image.uid or f"{image.frame} {image.number} {image.position}" for image in images))


def without_image(path: Path) -> Series:
    """A DICOM file that holds no image, represented by a series with a fault, so that it cannot be read."""
    return Series(
        path,
        _name(path.name, path.name),
        (),
        UnreadableVolumeError(
            "holds no image. Received: a DICOM object of another kind, such as a report or contours (an RT structure "
            "set). Make a mask of contours first, for instance with plastimatch"
        ),
    )


def only_series(path: Path) -> Series:
    """The only series of a folder or an enhanced file. If the file holds no image, the series has a fault.

    Raises:
        UnreadableVolumeError: if there is none in a folder.
        SeriesError: if there are several.
    """
    found = find_series(path)
    if not found and path.is_file():
        return without_image(path)
    if not found:
        raise UnreadableVolumeError(
            f"{path}: expected a file (.nii, .nii.gz, .nrrd, .mha), or a folder with the files of a DICOM series. "
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
