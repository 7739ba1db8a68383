"""The first bytes of a DICOM file tell the series of its images, as `find_series` does with whole files."""

import pytest
from volumes.dicom_files import SAMPLES, hounsfield, save, slice_header, write_enhanced, write_series

from keras_spatial.volumes import find_series
from keras_spatial.volumes.series import series_in

REPORT, CONTOURS = "1.2.840.10008.5.1.4.1.1.88.11", "1.2.840.10008.5.1.4.1.1.481.3"


def named_in(path):
    return series_in(path.read_bytes()[: 1 << 16])


def test_the_head_of_a_slice_and_of_an_enhanced_file_tells_the_name_of_the_series(tmp_path):
    [series] = find_series(write_series(tmp_path / "classic"))
    assert {named_in(image.path) for image in series.slices} == {str(series)}
    [series] = find_series(write_enhanced(tmp_path / "enhanced.dcm"))
    assert named_in(tmp_path / "enhanced.dcm") == str(series)


@pytest.mark.parametrize("name", ["CT_small", "MR_small_bigendian", "MR_small_implicit", "JPEG2000", "rtdose_1frame"])
def test_the_head_of_a_real_image_tells_the_name_of_its_series(name):
    path = SAMPLES / f"{name}.dcm"
    assert [named_in(path)] == [str(series) for series in find_series(path)]


@pytest.mark.parametrize("name", ["reportsi", "test-SR", "rtplan", "waveform_ecg", "liver_1frame", "liver_expb_1frame"])
def test_a_real_report_plan_or_segmentation_belongs_to_no_series_of_images(name):
    path = SAMPLES / f"{name}.dcm"
    assert find_series(path) == []
    assert named_in(path) == ""


@pytest.mark.parametrize("sop_class", [REPORT, CONTOURS])
def test_an_object_that_is_no_image_belongs_to_no_series_even_under_the_uid_of_images(tmp_path, sop_class):
    path = save(tmp_path / "a.dcm", slice_header(0, SOPClassUID=sop_class, Rows=None), hounsfield()[:, :, 0].T)
    assert find_series(path) == []
    assert named_in(path) == ""


def test_a_deflated_header_tells_nothing():
    assert named_in(SAMPLES / "image_dfl.dcm") == ""


def test_a_head_that_ends_too_early_tells_nothing_rather_than_another_series(tmp_path):
    whole = save(tmp_path / "a.dcm", slice_header(0, series="1.2.3.44"), hounsfield()[:, :, 0].T).read_bytes()
    name = series_in(whole)
    told = [series_in(whole[:length]) for length in range(len(whole))]
    assert name and set(told) == {"", name}
