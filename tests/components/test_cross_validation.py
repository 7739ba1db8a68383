"""Folds are combined, learning rates are compared, and other runners of Beam are refused, with plain files."""

import json

import numpy as np
import pytest

from components.cross_validation.cross_validation import FoldsError, report_folds
from components.evaluate.results import ADAPTER
from components.preprocess.preprocess import RunnerError, check_runner
from components.sweep.sweep import compare_trainings
from keras_spatial.evaluation import evaluate_case


def fold(folder, cases):
    """An evaluation of cases, in each of which the given number of 64 voxels is wrong."""
    folder.mkdir()
    truth = np.zeros((8, 8, 8), np.uint8)
    truth[2:6, 2:6, 2:6] = 1
    truth[3:5, 3:5, 3:5] = 2
    metrics = []
    for name, wrong in cases.items():
        predicted = truth.copy()
        predicted[2, 2 : 2 + wrong, 2] = 0
        metrics.append(evaluate_case(predicted, truth, (1.0, 1.0, 1.0), case=name))
    (folder / "cases.json").write_bytes(ADAPTER.dump_json(metrics))
    dice = {part: float(np.mean([getattr(m, part).dice for m in metrics])) for part in ("liver", "lesion")}
    scores = {"dice": dice, "cases": list(cases), "mesh": "rows:2", "layout": "x:rows"}
    (folder / "metrics.json").write_text(json.dumps(scores))
    return str(folder)


def test_the_folds_together_are_the_metrics_of_all_cases(tmp_path):
    folds = [fold(tmp_path / "a", {"volume-0": 0, "volume-2": 2}), fold(tmp_path / "b", {"volume-1": 4})]
    facts = report_folds(folds, str(tmp_path / "page.html"), str(tmp_path / "table.json"), title="Folds")["table"]
    table = json.loads((tmp_path / "table.json").read_text())
    single = [2 * (64 - wrong) / (128 - wrong) for wrong in (0, 2, 4)]
    liver = table["dice"]["liver"]
    assert liver["value"] == pytest.approx(np.mean(single))
    assert min(single) <= liver["low"] < liver["value"] < liver["high"] <= 1
    assert [row["cases"] for row in table["folds"]] == [["volume-0", "volume-2"], ["volume-1"]]
    assert facts["dice_liver"] == liver["value"]
    page = (tmp_path / "page.html").read_text()
    assert "3 cases, each held out by one of 2 networks" in page


def test_a_case_that_two_folds_hold_out_is_refused(tmp_path):
    folds = [fold(tmp_path / "a", {"volume-0": 0}), fold(tmp_path / "b", {"volume-0": 1})]
    with pytest.raises(FoldsError, match="volume-0 more than once"):
        report_folds(folds, str(tmp_path / "page.html"), str(tmp_path / "table.json"), title="Folds")


def training(folder, rate, dice):
    folder.mkdir()
    facts = {"learning_rate": rate, "history": {"loss": [2.0, 1.0]}, "best": {"epoch": 1, "dice": dice}}
    (folder / "training.json").write_text(json.dumps(facts))
    return str(folder)


def test_the_learning_rate_is_chosen_by_the_best_validation(tmp_path):
    models = [training(tmp_path / str(rate), rate, dice) for rate, dice in ((0.1, 0.1), (0.01, 0.6), (0.001, 0.8))]
    table, summary = tmp_path / "table.json", tmp_path / "summary.md"
    facts = compare_trainings(models, str(table), str(summary), title="Rates")["table"]
    assert facts["learning_rate"] == 0.001
    assert [row["learning_rate"] for row in json.loads(table.read_text())] == [0.001, 0.01, 0.1]
    assert "| 0.001 | 0.800 | 1.0000 |" in summary.read_text()


@pytest.mark.parametrize("runner", ["DataflowRunner", "FlinkRunner", "SparkRunner", "PortableRunner"])
@pytest.mark.parametrize("form", ["--runner={}", "--runner {}"])
def test_runners_on_other_machines_are_refused(runner, form):
    with pytest.raises(RunnerError, match=f"Received: '{runner}', whose workers do not see this step's files"):
        check_runner(form.format(runner).split())


@pytest.mark.parametrize("options", [[], ["--direct_num_workers=2"], ["--runner=DirectRunner"]])
def test_the_runner_of_this_machine_is_accepted(options):
    check_runner(options)
