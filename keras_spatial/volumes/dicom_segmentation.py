"""Labels as DICOM segmentations, the form in which archives and viewers keep them. This needs the `dicom` extra."""

import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_spatial._paths import partial
from keras_spatial.volumes.dicom_files import BoundedFile, pydicom, read_dataset
from keras_spatial.volumes.dicom_images import Slice
from keras_spatial.volumes.headers import check_affine, nifti_header, raise_it
from keras_spatial.volumes.labels import as_labels
from keras_spatial.volumes.limits import Limits
from keras_spatial.volumes.pseudonyms import identifiers_kept, pseudonym, quiet
from keras_spatial.volumes.volume import (
    DimensionError,
    LabelError,
    LimitError,
    SeriesError,
    UnreadableVolumeError,
    Volume,
    VolumeError,
)

# The fields that are copied from a source's header: what the image is, where it lies, and the UIDs that link to it.
_KEPT = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality",
    "Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
    "SpacingBetweenSlices", "ImageType", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "PositionReferenceIndicator", "InstanceNumber", "NumberOfFrames",
]  # fmt: skip
# Where the functional groups of an enhanced source say how thick its slices are.
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_MEASURES = "PixelMeasuresSequence"
# The fields about patient and study that a segmentation must have, even if they are empty.
_REQUIRED = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName", "PositionReferenceIndicator",
)  # fmt: skip
_ABNORMAL = ("lesion", "tumor", "tumour", "neoplasm", "nodule", "cyst", "metastasis", "mass")
_OWN_SCHEME = "99KERASSPATIAL"


