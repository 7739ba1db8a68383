"""Segmenting by a task: its channels, its normalisation, its grid, its classes; with one network or several."""

import highdicom
import keras
import nibabel as nib
import numpy as np
import pytest
from volumes.dicom_files import SECRET, SHAPE, hounsfield, write_series

from keras_spatial.inference import Patches, ensemble_average, segment
from keras_spatial.volumes import (
    Channel,
    ChannelError,
    DimensionError,
    Grid,
    IntensityError,
    LimitError,
    SeriesError,
    Task,
    Window,
    ZScore,
    placed_on,
    read_volume,
)

AFFINE = np.diag([-1.0, 1.0, 2.0, 1.0])
MR = Task("toy", ("background", "bright"), (Channel("T1", ZScore()), Channel("T2", Window(0, 100))))


def model_of(size, weights, classes=2):
    """A network that scores class 1 by a weighted sum of the channels, voxel by voxel."""
    inputs = keras.Input((*size, len(weights)))
    layer = keras.layers.Conv3D(classes, 1)
    model = keras.Model(inputs, layer(inputs))
    kernel = np.zeros((1, 1, 1, len(weights), classes), np.float32)
    kernel[..., 1] = 50 * np.array(weights, np.float32)
    layer.set_weights([kernel, np.zeros(classes, np.float32)])
    return model


@pytest.fixture
def case(tmp_path):
    """Two channels; the first one is bright on its right, the second one is 10 or 90."""
    first = np.zeros((10, 9, 8), np.float32)
    first[:5] = 700
    second = np.full(first.shape, 10, np.float32)
    second[:, :3] = 90
    paths = []
    for number, array in enumerate((first, second)):
        paths.append(tmp_path / f"case_{number:04}.nii.gz")
        nib.save(nib.Nifti1Image(array, AFFINE), paths[-1])
    return paths, first, second


@pytest.mark.parametrize("size", [(16, 16, 16), (10, 9, 8), (6, 12, 4)], ids=["padded", "exact", "windows"])
def test_any_volume_is_segmented_on_its_own_grid(case, tmp_path, size):
    paths, first, _ = case
    found = segment(model_of(size, [1, 0]), paths, tmp_path / "out.nii.gz", task=MR, patches=Patches(overlap=0.25))
    np.testing.assert_array_equal(found.labels, first > 0)
    written = nib.load(tmp_path / "out.nii.gz")
    np.testing.assert_allclose(written.affine, AFFINE)


def test_every_channel_has_its_own_normalisation(case):
    paths, first, second = case
    # 90 becomes 0.9 and 10 becomes 0.1; of the z-score only the sign decides.
    labels = segment(model_of((16, 16, 16), [0.3, 1]), paths, task=MR).labels
    np.testing.assert_array_equal(labels, (first > 0) | (second == 90))


def test_one_file_may_hold_all_channels(case, tmp_path):
    paths, first, second = case
    nib.save(nib.Nifti1Image(np.stack([first, second], -1), AFFINE), tmp_path / "both.nii.gz")
    model = model_of((16, 16, 16), [0.3, 1])
    expected = segment(model, paths, task=MR).labels
    np.testing.assert_array_equal(segment(model, tmp_path / "both.nii.gz", task=MR).labels, expected)


def test_the_grid_of_the_task_is_that_of_the_network(case):
    paths, first, _ = case
    coarse = Task("toy", MR.labels, MR.channels, Grid(spacing=(2.0, 1.0, 2.0)))
    labels = segment(model_of((8, 12, 8), [1, 0]), paths, task=coarse).labels
    assert labels.shape == first.shape and np.mean(labels == (first > 0)) > 0.85


def test_a_spacing_that_makes_the_tasks_grid_too_large_is_refused_before_that_is_made(tmp_path):
    """The header has another unit: 90 mm are 900 voxels of this task. One volume must not exhaust the memory of a
    batch.
    """
    fine = Task("toy", MR.labels, MR.channels[:1], Grid(spacing=0.1))
    nib.save(nib.Nifti1Image(np.ones((8, 8, 8), np.float32), np.diag([90.0, 90.0, 90.0, 1.0])), tmp_path / "a.nii")
    with pytest.raises(LimitError, match=r"grid of at most 1073741824 voxels. Received: \(7200, 7200, 7200\) of 0.1mm"):
        segment(model_of((8, 8, 8), [1]), tmp_path / "a.nii", task=fine)


