"""DICOM series written slice by slice, with a patient's name wherever a header or a file name can have one."""

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless, generate_uid

SECRET = "ROENTGEN"
"""A name that occurs in the headers and in the names of files and folder; it must not leak anywhere."""
SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"
"""Real files that come with pydicom."""
SHAPE, SPACING = (12, 10, 6), (0.8, 0.7, 2.5)


def hounsfield(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).integers(-1000, 1000, shape).astype(np.int16)


def slice_header(number, *, series="1.2.3.4", study="1.2.3", **changes):
    """The header of a CT slice; its number counts from 0, and the first slice lies at z = -100 mm."""
    header = Dataset()
    header.SOPClassUID, header.SOPInstanceUID = CTImageStorage, f"{series}.{number + 1}"
    header.StudyInstanceUID, header.SeriesInstanceUID, header.FrameOfReferenceUID = study, series, f"{study}.9"
    header.PatientName, header.PatientID, header.PatientBirthDate = f"{SECRET}^WILHELM", f"{SECRET}-1845", "18450327"
    header.PatientSex, header.StudyDate, header.StudyTime, header.AccessionNumber = "M", "18951108", "", f"{SECRET}7"
    header.StudyID, header.ReferringPhysicianName = f"{SECRET}8", f"{SECRET}^ANNA"
    header.SeriesDescription, header.Modality, header.SeriesNumber = f"hand of {SECRET}", "CT", 3
    header.InstanceNumber, header.AcquisitionNumber = number + 1, 1
    header.Rows, header.Columns, header.SamplesPerPixel, header.PhotometricInterpretation = 10, 12, 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 12, 11, 0
    header.RescaleIntercept, header.RescaleSlope = -1024, 1
    header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    header.ImagePositionPatient = [-5, 7, round(-100 + 2.5 * number, 6)]
    header.PixelSpacing, header.SliceThickness = [0.7, 0.8], 2.5
    for keyword, value in changes.items():
        if value is None:
            delattr(header, keyword)
        else:
            setattr(header, keyword, value)
    return header


def save(path, header, values):
    """Write a slice of HU `[rows, columns]`."""
    header.PixelData = (values - int(header.get("RescaleIntercept", 0))).astype("<u2").tobytes()
    header["PixelData"].VR = "OW"
    header.file_meta = FileMetaDataset()
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID
    header.file_meta.MediaStorageSOPInstanceUID = header.get("SOPInstanceUID") or generate_uid()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, header, enforce_file_format=True)
    return path


def write_series(folder, array=None, change=lambda number: {}, order=None, **common):
    """Write a series of `array` [columns, rows, slices]; `change` returns the changes to the header of a slice."""
    array = hounsfield() if array is None else array
    for place, number in enumerate(order or range(array.shape[2])):
        header = slice_header(number, **{**common, **change(number)})
        save(folder / f"{SECRET}{place:03d}.dcm", header, array[:, :, number].T)
    return folder


def compressed_series(folder, slices):
    """A series of 64 x 64 pixels, each slice of which is a real image in JPEG 2000."""
    write_series(folder, hounsfield((64, 64, slices)), Rows=64, Columns=64)
    frame = pydicom.dcmread(SAMPLES / "MR_small_jp2klossless.dcm").PixelData
    for path in folder.iterdir():
        header = pydicom.dcmread(path)
        header.file_meta.TransferSyntaxUID, header.PixelData = JPEG2000Lossless, frame
        header["PixelData"].VR, header["PixelData"].is_undefined_length = "OB", True
        header.save_as(path)
    return folder


def groups(**sequences):
    """A functional group macro: each sequence with one item of the given fields."""
    found = Dataset()
    for keyword, fields in sequences.items():
        item = Dataset()
        for name, value in fields.items():
            setattr(item, name, value)
        setattr(found, keyword, [item])
    return found


def write_enhanced(path, array=None, order=None, change=lambda number: {}, shared=None, scale=None, **common):
    """Write an enhanced CT file of `array` [columns, rows, slices], whose frames lie where `write_series` puts slices.

    `change` returns the functional groups of a slice that differ, `scale` its slope and intercept.
    """
    array = hounsfield() if array is None else array
    order = list(order or range(array.shape[2]))
    scale = scale or (lambda number: (1, -1024))
    header = slice_header(0, SOPClassUID=EnhancedCTImageStorage, NumberOfFrames=len(order), **common)
    for keyword in (
        "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"
    ):  # fmt: skip
        delattr(header, keyword)
    header.SharedFunctionalGroupsSequence = [
        groups(
            PlaneOrientationSequence={"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},
            PixelMeasuresSequence={"PixelSpacing": [0.7, 0.8], "SliceThickness": 2.5},
        )
        if shared is None
        else shared
    ]
    frames, pixels = [], []
    for number in order:
        slope, intercept = scale(number)
        frames.append(
            groups(
                **{
                    "PlanePositionSequence": {"ImagePositionPatient": [-5, 7, round(-100 + 2.5 * number, 6)]},
                    "PixelValueTransformationSequence": {
                        "RescaleSlope": slope, "RescaleIntercept": intercept, "RescaleType": "HU"
                    },
                    "FrameContentSequence": {
                        "FrameAcquisitionNumber": 1, "FrameReferenceDateTime": "18951108000000",
                        "FrameComments": f"{SECRET} lies still",
                    },
                    **change(number),
                }
            )
        )  # fmt: skip
        pixels.append(((array[:, :, number].T.astype(np.float64) - intercept) / slope).round().astype("<u2"))
    header.PerFrameFunctionalGroupsSequence = frames
    header.PixelData = np.stack(pixels).tobytes()
    header["PixelData"].VR = "OW"
    header.file_meta = FileMetaDataset()
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, header, enforce_file_format=True)
    return path
