"""The content of a folder determines channels, labels, normalisation and grid."""

import numpy as np
import pytest
from task_folders import (
    LABELS,
    PLAIN,
    arrays,
    save,
    task,
    write_decathlon,
    write_plain,
)

from datasets import decathlon
from datasets.decathlon.fingerprints import fingerprint
from datasets.decathlon.layout import LayoutError, read_layout
from datasets.decathlon.reader import TaskReader
from keras_spatial.volumes import Limits, Percentiles, Window


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    write_decathlon(folder)
    return folder


def masks(folder, value, cases=3):
    for number in range(cases):
        image, label = arrays(number)
        save(folder / f"images/a{number}.nii.gz", (3 * image[..., 0] - 500).astype(np.int16))
        save(folder / f"labels/a{number}.nii.gz", value(label).astype(np.uint8))


@pytest.mark.parametrize(
    "value, received",
    [(lambda x: 255 * (x > 0), r"\[0, 255\]"), (lambda x: x + (x > 1), r"\[0, 1, 3, 4\]"), (lambda x: 0 * x, r"\[0\]")],
    ids=["0 and 255", "no 2", "nothing"],
)
def test_labels_with_a_gap_are_refused_with_the_list(tmp_path, value, received):
    masks(tmp_path, value)
    with pytest.raises(LayoutError, match=rf"without a gap, .* Received: {received}\. Number"):
        decathlon.prepare(tmp_path, tmp_path / "data", channels=["CT"], intensities="window")


def test_labels_that_do_not_occur_can_be_named(tmp_path):
    masks(tmp_path, lambda x: x + (x > 1))
    names = ["background", "a", "none", "b", "c"]
    config = decathlon.configure(tmp_path, tmp_path / "data", channels=["CT"], labels=names)
    assert config.task.labels == tuple(names)


@pytest.mark.parametrize(
    "image, label, received",
    [
        (lambda i, x: np.where(x > 0, 40, i), lambda x: x, "40 in nearly all"),
        (lambda i, x: i, lambda x: 0 * x, "no labelled voxel"),
    ],
    ids=["constant", "unlabelled"],
)
def test_a_channel_without_percentiles_is_named_with_its_folder(tmp_path, image, label, received):
    for number in range(3):
        values, truth = arrays(number)
        save(tmp_path / f"images/a{number}.nii.gz", image(3 * values[..., 0] - 500, truth).astype(np.int16))
        save(tmp_path / f"labels/a{number}.nii.gz", label(truth))
    with pytest.raises(LayoutError, match=rf"{tmp_path}: channel 0 \(CT\): .* Received: {received}.*intensities="):
        decathlon.prepare(tmp_path, tmp_path / "data", channels=["CT"], labels=LABELS)


def test_too_few_cases_for_the_folds_are_refused_before_a_voxel_is_read(tmp_path, monkeypatch):
    write_plain(tmp_path / "source", 3)
    monkeypatch.setattr("datasets.decathlon.fingerprints._look", lambda *a: pytest.fail("read"))
    with pytest.raises(ValueError, match="Received: 3 cases, 5 folds"):
        decathlon.prepare(tmp_path / "source", tmp_path / "data", split="fold-0-of-5", **PLAIN)


def test_the_fingerprint_gives_median_spacing_and_the_intensities_of_the_labelled_voxels(folder, tmp_path):
    layout = read_layout(folder)
    found = fingerprint(layout.cases, task(layout), tmp_path)
    assert (found.spacing, found.labels, found.cut_away) == ((1.5, 1.5, 3.0), (0, 1, 2, 3), (False, False))
    values = np.concatenate([image[label > 0] for image, label in map(arrays, range(4))])
    for channel in range(2):
        low, high, mean, deviation = found.intensities[channel]
        assert (low, high) == pytest.approx(np.percentile(values[:, channel], (0.5, 99.5)).tolist(), rel=1e-4)
        assert (mean, deviation) == pytest.approx((values[:, channel].mean(), values[:, channel].std()), rel=1e-4)


@pytest.mark.parametrize("left", [0, 500], ids=["empty", "cut off"])
def test_numbers_of_a_case_that_were_damaged_on_disk_are_computed_again(folder, tmp_path, left):
    layout = read_layout(folder)
    found = fingerprint(layout.cases, task(layout), tmp_path)
    for path in tmp_path.glob("*.npz"):
        path.write_bytes(path.read_bytes()[:left])
    again = fingerprint(layout.cases, task(layout), tmp_path)
    assert (again.spacing, again.intensities) == (found.spacing, found.intensities)


def test_a_spacing_resamples_every_case_to_it(folder, tmp_path):
    config = decathlon.configure(folder, tmp_path, spacing=(3.0, 1.5, 3.0), intensities="percentiles")
    assert str(config.grid) == "3x1.5x3mm" and config.name == "toy-percentiles-3x1.5x3mm"
    reader = TaskReader(config.task)
    images, labels = reader.read(read_layout(folder).cases[2], Limits())
    made = reader.resample(images, labels, config.task.target(images[0]))
    assert made.image.shape == (6, 12, 10, 2) and set(np.unique(made.label)) <= {0, 1, 2, 3}
    assert all(isinstance(c.intensities, Percentiles) for c in config.task.channels)


def test_ct_gets_percentiles_or_the_window_asked_for(tmp_path):
    for number in range(3):
        image, label = arrays(number)
        save(tmp_path / f"images/a{number}.nii.gz", (3 * image[..., 0] - 500).astype(np.int16))
        save(tmp_path / f"labels/a{number}.nii.gz", label)
    (channel,) = decathlon.configure(tmp_path, tmp_path / "data", channels=["CT"]).task.channels
    assert isinstance(channel.intensities, Percentiles)
    config = decathlon.configure(tmp_path, tmp_path / "data", channels=["CT"], intensities=(-100, 300))
    assert config.task.channels[0].intensities == Window(-100, 300)
    assert config.task.labels == ("background", "label 1", "label 2", "label 3")