def test_the_probabilities_of_several_networks_are_averaged(case):
    paths, first, _ = case
    members = [model_of((16, 16, 16), w) for w in ([1, 0], [1, 0], [-1, 0])]
    np.testing.assert_array_equal(segment(members, paths, task=MR).labels, first > 0)
    mean = ensemble_average([lambda x: 0 * x, lambda x: x + 1])
    np.testing.assert_array_equal(mean(np.ones((1, 2, 2, 2, 1))), 1.0)
    with pytest.raises(ValueError, match="expected the input of the others"):
        segment([members[0], model_of((8, 16, 16), [1, 0])], paths, task=MR)
    with pytest.raises(ValueError, match="at least one"):
        segment([], paths, task=MR)


def test_channels_that_do_not_fit_are_named(case, tmp_path):
    paths, first, _ = case
    model = model_of((16, 16, 16), [1, 0])
    with pytest.raises(ChannelError, match=r"expected 2 channels \(T1, T2\)\. Received: 3"):
        segment(model, [*paths, paths[0]], task=MR)
    nib.save(nib.Nifti1Image(first[:-1], AFFINE), tmp_path / "small.nii.gz")
    with pytest.raises(ChannelError, match=r"small\.nii\.gz: expected the shape of case_0000\.nii\.gz"):
        segment(model, [paths[0], tmp_path / "small.nii.gz"], task=MR)
    with pytest.raises(ValueError, match="expected a model with scores of the 2 classes"):
        segment(model_of((16, 16, 16), [1, 0], classes=3), paths, task=MR)


def test_dicom_series_are_channels_and_the_labels_of_the_task_name_the_segments(tmp_path):
    arrays = [hounsfield(seed=seed) for seed in (0, 1)]
    folders = [
        write_series(tmp_path / f"{SECRET}{n}", array, series=f"1.2.3.{n}") for n, array in enumerate(arrays, start=4)
    ]
    model, path = model_of(SHAPE, [1, 0]), tmp_path / "out.dcm"
    found = segment(model, folders, path, task=MR)
    np.testing.assert_array_equal(found.labels, arrays[0] > arrays[0].mean())
    assert highdicom.seg.segread(path).get_segment_description(1).segment_label == "bright"
    segment(model, folders, path, task=MR, classes=("nothing", "vessel"))
    assert highdicom.seg.segread(path).get_segment_description(1).segment_label == "vessel"
    np.testing.assert_array_equal(placed_on(read_volume(path), found.volume), found.labels)


def test_what_a_case_of_dicom_lacks_is_named_without_the_patient(case, tmp_path):
    folders = [write_series(tmp_path / SECRET), write_series(tmp_path / "t2", hounsfield((12, 10, 5)))]
    model = model_of(SHAPE, [1, 0])
    for error, given in ((DimensionError, folders[0]), (ChannelError, folders), (ChannelError, [*folders, folders[0]])):
        with pytest.raises(error) as raised:
            segment(model, given, task=MR)
        assert SECRET not in str(raised.value)
    with pytest.raises(SeriesError, match="expected the labels of a DICOM series"):
        segment(model, case[0], tmp_path / "out.dcm", task=MR)


def test_a_task_with_a_liver_keeps_its_largest_piece(tmp_path):
    bright = np.full((12, 9, 8), -500, np.float32)
    bright[:5], bright[8:10, 2:4, 2:4] = 500, 500
    nib.save(nib.Nifti1Image(bright, AFFINE), tmp_path / "v.nii")
    ct = Task("toy", ("background", "liver"), (Channel("CT", Window(0, 100)),))
    model = model_of((12, 9, 8), [1])
    # Without a bias, dark voxels tie, and ties are background.
    assert segment(model, tmp_path / "v.nii", task=ct).labels[8, 2, 2] == 1
    found = segment(model, tmp_path / "v.nii", task=ct, largest_liver=True).labels
    np.testing.assert_array_equal(found[:5], 1)
    np.testing.assert_array_equal(found[5:], 0)


def test_several_volumes_without_a_task_are_refused(case):
    with pytest.raises(ValueError, match=r"several channels need a task\. Received: 2"):
        segment(model_of((10, 9, 8), [1]), case[0])


def test_a_ct_has_to_be_in_hounsfield_units(case):
    paths, *_ = case
    ct = Task("toy", ("background", "bright"), (Channel("CT", Window()),))
    with pytest.raises(IntensityError, match="expected Hounsfield units"):
        segment(model_of((16, 16, 16), [1]), paths[0], task=ct)


def test_a_task_travels_as_json():
    task = Task("t", ("b", "a"), (Channel("CT", Window(-10, 5)),), Grid(spacing=(1, 2, 3)), largest=(4, 5, 6))
    assert Task.of(task.as_dict()) == task
