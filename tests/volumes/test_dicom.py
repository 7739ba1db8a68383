"""A DICOM series is read as its headers say, or refused with a named error; nothing about the patient leaks."""

import contextlib
import tracemalloc
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from volumes.dicom_files import SECRET, SHAPE, SPACING, hounsfield, save, slice_header, write_series

import keras_spatial.volumes as vol

SHARED = next(
    (p / "shared/data/dicom_ct" for p in Path(__file__).parents if (p / "shared/data/dicom_ct").is_dir()), None
)
needs_real = pytest.mark.skipif(
    SHARED is None, reason="needs the real series, shared/data/dicom_ct beside the checkout"
)


def refused(kind, path, *words):
    with pytest.raises(kind) as caught:
        vol.read_volume(path)
    text = str(caught.value)
    assert type(caught.value) is kind
    assert all(word in text for word in words), text
    assert SECRET not in text
    return text


def test_values_orientation_and_spacing_are_those_of_the_headers(tmp_path):
    array = hounsfield()
    volume = vol.read_volume(write_series(tmp_path / SECRET, array, order=[3, 0, 5, 1, 4, 2]))
    assert volume.array.dtype == np.int16
    assert np.array_equal(volume.array, array)
    assert volume.spacing == pytest.approx(SPACING)
    assert volume.orientation == "LPS"
    # NIfTI's x and y run the other way.
    assert volume.affine[:3, 3] == pytest.approx([5, -7, -100])
    assert SECRET not in volume.name


def test_oblique_and_sagittal_series_lie_where_itk_puts_them(tmp_path):
    for name, orientation in (("sagittal", [0, 1, 0, 0, 0, -1]), ("oblique", [0.8, 0.6, 0, 0, 0, -1])):
        row, column = np.reshape(orientation, (2, 3))
        step = 2.5 * np.cross(row, column)
        places = lambda n, step=step: {"ImagePositionPatient": [float(f"{v:.6f}") for v in step * n]}  # noqa: E731
        folder = write_series(tmp_path / name, change=places, ImageOrientationPatient=orientation)
        volume = vol.read_volume(folder)
        image = sitk.ReadImage(sorted(map(str, folder.iterdir())))
        for index in ((0, 0, 0), (11, 9, 5)):
            x, y, z = image.TransformIndexToPhysicalPoint(index)
            assert (volume.affine @ [*index, 1])[:3] == pytest.approx([-x, -y, z], abs=1e-4)
            assert volume.array[index] == image[index]


