"""The gate before the export, and the learning rate schedule: values computed by plain functions."""

import json

import pytest

from components.compare.compare import BaselineError, compare_models
from components.segment.segment import NothingSegmented, output_name, volumes_in
from components.train.schedule import rate


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
        ("volume-3.nii", "segmentation-3.nii.gz"),
        ("volume-3.nii.gz", "segmentation-3.nii.gz"),
        ("patient.7.nii.gz", "segmentation-patient.7.nii.gz"),
    ],
)
def test_names_of_segmentations(tmp_path, volume, name):
    assert output_name(tmp_path / volume) == name


def test_volumes_of_a_folder(tmp_path):
    for name in ("volume-1.nii.gz", "segmentation-1.nii.gz", "b.nii", ".part-c.nii", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in volumes_in(tmp_path)] == ["b.nii", "volume-1.nii.gz"]


def test_a_folder_without_volumes_is_named(tmp_path):
    with pytest.raises(NothingSegmented, match="no volume found"):
        volumes_in(tmp_path)
    with pytest.raises(NothingSegmented, match="no such folder"):
        volumes_in(tmp_path / "missing")
