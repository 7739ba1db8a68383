"""A damaged DICOM series is a named error that names no patient, or a volume; it never takes much memory."""

import shutil
import warnings

import numpy as np
import pydicom
import pytest
from fuzzing import at_most, explore
from hypothesis import strategies as st
from volumes.dicom_files import SECRET, compressed_series, hounsfield, write_enhanced, write_series

from keras_spatial.volumes import VolumeError, read_volume

FIELDS = [
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel",
    "PhotometricInterpretation", "RescaleSlope", "RescaleIntercept", "ImagePositionPatient", "ImageOrientationPatient",
    "PixelSpacing", "InstanceNumber", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "NumberOfFrames",
    "PatientID", "Modality", "FrameOfReferenceUID", "PerFrameFunctionalGroupsSequence", "FrameAcquisitionNumber",
]  # fmt: skip
VALUES = [
    "",
    "0",
    "1",
    "-1",
    "2",
    "65535",
    "1e300",
    "nan",
    "inf",
    "1\\2",
    "1\\2\\3",
    "1\\0\\0\\0\\1\\0",
    "x" * 70,
    SECRET,
]


@pytest.fixture(scope="module", params=["plain", "RLE", "JPEG 2000", "enhanced"])
def series(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("series") / "s"
    if request.param == "JPEG 2000":
        compressed_series(folder, 3)
    elif request.param == "enhanced":
        write_enhanced(folder / "a.dcm", hounsfield()[:, :, :3])
    else:
        write_series(folder, hounsfield()[:, :, :3])
    if request.param == "RLE":
        for path in folder.iterdir():
            header = pydicom.dcmread(path)
            header.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
            header.save_as(path)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@st.composite
def damages(draw):
    """What is done to one file: a field as text of another length, bytes, a cut, another order."""
    kind = draw(st.sampled_from(["field", "field", "field", "byte", "bytes", "cut", "longer", "gone", "twice"]))
    return (
        draw(st.integers(0, 2)), kind, draw(st.sampled_from(FIELDS)), draw(st.sampled_from(VALUES)),
        draw(st.floats(0, 1, exclude_max=True)), draw(st.binary(min_size=1, max_size=24)),
    )  # fmt: skip


def with_field(data, keyword, text):
    """The file with other bytes in a field, of its own length or that of the text."""
    tag = pydicom.tag.Tag(keyword)
    place = data.find(tag.group.to_bytes(2, "little") + tag.element.to_bytes(2, "little"), 132)
    if place < 0:
        return data
    length = int.from_bytes(data[place + 6 : place + 8], "little")
    value = text.encode() + b" " * (len(text) % 2)
    if data[place + 4 : place + 6] == b"US":
        number = int(text) % 65536 if text.lstrip("-").isdigit() else 60000
        value = number.to_bytes(2, "little")
    return data[: place + 6] + len(value).to_bytes(2, "little") + value + data[place + 8 + length :]


def check(folder, files, drawn):
    which, kind, keyword, text, share, noise = drawn
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for number, (name, data) in enumerate(sorted(files.items())):
        at = int(share * len(data))
        if number == which % len(files):
            if kind == "field":
                data = with_field(data, keyword, text)
            elif kind == "byte":
                data = data[:at] + bytes([data[at] ^ (noise[0] or 1)]) + data[at + 1 :]
            elif kind == "bytes":
                data = data[:at] + noise + data[at + len(noise) :]
            elif kind == "cut":
                data = data[:at]
            elif kind == "longer":
                data = data[:at] + noise + data[at:]
            elif kind == "twice":
                (folder / f"copy-{name}").write_bytes(data)
            if kind == "gone":
                continue
        (folder / name).write_bytes(data)
    with warnings.catch_warnings():
        # pydicom's warnings quote the header.
        warnings.simplefilter("error")
        try:
            with at_most(48):
                volume = read_volume(folder)
        except VolumeError as error:
            assert type(error) is not VolumeError
            assert SECRET not in str(error)
            assert len(str(error)) < 2_000
            cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
            assert cause is None or SECRET not in str(cause)
            return
    assert volume.array.ndim == 3
    assert np.isfinite(volume.affine).all()
    assert np.isfinite(volume.array.astype(np.float64)).all()
    assert all(0.01 <= s <= 100 for s in volume.spacing)
    assert SECRET not in volume.name


def test_a_damaged_series_is_named_without_its_patient_or_read(series, tmp_path, caplog):
    explore(lambda drawn: check(tmp_path / "study", series, drawn), examples=170, drawn=damages())
    # pydicom logs the faults that it finds in a header.
    assert not caplog.records


def test_any_bytes_behind_the_mark_are_named(tmp_path):
    def check_bytes(content):
        folder = tmp_path / "s"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "a.dcm").write_bytes(bytes(128) + b"DICM" + content)
        with at_most(48), pytest.raises(VolumeError):
            read_volume(folder)

    explore(check_bytes, examples=100, content=st.binary(max_size=300))