def test_files_that_are_no_dicom_and_objects_that_are_no_images_are_left_out(tmp_path):
    folder = write_series(tmp_path / "s")
    (folder / "README.txt").write_text("a patient")
    (folder / ".hidden.dcm").write_bytes(b"")
    report = slice_header(9, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33", Rows=None, series="1.2.3.5")
    save(folder / "report.dcm", report, hounsfield()[:, :, 0].T)
    assert vol.read_volume(folder).array.shape == SHAPE


def test_a_fractional_slope_gives_floats_and_a_large_one_wider_integers(tmp_path):
    stored = hounsfield() + 1024
    half = vol.read_volume(write_series(tmp_path / "half", stored, RescaleSlope=0.5, RescaleIntercept=0))
    assert half.array.dtype == np.float32
    assert np.array_equal(half.array, stored * np.float32(0.5))
    large = vol.read_volume(write_series(tmp_path / "large", stored, RescaleSlope=100, RescaleIntercept=0))
    assert large.array.dtype == np.int32
    assert np.array_equal(large.array, stored.astype(np.int32) * 100)


def test_several_series_of_a_folder_are_listed_and_each_can_be_read(tmp_path):
    write_series(tmp_path / "study/a", hounsfield(seed=1), series="1.2.3.1")
    write_series(tmp_path / "study/b", hounsfield(seed=2)[:, :, :4], series="1.2.3.2")
    text = refused(vol.SeriesError, tmp_path / "study", "Received: 2", "4 images of 12 x 10", "find_series")
    found = vol.find_series(tmp_path / "study")
    assert all(series.name in text and "1.2.3" not in series.name for series in found)
    assert sorted(vol.read_volume(series).array.shape[2] for series in found) == [4, 6]


def test_the_pseudonym_of_a_series_follows_it_and_its_key(tmp_path, monkeypatch):
    names = [vol.find_series(write_series(tmp_path / name))[0].name for name in ("a", "b")]
    assert names[0] == names[1]
    assert len(names[0]) == 16
    monkeypatch.setenv("KERAS_SPATIAL_PSEUDONYM_KEY", "the key of a hospital")
    assert vol.find_series(tmp_path / "a")[0].name != names[0]
    monkeypatch.setenv("KERAS_SPATIAL_IDENTIFIERS", "keep")
    assert vol.find_series(tmp_path / "a")[0].name == "1.2.3.4"
    monkeypatch.setenv("KERAS_SPATIAL_IDENTIFIERS", "perhaps")
    with pytest.raises(ValueError, match="expected 'replace' or 'keep'"):
        vol.find_series(tmp_path / "a")


def test_a_gantry_tilt_is_named_with_its_angle(tmp_path):
    tilted = lambda n: {"ImagePositionPatient": [-5, round(7 + 2.5 * n * np.tan(np.pi / 12), 4), -100 + 2.5 * n]}  # noqa: E731
    refused(vol.GantryTiltError, write_series(tmp_path / "s", change=tilted), "15.0 degrees", "dcm2niix")


def test_missing_and_unequal_slices_are_named_with_their_place(tmp_path):
    missing = write_series(tmp_path / "missing", order=[0, 1, 2, 4, 5])
    refused(vol.SliceError, missing, "1 slice is missing", "5 mm between slice 3", "slice 5")
    moved = write_series(
        tmp_path / "moved", change=lambda n: {"ImagePositionPatient": [0, 0, 2.5 * n + 0.3 * (n == 3)]}
    )
    refused(vol.SliceError, moved, "equal distances", "mostly 2.5 mm")
    # 2 mm up to the middle, then 2.03 mm: each step is within scanners' rounding, but the last slice is off by a slice.
    rising = write_series(
        tmp_path / "rising",
        np.repeat(hounsfield(), 30, axis=2),
        change=lambda n: {"ImagePositionPatient": [0, 0, 2.0 * n + 0.03 * max(0, n - 90)]},
    )
    refused(vol.SliceError, rising, "equal distances")


def test_a_slice_that_is_there_twice_is_named(tmp_path):
    folder = write_series(tmp_path / "s")
    save(folder / "copy.dcm", slice_header(2), hounsfield()[:, :, 2].T)
    refused(vol.SliceError, folder, "duplicated", "slice 3")


def test_a_series_over_time_is_refused_with_what_tells_its_volumes_apart(tmp_path):
    folder = tmp_path / "s"
    for time in (1, 2):
        write_series(
            folder / str(time), AcquisitionNumber=time, change=lambda n, t=time: {"SOPInstanceUID": f"1.{t}.{n}"}
        )
    refused(vol.DimensionError, folder, "4D", "12 images at 6 positions", "AcquisitionNumber: 1, 2")


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("Rows", 5, "size"),
        ("ImageOrientationPatient", [0, 1, 0, 0, 0, -1], "orientation"),
        ("PixelSpacing", [0.7, 0.9], "pixel spacing"),
        ("Modality", "MR", "modality"),
        ("PatientID", f"{SECRET}-2", "patient"),
        ("FrameOfReferenceUID", "1.7", "frame of reference"),
        ("PhotometricInterpretation", "MONOCHROME1", "kind of pixels"),
    ],
)
def test_mixed_images_are_named_by_what_differs(tmp_path, field, value, what):
    folder = write_series(tmp_path / "s", change=lambda n: {field: value} if n == 2 else {})
    refused(vol.SeriesError, folder, "mixed", what, "file 3 of 6")


