"""The gate before the export, and the learning rate schedule: values computed by plain functions."""

import json
import os

import keras
import pytest
from volumes.dicom_files import SECRET, write_series

from components.compare.compare import BaselineError, compare_models
from components.segment.segment import segment_folder
from components.segment.volumes import volumes_in
from components.train.schedule import rate
from keras_spatial.inference import NothingToSegment, ResultsCollide, Source
from keras_spatial.volumes import read_volume
from pipelines.__main__ import cli


def metrics(path, liver, lesion, cases=("volume-1",)):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"dice": {"liver": liver, "lesion": lesion}, "cases": list(cases)}))
    return str(path)


@pytest.mark.parametrize(
    ("liver", "lesion", "accepted"),
    [(0.95, 0.70, True), (0.94, 0.69, True), (0.93, 0.80, False), (0.99, 0.60, False)],
)
def test_no_class_may_be_worse_by_more_than_the_tolerance(tmp_path, liver, lesion, accepted):
    metrics(tmp_path / "evaluation" / "metrics.json", liver, lesion)
    baseline = metrics(tmp_path / "earlier.json", 0.95, 0.70)
    decision = tmp_path / "decision.json"
    result = compare_models(str(tmp_path / "evaluation"), str(decision), baseline=baseline, tolerance=0.0101)
    assert result["decision"]["accepted"] is accepted
    assert json.loads(decision.read_text())["accepted"] is accepted


def test_the_first_model_is_accepted(tmp_path):
    metrics(tmp_path / "evaluation" / "metrics.json", 0.1, 0.0)
    result = compare_models(str(tmp_path / "evaluation"), str(tmp_path / "d.json"), baseline="", tolerance=0)
    assert result["decision"]["accepted"] is True


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "No such file"),
        ("{", "expected the metrics.json"),
        ('{"dice": {"liver": 1}, "cases": []}', "lesion"),
        ('{"dice": {"liver": 1, "lesion": 1}, "cases": ["volume-9"]}', "the same held-out cases"),
    ],
)
def test_a_bad_baseline_is_named(tmp_path, text, expected):
    metrics(tmp_path / "evaluation" / "metrics.json", 0.9, 0.6)
    baseline = tmp_path / "earlier.json"
    if text is not None:
        baseline.write_text(text)
    with pytest.raises(BaselineError, match=expected):
        compare_models(str(tmp_path / "evaluation"), str(tmp_path / "d.json"), baseline=str(baseline), tolerance=0)


def test_learning_rate_rises_then_falls():
    rates = [rate(0.01, progress / 100, 0.05) for progress in range(101)]
    assert rates[5] == pytest.approx(0.01)
    assert rates[:6] == sorted(rates[:6])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[0] > 0
    assert rates[100] == pytest.approx(0.0001)


@pytest.mark.parametrize(
    ("volume", "name"),
    [
        ("volume-3.nii", "segmentation-3"),
        ("volume-3.nii.gz", "segmentation-3"),
        ("patient.7.nii.gz", "segmentation-patient.7"),
        ("volume-4.mha", "segmentation-4"),
    ],
)
def test_names_of_segmentations(tmp_path, volume, name):
    assert Source(tmp_path / volume).stem == name


def test_volumes_of_a_folder(tmp_path):
    for name in ("volume-1.nii.gz", "segmentation-1.nii.gz", "b.nii", ".part-c.nii", "notes.txt"):
        (tmp_path / name).touch()
    assert [source.name for source in volumes_in(tmp_path)] == ["b.nii", "volume-1.nii.gz"]


def test_a_folder_without_volumes_is_named(tmp_path):
    with pytest.raises(NothingToSegment, match="no volume found"):
        volumes_in(tmp_path)
    with pytest.raises(NothingToSegment, match="no such file or folder"):
        volumes_in(tmp_path / "missing")


