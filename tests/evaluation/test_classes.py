"""Metrics for any classes, compared with values computed by hand, and arguments that are refused."""

import csv

import numpy as np
import pytest

from keras_spatial.evaluation import (
    EvaluationError,
    compare_masks,
    evaluate_classes,
    summarise_classes,
    write_class_csv,
)

LABELS = ("background", "core", "rim")


def boxes(core, rim, shape=(20, 20, 20)):
    labels = np.zeros(shape, np.uint8)
    for number, box in ((1, core), (2, rim)):
        if box is not None:
            labels[tuple(slice(a, b) for a, b in box)] = number
    return labels


CORE, RIM = ((2, 8), (2, 8), (2, 8)), ((12, 16), (12, 16), (12, 16))
MOVED = ((4, 10), (2, 8), (2, 8))


def test_a_perfect_prediction():
    truth = boxes(CORE, RIM)
    for found in evaluate_classes(truth, truth, (1, 1, 2), LABELS).classes.values():
        assert (found.dice, found.hd95, found.nsd, found.assd) == (1, 0, 1, 0)


def test_a_cube_that_lies_two_voxels_beside_its_place():
    """Two of six layers are missing and two are too much; the far sides are two voxels of 1.5 mm away."""
    found = evaluate_classes(boxes(MOVED, RIM), boxes(CORE, RIM), (1.5, 1, 1), LABELS).classes["core"]
    assert found.dice == pytest.approx(2 * 4 * 36 / (2 * 6 * 36))
    assert found.hd95 == pytest.approx(3.0)
    assert (
        evaluate_classes(boxes(MOVED, RIM), boxes(CORE, RIM), (1.5, 1, 1), LABELS, tolerance=3).classes["core"].nsd == 1
    )
    mask = compare_masks(boxes(MOVED, RIM) == 1, boxes(CORE, RIM) == 1, (1.5, 1, 1))
    for metric in ("dice", "voe", "rvd", "assd", "rmsd", "msd"):
        assert getattr(found, metric) == pytest.approx(getattr(mask, metric))
    assert found.nsd < 1


@pytest.mark.parametrize("prediction, truth, dice", [(None, None, 1), (RIM, None, 0), (None, RIM, 0)])
def test_a_class_that_is_not_there_has_a_dice_and_no_distance(prediction, truth, dice):
    found = evaluate_classes(boxes(CORE, prediction), boxes(CORE, truth), (1, 1, 1), LABELS).classes["rim"]
    assert (found.dice, found.nsd, found.voe) == (dice, dice, 1 - dice)
    assert found.rvd == (-1 if truth else None)
    assert (found.hd95, found.assd, found.rmsd, found.msd) == (None,) * 4


def test_the_summary_is_the_mean_with_an_interval_and_leaves_out_what_does_not_exist():
    truth = boxes(CORE, RIM)
    cases = [
        evaluate_classes(boxes(core, rim), truth, (1, 1, 1), LABELS, case=str(number))
        for number, (core, rim) in enumerate([(CORE, RIM), (MOVED, RIM), (CORE, None), (MOVED, RIM)])
    ]
    summary = summarise_classes(cases)
    dice = summary.classes["core"]["dice"]
    assert dice.value == pytest.approx(np.mean([1, 2 / 3, 1, 2 / 3])) and dice.low < dice.value < dice.high
    assert summary.classes["rim"]["dice"].value == pytest.approx(0.75)
    hd95 = summary.classes["rim"]["hd95"]
    assert (hd95.value, hd95.count, hd95.undefined) == (0, 4, 1)
    assert summary.classes["mean"]["dice"].value == pytest.approx(np.mean([c.mean_dice for c in cases]))


def test_the_table_has_a_row_for_each_case_and_class(tmp_path):
    case = evaluate_classes(boxes(CORE, None), boxes(CORE, RIM), (1, 1, 2), LABELS, case="a")
    rows = list(csv.DictReader(write_class_csv(tmp_path / "cases.csv", [case]).open()))
    assert [(r["case"], r["class"], r["dice"], r["hd95"]) for r in rows] == [
        ("a", "core", "1.0", "0.0"),
        ("a", "rim", "0.0", ""),
    ]
    assert float(rows[0]["ml_truth"]) == pytest.approx(6**3 * 2 / 1000)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"prediction": np.zeros((2, 2, 2), np.uint8)}, r"prediction \(2, 2, 2\), truth \(20, 20, 20\)"),
        ({"prediction": np.full((20, 20, 20), 3)}, r"prediction: expected the classes .*Received: label 3"),
        ({"truth": np.full((20, 20, 20), 0.5)}, "truth: labels: expected integers"),
        ({"spacing": (1, 0, 1)}, r"spacing=\(1, 0, 1\)"),
        ({"tolerance": 0}, "tolerance=0"),
        ({"labels": ("background",)}, "at least one class"),
        ({"labels": ("background", "core", "core")}, "different names"),
    ],
)
def test_what_does_not_fit_is_named_with_the_case(change, message):
    given = {"prediction": boxes(CORE, RIM), "truth": boxes(CORE, RIM), "spacing": (1, 1, 1), "labels": LABELS}
    with pytest.raises(EvaluationError, match=f"case a: .*{message}"):
        evaluate_classes(**{**given, **change}, case="a")
