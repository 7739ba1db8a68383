"""An enhanced DICOM file is read frame by frame as its functional groups say, or refused with a named error."""

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.uid import JPEG2000Lossless, RLELossless
from volumes.dicom_files import SAMPLES, SECRET, SPACING, groups, hounsfield, write_enhanced, write_series
from volumes.test_dicom import CLASSES, LABELS, SHARED, needs_real, refused

import keras_spatial.volumes as vol

ORDER = [3, 0, 5, 1, 4, 2]


def edited(path, change):
    header = pydicom.dcmread(path)
    change(header)
    header.save_as(path)
    return path


def test_frames_are_the_slices_of_the_same_series_in_classic_files(tmp_path):
    array = hounsfield()
    path = write_enhanced(tmp_path / SECRET / f"{SECRET}.dcm", array, order=ORDER)
    classic = vol.read_volume(write_series(tmp_path / "classic", array))
    for place in (path, path.parent):
        volume = vol.read_volume(place)
        assert volume.array.dtype == np.int16
        assert np.array_equal(volume.array, classic.array)
        assert volume.affine == pytest.approx(classic.affine)
        assert volume.spacing == pytest.approx(SPACING)
        assert SECRET not in volume.name
    (series,) = vol.find_series(path.parent)
    assert series.summary == "CT, 6 images of 12 x 10"


def test_each_frame_has_its_own_scale(tmp_path):
    array = hounsfield()
    whole = write_enhanced(tmp_path / "whole.dcm", array, scale=lambda n: (1, -1000 - n))
    assert np.array_equal(vol.read_volume(whole).array, array)
    halves = vol.read_volume(write_enhanced(tmp_path / "half.dcm", array, scale=lambda n: (1, -1000 - n / 2)))
    assert halves.array.dtype == np.float32
    assert halves.array == pytest.approx(array, abs=0.5)
    wide = array.astype(np.int32) * 100
    large = vol.read_volume(write_enhanced(tmp_path / "large.dcm", wide, scale=lambda n: (100, -100_000 - n)))
    assert large.array.dtype == np.int32
    assert large.array == pytest.approx(wide, abs=50)


@pytest.mark.parametrize("table", ["offsets", "extended", "none"])
def test_compressed_frames_are_decoded_one_by_one(tmp_path, table):
    """Frames of a real JPEG 2000 image, compared with reading it as one file."""
    frame = next(generate_frames(pydicom.dcmread(SAMPLES / "MR_small_jp2klossless.dcm").PixelData, number_of_frames=1))

    def compress(header):
        header.file_meta.TransferSyntaxUID = JPEG2000Lossless
        header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 15, 1
        if table == "extended":
            header.PixelData, header.ExtendedOffsetTable, header.ExtendedOffsetTableLengths = encapsulate_extended(
                [frame] * 4
            )
        else:
            header.PixelData = encapsulate([frame] * 4, has_bot=table == "offsets")
        header["PixelData"].VR, header["PixelData"].is_undefined_length = "OB", True

    path = write_enhanced(
        tmp_path / "a.dcm", hounsfield((64, 64, 4)), Rows=64, Columns=64, scale=lambda n: (1, 100 * n)
    )
    volume = vol.read_volume(edited(path, compress))
    expected = pydicom.dcmread(SAMPLES / "MR_small.dcm").pixel_array.T
    for number in range(4):
        assert np.array_equal(volume.array[..., number], expected + 100 * number)


def test_run_length_frames_are_those_that_were_written(tmp_path):
    path = write_enhanced(tmp_path / "a.dcm")
    edited(path, lambda header: header.compress(RLELossless, generate_instance_uid=False))
    assert np.array_equal(vol.read_volume(path).array, hounsfield())
    header = pydicom.dcmread(path)
    header.PixelData = encapsulate(list(generate_frames(header.PixelData, number_of_frames=6))[:5])
    header.save_as(path)
    refused(vol.UnreadableVolumeError, path, "frame 6 of 6", "copy or download it again")


def test_the_parts_of_a_series_in_several_files_are_put_together(tmp_path):
    for part, order in (("a", [0, 4]), ("b", [5, 1, 3, 2])):
        write_enhanced(tmp_path / f"{part}.dcm", order=order)
    assert np.array_equal(vol.read_volume(tmp_path).array, hounsfield())