@pytest.mark.parametrize(
    ("kind", "changes", "word"),
    [
        (vol.AffineError, {"ImagePositionPatient": None}, "ImagePositionPatient"),
        (vol.AffineError, {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "perpendicular"),
        (vol.SpacingError, {"PixelSpacing": [0.7, 0.0]}, "0.01 to 100 mm"),
        (vol.SpacingError, {"PixelSpacing": [700, 800]}, "0.01 to 100 mm"),
        (vol.ScaleError, {"RescaleSlope": 0}, "RescaleSlope"),
        (vol.UnreadableVolumeError, {"PhotometricInterpretation": "MONOCHROME1"}, "MONOCHROME2"),
        (vol.DimensionError, {"NumberOfFrames": 4}, "enhanced"),
    ],
)
def test_headers_that_place_or_scale_no_volume_are_named(tmp_path, kind, changes, word):
    refused(kind, write_series(tmp_path / "s", **changes), word)


def test_one_slice_is_no_volume(tmp_path):
    folder = write_series(tmp_path / "s", order=[0])
    refused(vol.DimensionError, folder, "localiser")
    refused(vol.SeriesError, next(folder.iterdir()), "Give the folder")


def test_a_damaged_file_is_the_fault_of_the_series_beside_it_and_of_no_other(tmp_path):
    good = write_series(tmp_path / "good", series="1.2.3.1")
    bad = write_series(tmp_path / "bad", series="1.2.3.2")
    path = bad / f"{SECRET}002.dcm"
    path.write_bytes(path.read_bytes()[:40])
    refused(vol.UnreadableVolumeError, bad, "not a DICOM file", "file 3 of 6", "40 bytes")
    found = vol.find_series(tmp_path)
    assert {series.fault is None for series in found} == {True, False}
    assert vol.read_volume(good).array.shape == SHAPE


def test_a_series_behind_a_link_is_found_once(tmp_path):
    write_series(tmp_path / "archive" / "1")
    (tmp_path / "study").mkdir()
    for name in ("series1", "series1-again"):
        (tmp_path / "study" / name).symlink_to(tmp_path / "archive" / "1")
    (found,) = vol.find_series(tmp_path / "study")
    assert len(found.slices) == 6
    assert vol.read_volume(tmp_path / "study").array.shape == SHAPE


def test_pixels_that_end_early_are_named(tmp_path):
    folder = write_series(tmp_path / "s")
    path = folder / f"{SECRET}004.dcm"
    path.write_bytes(path.read_bytes()[:-20])
    refused(vol.UnreadableVolumeError, folder, "file 5 of 6", "copy or download it again")


def test_limits_hold_before_a_pixel_is_read(tmp_path):
    folder = write_series(tmp_path / "s", Rows=60000, Columns=60000)
    refused(vol.LimitError, folder, "at most 1073741824 voxels", "ks.volumes.Limits(voxels=...)")
    with pytest.raises(vol.LimitError, match="at most 100 voxels"):
        vol.read_volume(write_series(tmp_path / "t"), vol.Limits(voxels=100))


def test_a_file_that_cannot_hold_its_pixels_is_named_before_memory_is_taken(tmp_path):
    folder = write_series(tmp_path / "s", hounsfield()[:, :, :2], Rows=20_000, Columns=20_000)
    refused(vol.UnreadableVolumeError, folder, "file 1 of 2", "for 800000000 bytes of pixels, 20000 x 20000")


def test_a_segmentation_with_a_length_beyond_its_file_takes_no_memory(tmp_path):
    volume = vol.read_volume(write_series(tmp_path / "s"))
    path = vol.write_labels(tmp_path / "a.dcm", LABELS, volume, classes=CLASSES)
    whole = path.read_bytes()
    place = whole.index(b"\xe0\x7f\x10\0O") + 8
    path.write_bytes(whole[:place] + b"\xfe\xff\xff\xff" + whole[place + 4 :])
    tracemalloc.start()
    with contextlib.suppress(vol.UnreadableVolumeError):
        vol.read_volume(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 48 << 20


def test_two_frames_of_a_segmentation_that_lie_far_apart_take_no_memory(tmp_path):
    volume = vol.read_volume(write_series(tmp_path / "s"))
    path = vol.write_labels(tmp_path / "a.dcm", LABELS, volume, classes=CLASSES)
    content = pydicom.dcmread(path)
    last = content.PerFrameFunctionalGroupsSequence[-1]
    last.PlanePositionSequence[0].ImagePositionPatient = [-5, 7, -100 + 2.5 * 10**7]
    content.save_as(path)
    tracemalloc.start()
    with pytest.raises(vol.LimitError, match=r"at most 1073741824 voxels. Received: 10 x 12 x 1000000[0-9]"):
        vol.read_volume(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 48 << 20


LABELS = (hounsfield() > 300).astype(np.uint8) + (hounsfield() > 700)
CLASSES = ("background", "liver", "liver lesion")


def test_labels_go_out_as_a_segmentation_of_the_series_and_come_back(tmp_path):
    volume = vol.read_volume(write_series(tmp_path / "s"))
    path = vol.write_labels(tmp_path / "out" / "liver.dcm", LABELS, volume, classes=CLASSES)
    assert [p.name for p in path.parent.iterdir()] == ["liver.dcm"]
    found = highdicom.seg.segread(path)
    assert [found.get_segment_description(n).segment_label for n in (1, 2)] == ["liver", "liver lesion"]
    assert found.get_segment_description(1).segmented_property_type.value == "10200004"
    assert found.StudyInstanceUID == "1.2.3"
    assert found.FrameOfReferenceUID == "1.2.3.9"
    assert {item.ReferencedSOPInstanceUID for item in found.ReferencedSeriesSequence[0].ReferencedInstanceSequence} == {
        f"1.2.3.4.{n}" for n in range(1, 7)
    }
    again = vol.to_canonical(vol.read_volume(path))
    assert np.array_equal(again.array, vol.to_canonical(vol.Volume(LABELS, volume.affine, volume.header, path)).array)
    assert again.affine == pytest.approx(vol.to_canonical(volume).affine)


def test_a_segmentation_names_no_patient_unless_asked_for(tmp_path, monkeypatch):
    volume = vol.read_volume(write_series(tmp_path / "s"))
    path = vol.write_labels(tmp_path / "liver.dcm", LABELS, volume, classes=CLASSES)
    assert SECRET.encode() not in path.read_bytes()
    assert b"1895" not in path.read_bytes()
    assert pydicom.dcmread(path).PatientIdentityRemoved == "YES"
    monkeypatch.setenv("KERAS_SPATIAL_IDENTIFIERS", "keep")
    kept = pydicom.dcmread(vol.write_labels(tmp_path / "kept.dcm", LABELS, volume, classes=CLASSES))
    assert kept.PatientID == f"{SECRET}-1845"
    assert "PatientIdentityRemoved" not in kept


@pytest.mark.parametrize("thickness", [None, ""])
def test_labels_of_slices_of_unknown_thickness_are_as_thick_as_the_slices_are_apart(tmp_path, thickness):
    volume = vol.read_volume(write_series(tmp_path / "s", SliceThickness=thickness))
    path = vol.write_labels(tmp_path / "liver.dcm", LABELS, volume, classes=CLASSES)
    again = vol.to_canonical(vol.read_volume(path))
    assert np.array_equal(again.array, vol.to_canonical(vol.Volume(LABELS, volume.affine, volume.header, path)).array)
    measures = pydicom.dcmread(path).SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.SliceThickness == 2.5


def test_labels_without_a_voxel_and_without_names_can_be_written(tmp_path):
    volume = vol.read_volume(write_series(tmp_path / "s"))
    path = vol.write_labels(tmp_path / "empty.dcm", np.zeros_like(LABELS), volume)
    assert not vol.read_volume(path).array.any()


def test_what_cannot_be_a_segmentation_of_a_series_is_refused(tmp_path):
    volume = vol.read_volume(write_series(tmp_path / "s"))
    with pytest.raises(vol.LabelError, match="below 2"):
        vol.write_labels(tmp_path / "a.dcm", LABELS, volume, classes=("background", "liver"))
    with pytest.raises(vol.DimensionError):
        vol.write_labels(tmp_path / "a.dcm", LABELS[1:], volume)
    nifti = vol.read_volume(vol.write_labels(tmp_path / "a.nii.gz", LABELS, volume))
    with pytest.raises(vol.SeriesError, match=r"\.nii\.gz"):
        vol.write_labels(tmp_path / "a.dcm", LABELS, nifti)
    assert not list(tmp_path.glob("*.dcm"))


@needs_real
def test_the_real_jpeg_2000_series_lies_on_the_grid_of_its_labels_and_makes_the_round_trip(tmp_path):
    volume = vol.read_volume(SHARED)
    labels = vol.read_volume(SHARED / "segmentation.nii.gz")
    canonical, truth = vol.to_canonical(volume), vol.to_canonical(labels)
    assert canonical.affine == pytest.approx(truth.affine, abs=1e-4)
    # Label 5 is the liver: a contrast-enhanced one has about 100 HU.
    assert 50 < np.median(canonical.array[truth.array == 5]) < 150
    liver = vol.from_canonical((truth.array == 5).astype(np.uint8), volume)
    written = vol.read_volume(vol.write_labels(tmp_path / "liver.dcm", liver, volume, classes=("background", "liver")))
    again = vol.to_canonical(written)
    assert again.affine == pytest.approx(canonical.affine, abs=1e-4)
    assert np.array_equal(again.array, truth.array == 5)


def test_a_slice_whose_damaged_header_has_no_size_is_named_and_not_left_out(tmp_path):
    folder = write_series(tmp_path / "s", hounsfield()[:, :, :3])
    path = folder / f"{SECRET}001.dcm"
    whole = path.read_bytes()
    # Of the implementation's version, with which the file's own header ends.
    place = whole.index(b"\x02\0\x13\0SH") + 2
    path.write_bytes(whole[:place] + b"\0\0\0\0\0\3" + whole[place + 6 :])
    refused(vol.UnreadableVolumeError, folder, "header is damaged", "file 2 of 3")


def test_a_length_beyond_the_file_takes_no_memory(tmp_path):
    folder = write_series(tmp_path / "s")
    path = folder / f"{SECRET}001.dcm"
    whole = path.read_bytes()
    # A private element of 4 GB before the others.
    place = whole.index(b"\x08\0\x16\0UI")
    path.write_bytes(whole[:place] + b"\x07\0\x10\0OB\0\0\xfe\xff\xff\xff" + whole[place:])
    tracemalloc.start()
    refused(vol.UnreadableVolumeError, folder, "file 2 of 6")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 48 << 20


def test_deflated_headers_are_refused_before_they_are_unfolded(tmp_path):
    folder = write_series(tmp_path / "s")
    for path in folder.iterdir():
        header = pydicom.dcmread(path)
        header.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
        header.save_as(path)
    refused(vol.UnreadableVolumeError, folder, "Deflated", "dcmconv")
