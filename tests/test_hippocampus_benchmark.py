"""The hippocampus benchmark reports its folds correctly, and does not mix folds with different settings."""

import json

import numpy as np
import pytest

from benchmarks.hippocampus.__main__ import main, run
from benchmarks.hippocampus.report import rows_of, write_report
from benchmarks.hippocampus.settings import Settings
from keras_spatial.evaluation import evaluate_classes

LABELS = ("background", "Anterior", "Posterior")


def fold(out, number, cases):
    folder = out / f"fold-{number}"
    folder.mkdir()
    training = {"settings": {"mesh": "rows:2", "steps": 7}, "seconds": 120.0, "processor_seconds": 180.0}
    (folder / "training.json").write_text(json.dumps(training))
    (folder / "timings.json").write_text(json.dumps([[1000 + 500 * n, 0.5 + n] for n in range(len(cases))]))
    return cases


def case(name, moved):
    truth = np.zeros((12, 12, 12), np.uint8)
    truth[2:8, 2:6, 2:8], truth[2:8, 6:10, 2:8] = 1, 2
    return evaluate_classes(np.roll(truth, moved, 0), truth, (1, 1, 1), LABELS, case=name)


def test_the_report_has_every_class_with_its_interval_and_every_fold(tmp_path):
    folds = {k: fold(tmp_path, k, [case(f"{k}-{n}", n) for n in range(3)]) for k in (0, 2)}
    text = write_report(tmp_path, folds, of=5)
    assert "2 of 5 folds, 6 held-out cases" in text and "target 0.885 in five folds: open" in text
    # Moved by 0, 1 and 2 of six voxels: Dice 1, 5/6 and 4/6.
    assert "| Anterior | 0.833 (" in text and "| 2 | 0.8333 | 7 | 2.0 | 3.0 |" in text
    assert json.loads((tmp_path / "report.json").read_text())["summary"]["classes"]["mean"]["dice"]["count"] == 6


def test_kept_results_judge_the_mean_over_the_classes(tmp_path):
    folds = {k: fold(tmp_path, k, [case(f"{k}-{n}", n) for n in range(3)]) for k in range(2)}
    rows = {row["figure"]: row for row in rows_of(tmp_path, folds)}
    mean = rows["mean: Dice"]
    assert mean["ours"] == 0.8333 and mean["target"] == 0.885 and mean["ok"] is False
    assert rows["Anterior: Dice"]["ok"] is None
    assert rows["minutes of processor time, 2 folds"]["ours"] == 6.0


def test_report_and_kept_results_show_time_by_the_size_of_the_volumes(tmp_path):
    folds = {k: fold(tmp_path, k, [case(f"{k}-{n}", n) for n in range(3)]) for k in range(2)}

    assert "| 1667 to 2000 | 2 | 2.50 |" in write_report(tmp_path, folds, of=5)

    rows = {row["figure"]: row for row in rows_of(tmp_path, folds)}
    assert rows["seconds a volume of 1000 to 1333 voxels"]["ours"] == 0.5
    assert rows["seconds a volume of 1667 to 2000 voxels"] == {
        **rows["seconds a volume of 1667 to 2000 voxels"],
        "ours": 2.5,
        "note": "median of 2",
    }


def test_other_settings_need_another_folder(tmp_path):
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(SystemExit, match="other settings"):
        run(tmp_path, tmp_path, Settings())


def test_an_ensemble_needs_a_trained_fold(tmp_path):
    with pytest.raises(SystemExit, match="no trained fold"):
        main(["segment", "--out", str(tmp_path), "a.nii.gz", "-o", str(tmp_path / "out")])