def test_missing_frames_and_frames_over_time_are_named(tmp_path):
    path = write_enhanced(tmp_path / "missing.dcm", order=[0, 1, 2, 4, 5])
    refused(vol.SliceError, path, "1 slice is missing", "5 mm between frame 3", "frame 4")

    def times(number):
        place = {"ImagePositionPatient": [0, 0, 2.5 * (number % 3)]}
        return {
            "FrameContentSequence": {"TemporalPositionIndex": number // 3 + 1},
            "PlanePositionSequence": place,
        }

    path = write_enhanced(tmp_path / "time.dcm", change=times)
    refused(vol.DimensionError, path, "4D", "6 images at 3 positions", "TemporalPositionIdentifier: 1, 2", "dcm2niix")


@pytest.mark.parametrize(
    ("kind", "change", "word"),
    [
        (vol.AffineError, {"PlanePositionSequence": {}}, "3 finite numbers in ImagePositionPatient"),
        (
            vol.SeriesError,
            {"PlaneOrientationSequence": {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}},
            "mixed: expected one orientation",
        ),
        (vol.SeriesError, {"PixelMeasuresSequence": {"PixelSpacing": [0.7, 0.9]}}, "mixed: expected one pixel spacing"),
        (
            vol.ScaleError,
            {"PixelValueTransformationSequence": {"RescaleSlope": 0, "RescaleIntercept": 1}},
            "RescaleSlope",
        ),
    ],
)
def test_a_frame_that_differs_is_named_by_its_number(tmp_path, kind, change, word):
    path = write_enhanced(tmp_path / "a.dcm", change=lambda n: change if n == 2 else {})
    refused(kind, path, word, "frame 3 of 6")


def test_frames_that_nothing_places_are_refused(tmp_path):
    path = write_enhanced(tmp_path / "a.dcm", shared=groups())
    refused(vol.AffineError, path, "6 finite numbers in ImageOrientationPatient")
    edited(path, lambda header: delattr(header, "PerFrameFunctionalGroupsSequence"))
    refused(vol.DimensionError, path, "6 frames without", "dcm2niix")


@pytest.mark.parametrize("count", [5, 7, 100_000])
def test_another_number_of_frames_than_of_groups_is_damage(tmp_path, count):
    path = edited(write_enhanced(tmp_path / "a.dcm"), lambda header: setattr(header, "NumberOfFrames", count))
    refused(vol.UnreadableVolumeError, path, f"each of its {count} frames. Received: 6")


def test_size_and_length_are_checked_before_a_frame_is_read(tmp_path):
    path = write_enhanced(tmp_path / "a.dcm")
    with pytest.raises(vol.LimitError, match="at most 700 voxels"):
        vol.read_volume(path, vol.Limits(voxels=700))
    edited(path, lambda header: setattr(header, "Rows", 60_000))
    refused(vol.UnreadableVolumeError, path, "for 8640000 bytes of pixels, 60000 x 12")
    path = write_enhanced(tmp_path / "b.dcm")
    path.write_bytes(path.read_bytes()[:-240])
    refused(vol.UnreadableVolumeError, path, "1200 bytes for 6 frames of 10 x 12 pixels of 240 bytes")


def test_enhanced_and_classic_files_of_one_series_are_mixed(tmp_path):
    write_series(tmp_path)
    write_enhanced(tmp_path / "z.dcm")
    refused(vol.SeriesError, tmp_path, "some hold one image, others frames")


def test_one_file_of_a_classic_series_is_refused_and_one_enhanced_frame_too(tmp_path):
    path = next(write_series(tmp_path / "s").iterdir())
    refused(vol.SeriesError, path, "Give the folder")
    refused(vol.DimensionError, write_enhanced(tmp_path / "a.dcm", order=[2]), "localiser")


def test_labels_of_frames_make_a_segmentation_that_refers_to_them_and_names_nobody(tmp_path):
    volume = vol.read_volume(write_enhanced(tmp_path / "s.dcm", order=ORDER))
    path = vol.write_labels(tmp_path / "liver.dcm", LABELS, volume, classes=CLASSES)
    content = path.read_bytes()
    assert SECRET.encode() not in content and b"1895" not in content and b"lies still" not in content
    again = vol.to_canonical(vol.read_volume(path))
    assert np.array_equal(again.array, vol.to_canonical(vol.Volume(LABELS, volume.affine, volume.header, path)).array)
    for item in pydicom.dcmread(path).PerFrameFunctionalGroupsSequence:
        (source,) = item.DerivationImageSequence[0].SourceImageSequence
        place = -100 + 2.5 * ORDER[int(source.ReferencedFrameNumber) - 1]
        assert item.PlanePositionSequence[0].ImagePositionPatient[2] == pytest.approx(place)


def test_labels_of_frames_in_several_files_refer_to_each_of_them(tmp_path):
    parts = {"1.2.3.4.50": [0, 4], "1.2.3.4.60": [5, 1, 3, 2]}
    for uid, order in parts.items():
        write_enhanced(tmp_path / "s" / f"{uid}.dcm", order=order, SOPInstanceUID=uid)
    volume = vol.read_volume(tmp_path / "s")
    path = vol.write_labels(tmp_path / "liver.dcm", LABELS, volume, classes=CLASSES)
    assert SECRET.encode() not in path.read_bytes() and b"lies still" not in path.read_bytes()
    again = vol.to_canonical(vol.read_volume(path))
    assert np.array_equal(again.array, vol.to_canonical(vol.Volume(LABELS, volume.affine, volume.header, path)).array)
    found = pydicom.dcmread(path)
    for item in found.PerFrameFunctionalGroupsSequence:
        (source,) = item.DerivationImageSequence[0].SourceImageSequence
        number = parts[source.ReferencedSOPInstanceUID][int(source.ReferencedFrameNumber) - 1]
        assert item.PlanePositionSequence[0].ImagePositionPatient[2] == pytest.approx(-100 + 2.5 * number)
    for several in (found.SourceImageSequence, found.ReferencedSeriesSequence[0].ReferencedInstanceSequence):
        assert {item.ReferencedSOPInstanceUID for item in several} == set(parts)


def test_labels_of_frames_each_of_which_says_how_it_lies_make_a_segmentation(tmp_path):
    """Some scanners write orientation and spacing with each frame instead of once for all."""
    own = {
        "PlaneOrientationSequence": {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},
        "PixelMeasuresSequence": {"PixelSpacing": [0.7, 0.8]},
    }
    volume = vol.read_volume(write_enhanced(tmp_path / "s.dcm", shared=groups(), change=lambda number: own))
    path = vol.write_labels(tmp_path / "liver.dcm", LABELS, volume, classes=CLASSES)
    again = vol.to_canonical(vol.read_volume(path))
    assert np.array_equal(again.array, vol.to_canonical(vol.Volume(LABELS, volume.affine, volume.header, path)).array)


@needs_real
@pytest.mark.parametrize("syntax", ["JPEG 2000", "plain"])
def test_the_real_series_as_an_enhanced_file_that_highdicom_writes_is_the_same_volume(tmp_path, syntax):
    classic = vol.read_volume(SHARED)
    files = [pydicom.dcmread(image.path) for image in classic.series.slices]
    if syntax == "plain":
        for place, file in enumerate(files):
            stored = classic.array[:, :, place].T - int(file.RescaleIntercept)
            file.PixelData = stored.astype("<i2" if file.PixelRepresentation else "<u2").tobytes()
            file.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
            file["PixelData"].VR, file["PixelData"].is_undefined_length = "OW", False
    for file in files:
        # The series was anonymised; highdicom needs fields that every scanner writes.
        file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
            setattr(file, keyword, file.get(keyword) or "1.2.3")
        file.SOPInstanceUID = file.get("SOPInstanceUID") or f"1.2.3.{file.InstanceNumber}"
    uid = pydicom.uid.generate_uid
    enhanced = highdicom.legacy.LegacyConvertedEnhancedCTImage(
        files[1::2] + files[::2], uid(), 1, uid(), 1, include_dimension_index=False
    )
    enhanced.save_as(tmp_path / "enhanced.dcm")
    volume = vol.read_volume(tmp_path / "enhanced.dcm")
    assert np.array_equal(volume.array, classic.array)
    assert volume.array.dtype == classic.array.dtype
    assert volume.affine == pytest.approx(classic.affine, abs=1e-6)