def write_dicom_segmentation(
    path: str | Path, labels: np.ndarray, like: Volume, *, classes: Sequence[str] = ()
) -> Path:
    """Write class numbers as a DICOM segmentation (binary segments) of the series from which `like` was read.

    Each class above 0 is a segment. A class whose name is a SNOMED CT term that DICOM uses ("liver", "spleen",
    "lesion") gets the code of that term; other classes get a code of this package's own scheme, `99KERASSPATIAL`.

    The segmentation refers to the study, the frame of reference and the images of its series by their UIDs, because
    otherwise viewers would not show it on the images. Nothing else about the patient is copied: the patient's ID and
    name are a pseudonym, and dates and numbers are empty. With `KERAS_SPATIAL_IDENTIFIERS=keep`, patient and study are
    copied, as an archive needs them. UIDs that are missing in the source, for example after anonymisation, are derived
    from the pseudonym.

    Args:
        path: a path that ends in `.dcm`.
        labels: integer class numbers from 0 to 255, on the grid and in the array order of `like`.
        like: a volume that `read_volume` has read from a DICOM series.
        classes: the names of the classes by number, beginning with 0, the background. Without names, classes are called
            "class N".

    Returns:
        The path.

    Raises:
        SeriesError: if `like` was not read from a DICOM series.
        DimensionError: if the shapes differ.
        LabelError: if there are values other than 0 to 255, or names are given and a class has none.
        ImportError: if highdicom is not installed.

    Example:

    ```python
    volume = ks.volumes.read_volume("series")
    bright = volume.array > 40
    names = ("background", "bright")
    ks.volumes.write_dicom_segmentation("bright.dcm", bright, volume, classes=names)
    ```
    """
    path = Path(path)
    if like.series is None:
        raise SeriesError(f"{path}: expected the labels of a DICOM series. Received: those of {like.name}")
    if labels.shape != like.array.shape:
        raise DimensionError(f"{path}: expected labels of shape {like.array.shape}. Received: {labels.shape}")
    labels = as_labels(labels)
    highest = int(labels.max(initial=0))
    if classes and highest >= len(classes):
        raise LabelError(f"{path}: expected labels below {len(classes)}, the number of classes. Received: {highest}")
    names = [str(name) for name in classes[1:]] or [f"class {n}" for n in range(1, max(highest, 1) + 1)]
    highdicom = _highdicom("Writing a DICOM segmentation")
    with quiet():
        headers = _headers(like, identifiers_kept())
        sources = [_as_one_file(highdicom, headers, like)] if like.series.enhanced else headers
        uid = pydicom("Writing a DICOM segmentation").uid.generate_uid
        found = highdicom.seg.Segmentation(
            source_images=sources,
            pixel_array=np.ascontiguousarray(labels.transpose(2, 1, 0)),
            segmentation_type="BINARY",
            segment_descriptions=[_segment(highdicom, number, name) for number, name in enumerate(names, start=1)],
            series_instance_uid=uid(),
            series_number=1,
            sop_instance_uid=uid(),
            instance_number=1,
            manufacturer="keras-spatial",
            manufacturer_model_name="keras-spatial",
            software_versions=_version(),
            device_serial_number="0",
            content_label="SEGMENTATION",
            omit_empty_frames=bool(highest),
        )
        if like.series.enhanced:
            _refer_to_frames(found, headers, like.series.slices)
        if not identifiers_kept():
            found.PatientIdentityRemoved = "YES"
            found.DeidentificationMethod = "keras-spatial: patient and study replaced, UIDs kept"
        path.parent.mkdir(parents=True, exist_ok=True)
        part = partial(path)
        try:
            found.save_as(part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    return path


def read_dicom_segmentation(path: Path, limits: Limits) -> Volume:
    """Read the segments of a DICOM segmentation as class numbers; see `read_volume`.

    The volume covers the slices from the first to the last on which any segment lies; such files have no others.
    """
    highdicom = _highdicom("Reading a DICOM segmentation")
    name = f"DICOM segmentation {pseudonym(path.name)}"
    with quiet():
        try:
            header = read_dataset(path, name, stop_before_pixels=True)
            _check_voxels(name, limits, header.NumberOfFrames, header.Rows, header.Columns)
            with BoundedFile(path) as file:
                segmentation = highdicom.seg.segread(file)
            # Slices without a frame are filled up, so two frames that lie far apart make a volume of any size.
            _check_voxels(name, limits, *segmentation.get_volume_geometry().spatial_shape)
            found = segmentation.get_volume(combine_segments=True, dtype=np.uint8)
            affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(found.affine, np.float64)[:, [2, 1, 0, 3]]
            array = np.asarray(found.array).transpose(2, 1, 0)
        except VolumeError:
            raise
        # highdicom raises errors of many kinds, and their messages quote the header.
        except Exception as error:
            raise UnreadableVolumeError(
                f"{name}: not a DICOM segmentation on a rectangular grid whose segments do not overlap. Received: "
                f"{type(error).__name__}"
            ) from None
    check_affine(name, affine, (array.shape[0], array.shape[1], array.shape[2]), limits)
    return Volume(array, affine, nifti_header(array, affine), path)


def _check_voxels(name: str, limits: Limits, slices: Any, rows: Any, columns: Any) -> None:
    if int(slices) * int(rows) * int(columns) > limits.voxels:
        raise LimitError(
            f"{name}: expected at most {limits.voxels} voxels. Received: {rows} x {columns} x {slices}. "
            f"{raise_it('voxels')}"
        )


def _highdicom(purpose: str) -> Any:
    try:
        importlib.import_module("highdicom.seg")
        return importlib.import_module("highdicom")
    except ImportError as error:
        raise ImportError(f"{purpose} needs highdicom. Install it: pip install 'keras-spatial[dicom]'") from error


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("keras-spatial")
    except PackageNotFoundError:
        return "checkout"


def _headers(like: Volume, keep: bool) -> list[Any]:
    """The headers of the source's images, in the order of the slices; frames of one file have the same one."""
    assert like.series is not None
    patient = pseudonym(like.series.slices[0].patient or like.series.name)
    if not like.series.enhanced:
        return [_header(image, like, patient, keep) for image in like.series.slices]
    of_files = {image.path: image for image in like.series.slices}
    made = {path: _header(image, like, patient, keep) for path, image in of_files.items()}
    return [made[image.path] for image in like.series.slices]


def _header(image: Slice, like: Volume, patient: str, keep: bool) -> Any:
    """The header of the file of an image, with the fields that a segmentation needs."""
    reader = pydicom("Writing a DICOM segmentation")
    try:
        kept = None if keep else [*_KEPT, *(_GROUPS if image.index is not None else ())]
        header = read_dataset(image.path, image.called, stop_before_pixels=True, specific_tags=kept)
        if not keep:
            header.PatientID = header.PatientName = patient
        for keyword in _REQUIRED:
            if header.get(keyword) is None:
                setattr(header, keyword, "")
        if not header.get("SliceThickness"):
            header.SliceThickness = _thickness(header) or f"{like.spacing[2]:.10g}"
        assert like.series is not None
        made = reader.uid.generate_uid
        for keyword, stored, parts in (
            ("SOPInstanceUID", "MediaStorageSOPInstanceUID", ["image", like.series.name, str(image.position)]),
            ("SOPClassUID", "MediaStorageSOPClassUID", None),
            ("StudyInstanceUID", "", ["study", like.series.name]),
            ("SeriesInstanceUID", "", ["series", like.series.name]),
            ("FrameOfReferenceUID", "", ["frame", like.series.name]),
        ):
            if not header.get(keyword):
                found = header.file_meta.get(stored) if stored else None
                setattr(header, keyword, found or made(entropy_srcs=parts))
    except Exception as error:
        raise UnreadableVolumeError(
            f"{like.name}: {image.called}: its header cannot be read again. Received: {type(error).__name__}"
        ) from None
    return header


def _thickness(header: Any) -> Any:
    """The thickness of the slices in the functional groups of an enhanced file, if it is there."""
    groups = (item for name in _GROUPS for item in header.get(name) or ())
    measures = (item[_MEASURES].value[0] for item in groups if item.get(_MEASURES))
    return next(filter(None, (item.get("SliceThickness") for item in measures)), None)


def _as_one_file(highdicom: Any, headers: Sequence[Any], like: Volume) -> Any:
    """The first header, changed as if its file held all frames in the order of the slices, which highdicom requires.

    Its functional groups then say where the frames lie, and nothing else.
    """
    assert like.series is not None
    slices, whole = like.series.slices, headers[0]
    reader = pydicom("Writing a DICOM segmentation")
    shared, places = reader.Dataset(), []
    shared.PlaneOrientationSequence = highdicom.PlaneOrientationSequence("PATIENT", slices[0].orientation)
    shared.PixelMeasuresSequence = highdicom.PixelMeasuresSequence(slices[0].spacing, float(whole.SliceThickness))
    for image in slices:
        places.append(reader.Dataset())
        places[-1].PlanePositionSequence = highdicom.PlanePositionSequence("PATIENT", image.position)
    whole.NumberOfFrames = len(slices)
    whole.SharedFunctionalGroupsSequence, whole.PerFrameFunctionalGroupsSequence = [shared], places
    return whole


def _refer_to_frames(found: Any, headers: Sequence[Any], slices: Sequence[Slice]) -> None:
    """Let a segmentation refer to the real files and their frames, and not to the single file of `_as_one_file`."""
    sources = (
        source
        for groups in found.PerFrameFunctionalGroupsSequence
        for derivation in groups.get("DerivationImageSequence") or ()
        for source in derivation.SourceImageSequence
    )
    # The segments of a frame share one item, which must be changed only once.
    for source in {id(source): source for source in sources}.values():
        place = int(source.ReferencedFrameNumber) - 1
        source.ReferencedSOPInstanceUID = headers[place].SOPInstanceUID
        source.ReferencedFrameNumber = (slices[place].index or 0) + 1
    files = list({header.SOPInstanceUID: header for header in headers}.values())
    found.SourceImageSequence = list(map(_reference, files))
    found.ReferencedSeriesSequence[0].ReferencedInstanceSequence = list(map(_reference, files))


def _reference(header: Any) -> Any:
    result = pydicom("Writing a DICOM segmentation").Dataset()
    result.ReferencedSOPClassUID, result.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    return result


def _segment(highdicom: Any, number: int, name: str) -> Any:
    code = importlib.import_module("pydicom.sr.codedict").codes
    own = highdicom.sr.CodedConcept(re.sub(r"[^A-Z0-9_]", "_", name.upper())[:16] or "CLASS", _OWN_SCHEME, name[:64])
    term = "".join(word.capitalize() for word in re.findall(r"[A-Za-z0-9]+", name))
    abnormal = any(word in _ABNORMAL for word in re.findall(r"[a-z]+", name.lower()))
    try:
        kind = getattr(code.SCT, term.replace("Tumour", "Tumor"))
    except AttributeError:
        kind = own
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="keras-spatial", family=code.DCM.ArtificialIntelligence, version=_version()
    )
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:64],
        segmented_property_category=(
            code.SCT.MorphologicallyAbnormalStructure if abnormal else code.SCT.AnatomicalStructure
        ),
        segmented_property_type=kind,
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
    )