@pytest.mark.parametrize(
    "names", [("volume-3.nii", "volume-3.nii.gz"), ("3.nii", "volume-3.nii.gz"), ("3.nii", "3.nii.gz", "4.nii")]
)
def test_volumes_whose_results_would_have_one_name_are_refused_before_the_first(tmp_path, names):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(ResultsCollide) as error:
        volumes_in(tmp_path)
    assert all(name in str(error.value) for name in (*names[:2], "segmentation-3.nii.gz"))
    # And by the command before its first step.
    options = ["--set", f"data={tmp_path}", "--set", f"model={tmp_path}"]
    assert cli(["run", "batch_inference", "--run-dir", str(tmp_path / "run"), *options]) == 2
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_read_is_left_out_by_name_and_blocks_nobody(tmp_path, capsys):
    source, model = tmp_path / "volumes", tmp_path / "model.keras"
    source.mkdir()
    os.mkfifo(source / "pipe.nii")
    (source / "folder.nii").mkdir()
    (source / "gone.nii").symlink_to(tmp_path / "nowhere")
    (source / f"{'n' * 245}.nii").touch()
    (source / os.fsdecode(b"\xff.nii")).write_bytes(b"no NIfTI")
    inputs = keras.Input((8, 8, 8, 1))
    keras.Model(inputs, keras.layers.Conv3D(3, 1)(inputs)).save(model)
    with pytest.raises(NothingToSegment, match="none of 5 volumes can be used"):
        segment_folder(str(source), str(model), str(tmp_path / "out"), mesh="rows:1", layout="x:rows", task="lits")
    table = (tmp_path / "out" / "failed.csv").read_text()
    for name, reason in (
        ("pipe.nii", "cannot be read: is a named pipe, not a regular file"),
        ("folder.nii", "cannot be read: is a folder, not a regular file"),
        ("gone.nii", "cannot be read: No such file"),
        (f"{'n' * 245}.nii", "the name of its result would have"),
        ("\\xff.nii", "FileNameError"),
    ):
        assert name in table and reason in table


def test_dicom_series_are_segmented_under_pseudonyms_and_a_bad_one_stops_no_other(tmp_path, capfd):
    good = write_series(tmp_path / SECRET / "a", series="1.2.3.1")
    write_series(tmp_path / SECRET / "b", series="1.2.3.2", order=[0, 1, 3, 4, 5])
    inputs, model = keras.Input((8, 8, 8, 1)), tmp_path / "model.keras"
    keras.Model(inputs, keras.layers.Conv3D(3, 1)(inputs)).save(model)
    folder = tmp_path / "out"
    found = segment_folder(str(tmp_path / SECRET), str(model), str(folder), mesh="rows:1", layout="x:rows", task="lits")
    assert found == {"predictions": {"segmented": 1, "failed": 1}}
    (labels,) = folder.glob("segmentation-*.nii.gz")
    assert read_volume(labels).affine == pytest.approx(read_volume(good).affine)
    table = (folder / "failed.csv").read_text()
    assert "SliceError" in table and "1 slice is missing" in table
    said = capfd.readouterr()
    for text in (table, said.out, said.err, labels.name, labels.read_bytes().decode("latin-1")):
        assert SECRET not in text and "1.2.3" not in text


def test_one_file_is_segmented_as_well(tmp_path):
    (tmp_path / "volume-7.nii").touch()
    assert [source.stem for source in volumes_in(tmp_path / "volume-7.nii")] == ["segmentation-7"]


def test_a_file_that_the_user_may_not_read_is_left_out(tmp_path, monkeypatch):
    def refuse(self, mode):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.nii").touch()
    monkeypatch.setattr(type(tmp_path), "open", refuse)
    assert Source(tmp_path / "a.nii").unusable() == "cannot be read: Permission denied"


@pytest.mark.parametrize(
    ("kind", "said"), [("pipe", "expected a .keras file"), ("folder", "a folder with model.keras")]
)
def test_a_model_that_is_no_file_is_named_before_the_first_step(tmp_path, capsys, kind, said):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "1.nii").touch()
    (os.mkfifo if kind == "pipe" else os.mkdir)(tmp_path / "model")
    options = ["--set", f"data={tmp_path / 'data'}", "--set", f"model={tmp_path / 'model'}"]
    assert cli(["run", "batch_inference", "--run-dir", str(tmp_path / "run"), *options]) == 2
    assert said in capsys.readouterr().err
