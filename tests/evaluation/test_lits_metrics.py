"""LiTS metrics against values computed by hand and against analytic shapes."""

import csv
import json
import math

import numpy as np
import pytest

from keras_spatial import evaluation as ev
from keras_spatial.evaluation.surfaces import nearest_distances

ONE = (1.0, 1.0, 1.0)


def box(shape, *corners):
    mask = np.zeros(shape, bool)
    for start, stop in corners:
        mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    return mask


def labels(shape, *, liver, lesions=()):
    result = box(shape, *liver).astype(np.uint8)
    result[box(shape, *lesions)] = 2
    return result


def ball(size, radius, spacing, centre=None):
    centre = [s * n / 2 for s, n in zip(spacing, size, strict=True)] if centre is None else centre
    axes = [(np.arange(n) + 0.5) * s - c for n, s, c in zip(size, spacing, centre, strict=True)]
    return sum(a**2 for a in np.meshgrid(*axes, indexing="ij")) <= radius**2


# --- masks ---------------------------------------------------------------------------------------------------------


def test_half_shifted_box_by_hand():
    # Two 2x1x1 boxes that share one voxel: I=1, P=R=2, U=3; surface distances 0, 1 mm both ways at 1 mm in x.
    p, r = box((5, 3, 3), ((1, 1, 1), (3, 2, 2))), box((5, 3, 3), ((2, 1, 1), (4, 2, 2)))
    m = ev.compare_masks(p, r, ONE)
    assert (m.intersection, m.predicted, m.reference) == (1, 2, 2)
    assert m.dice == 0.5
    assert m.voe == pytest.approx(2 / 3)
    assert m.rvd == 0
    assert (m.assd, m.msd) == (0.5, 1.0)
    assert m.rmsd == pytest.approx(math.sqrt(0.5))


@pytest.mark.parametrize(("axis", "distance"), [(0, 0.7), (1, 0.8), (2, 5.0)], ids=["x", "y", "z"])
def test_distances_are_in_mm_of_each_axis(axis, distance):
    place = [2, 2, 2]
    p = np.zeros((6, 6, 6), bool)
    p[tuple(place)] = True
    place[axis] += 2
    r = np.zeros((6, 6, 6), bool)
    r[tuple(place)] = True
    m = ev.compare_masks(p, r, (0.7, 0.8, 5.0))
    assert m.assd == m.rmsd == m.msd == pytest.approx(2 * distance)


@pytest.mark.parametrize(
    ("predicted", "true", "dice", "voe", "rvd"),
    [(0, 0, 1, 1, ev.UNDEFINED), (1, 0, 0, 1, ev.UNDEFINED), (0, 1, 0, 1, -1)],
    ids=["both empty", "reference empty", "prediction empty"],
)
def test_empty_masks(predicted, true, dice, voe, rvd):
    p, r = np.full((2, 2, 2), bool(predicted)), np.full((2, 2, 2), bool(true))
    m = ev.compare_masks(p, r, ONE)
    assert (m.dice, m.voe, m.rvd) == (dice, voe, rvd)
    assert m.assd == m.rmsd == m.msd == ev.UNDEFINED


def test_rvd_has_the_published_sign():
    p, r = box((4, 1, 1), ((0, 0, 0), (3, 1, 1))), box((4, 1, 1), ((0, 0, 0), (2, 1, 1)))
    assert ev.compare_masks(p, r, ONE).rvd == 0.5
    assert ev.compare_masks(r, p, ONE).rvd == pytest.approx(-1 / 3)


def test_surface_is_what_an_18_neighbour_erosion_takes_away():
    cube = box((7, 7, 7), ((1, 1, 1), (6, 6, 6)))
    assert np.array_equal(ev.surface(cube), cube & ~box((7, 7, 7), ((2, 2, 2), (5, 5, 5))))
    # A voxel of which only a corner neighbour is missing is not on the surface; with an edge neighbour missing it is.
    full = np.ones((5, 5, 5), bool)
    full[1, 1, 1] = False
    assert not ev.surface(full)[2, 2, 2]
    full[1, 1, 2] = False
    assert ev.surface(full)[2, 2, 2]


def test_a_mask_at_the_edge_of_the_volume_has_its_surface_there():
    full = np.ones((4, 4, 4), bool)
    assert np.count_nonzero(ev.surface(full)) == 4**3 - 2**3


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 1.5)], ids=["isotropic", "CT"])
def test_concentric_balls_are_their_difference_in_radius_apart(spacing):
    size = tuple(round(50 / s) for s in spacing)
    m = ev.compare_masks(ball(size, 15, spacing), ball(size, 20, spacing), spacing)
    assert m.assd == pytest.approx(5, abs=max(spacing) / 2)
    assert m.rmsd == pytest.approx(5, abs=max(spacing) / 2)
    assert m.msd == pytest.approx(5, abs=max(spacing))
    assert m.dice == pytest.approx(2 * 15**3 / (15**3 + 20**3), rel=0.02)
    assert m.rvd == pytest.approx(15**3 / 20**3 - 1, rel=0.02)
    assert m.voe == pytest.approx(1 - 15**3 / 20**3, rel=0.02)


def test_distances_equal_a_brute_force_search():
    rng = np.random.default_rng(3)
    p, r = rng.random((9, 8, 7)) < 0.3, rng.random((9, 8, 7)) < 0.2
    spacing = np.array([0.6, 0.9, 2.5])
    a, b = (np.argwhere(ev.surface(m)) * spacing for m in (p, r))
    between = np.linalg.norm(a[:, None] - b[None], axis=-1)
    pooled = np.concatenate([between.min(axis=1), between.min(axis=0)])
    found = ev.surface_distances(p, r, tuple(spacing))
    assert found.mean == pytest.approx(pooled.mean(), rel=1e-5)
    assert found.root_mean_square == pytest.approx(np.sqrt((pooled**2).mean()), rel=1e-5)
    assert found.maximum == pytest.approx(pooled.max(), rel=1e-5)


@pytest.mark.parametrize("most_points", [0, 10**6], ids=["distance map", "search tree"])
def test_both_ways_to_search_give_the_nearest_distance(most_points):
    rng = np.random.default_rng(4)
    points, queries = rng.random((9, 8, 7)) < 0.3, rng.random((9, 8, 7)) < 0.5
    points[2:6, 2:6, 2:6] = True  # thick: voxels inside it are at distance 0 too
    spacing = np.array([0.6, 0.9, 2.5])
    between = np.linalg.norm((np.argwhere(queries)[:, None] - np.argwhere(points)[None]) * spacing, axis=-1)
    found = nearest_distances(points, queries, tuple(spacing), most_points)
    assert np.allclose(found, between.min(axis=1), rtol=1e-5)


def test_a_far_away_island_does_not_change_what_is_near():
    p = box((60, 8, 8), ((1, 1, 1), (5, 5, 5)), ((50, 1, 1), (51, 2, 2)))
    r = box((60, 8, 8), ((1, 1, 1), (5, 5, 5)))
    assert ev.compare_masks(p, r, ONE).msd == 46


# --- lesions -------------------------------------------------------------------------------------------------------

LINE = (20, 3, 3)


def rod(start, stop):
    return ((start, 1, 1), (stop, 2, 2))


@pytest.mark.parametrize(
    ("predicted", "true", "recalled", "correct", "touched", "pairs"),
    [
        ([], [rod(2, 6)], 0, 0, 0, 0),
        ([rod(2, 6)], [], 0, 0, 0, 0),
        ([rod(2, 6)], [rod(2, 6)], 1, 1, 1, 1),
        ([rod(2, 4)], [rod(2, 6)], 0, 0, 1, 0),
        ([rod(2, 5)], [rod(2, 6)], 1, 1, 1, 1),
        ([rod(2, 12)], [rod(2, 6), rod(7, 12)], 2, 1, 2, 1),
        ([rod(2, 6), rod(7, 12)], [rod(2, 12)], 1, 2, 1, 1),
        ([rod(2, 6), rod(14, 17)], [rod(2, 6), rod(10, 12)], 1, 1, 1, 1),
    ],
    ids=[
        "missed",
        "invented, empty reference",
        "exact",
        "IoU of exactly a half is no detection",
        "IoU of three quarters",
        "one prediction over two lesions",
        "two predictions in one lesion",
        "one hit, one missed, one invented",
    ],
)
def test_lesion_detection(predicted, true, recalled, correct, touched, pairs):
    found = ev.match_lesions(box(LINE, *predicted), box(LINE, *true), ONE)
    assert len(found.reference) == len(true)
    assert len(found.predicted) == len(predicted)
    assert sum(x.detected for x in found.reference) == recalled
    assert sum(x.detected for x in found.predicted) == correct
    assert sum(x.touched for x in found.reference) == touched
    assert len(found.pairs) == pairs


def test_lesions_that_touch_only_at_an_edge_are_two():
    mask = box((4, 4, 4), ((0, 0, 0), (2, 2, 2)), ((2, 2, 0), (4, 4, 2)))
    assert len(ev.match_lesions(mask, mask, ONE).reference) == 2


def test_lesion_metrics_are_those_of_the_pair_alone():
    # The second lesion is missed and must not enter the first one's figures.
    found = ev.match_lesions(box(LINE, rod(2, 5)), box(LINE, rod(2, 6), rod(12, 18)), ONE)
    (pair,) = found.pairs
    assert pair.dice == pytest.approx(6 / 7)
    assert pair.rvd == -0.25
    assert pair.msd == 1


def test_volume_and_diameter_are_millimetres():
    spacing = (0.75, 0.75, 1.5)
    ball_mask = ball((40, 40, 20), 10, spacing)
    (lesion,) = ev.match_lesions(ball_mask, ball_mask, spacing).reference
    assert lesion.diameter == pytest.approx(20, rel=0.01)


# --- cases and data sets -------------------------------------------------------------------------------------------


def shifted_case(shift=1, name="a"):
    shape = (16, 8, 8)
    truth = labels(shape, liver=[((1, 1, 1), (13, 7, 7))], lesions=[((3, 2, 2), (7, 5, 5))])
    prediction = labels(shape, liver=[((1, 1, 1), (13, 7, 7))], lesions=[((3 + shift, 2, 2), (7 + shift, 5, 5))])
    return ev.evaluate_case(prediction, truth, ONE, case=name)


def test_liver_contains_its_lesions():
    case = shifted_case()
    assert case.liver.dice == 1
    assert case.lesion.dice == 0.75


def test_tumour_burden_is_lesion_per_liver():
    case = shifted_case()
    assert case.burden_truth == case.burden_prediction == 36 / 432
    nothing = ev.evaluate_case(np.zeros((3, 3, 3), int), np.ones((3, 3, 3), int), ONE)
    assert nothing.burden_prediction is None
    assert nothing.burden_truth == 0


@pytest.mark.parametrize(
    ("prediction", "truth", "spacing", "message"),
    [
        (np.zeros((2, 2, 2), int), np.zeros((2, 2, 3), int), ONE, "the same shape"),
        (np.full((2, 2, 2), 3), np.zeros((2, 2, 2), int), ONE, "prediction.*label 3"),
        (np.zeros((2, 2, 2), int), np.full((2, 2, 2), 0.5), ONE, "truth.*fractional"),
        (np.zeros((2, 2, 2), int), np.full((2, 2, 2), -1), ONE, "truth.*-1"),
        (np.zeros((2, 2, 2), int), np.full((2, 2, 2), np.nan), ONE, "truth"),
        (np.zeros((2, 2, 2), int), np.zeros((2, 2, 2), int), (1, 1, 0), "spacing"),
        (np.zeros((2, 2, 2), int), np.zeros((2, 2, 2), int), (1, 1), "spacing"),
    ],
)
def test_what_does_not_fit_together_is_refused_by_name(prediction, truth, spacing, message):
    with pytest.raises(ev.EvaluationError, match=f"case 7.*{message}"):
        ev.evaluate_case(prediction, truth, spacing, case="7")


def test_global_dice_weighs_voxels_and_dice_per_case_weighs_cases():
    small = np.zeros((8, 8, 8), int)
    small[0, 0, 0] = 2
    big = np.full((8, 8, 8), 2)
    cases = [ev.evaluate_case(np.zeros_like(small), small, ONE), ev.evaluate_case(big, big, ONE)]
    metrics = ev.summarise(cases, samples=50).metrics
    assert metrics["lesion_dice_per_case"].value == 0.5
    assert metrics["lesion_dice_global"].value == pytest.approx(2 * 512 / (2 * 512 + 1))


def test_counts_of_the_data_set_are_summed_before_dividing():
    cases = [shifted_case(0, "hit"), shifted_case(0, "hit too"), shifted_case(5, "miss")]
    metrics = ev.summarise(cases, samples=50).metrics
    assert metrics["lesion_recall"].value == metrics["lesion_precision"].value == pytest.approx(2 / 3)
    assert metrics["lesion_dice"].value == 1
    assert metrics["lesion_dice"].count == 2
    assert metrics["tumour_burden_rmse"].value == 0


def test_precision_and_recall_of_nothing_are_zero():
    liver = np.ones((3, 3, 3), int)
    metrics = ev.summarise([ev.evaluate_case(liver, liver, ONE)]).metrics
    assert metrics["lesion_dice_per_case"].value == 1
    assert metrics["lesion_precision"].value == metrics["lesion_recall"].value == 0
    assert metrics["lesion_assd"].value is None


def test_undefined_distances_are_counted_and_enter_only_the_value_of_lits():
    liver = np.ones((3, 3, 3), int)
    cases = [ev.evaluate_case(liver, liver, ONE), ev.evaluate_case(np.zeros_like(liver), liver, ONE)]
    assd = ev.summarise(cases, samples=50).metrics["liver_assd"]
    assert (assd.value, assd.defined, assd.undefined, assd.count) == (9001 / 2, 0, 1, 2)


def test_burden_errors_are_absolute_and_leave_out_undefined_cases():
    truth = np.ones((2, 2, 2), int)
    over = truth.copy()
    over[0] = 2
    cases = [
        ev.evaluate_case(over, truth, ONE),
        ev.evaluate_case(truth, truth, ONE),
        ev.evaluate_case(np.zeros_like(truth), truth, ONE),
    ]
    metrics = ev.summarise(cases, samples=50).metrics
    assert metrics["tumour_burden_max"].value == 0.5
    assert metrics["tumour_burden_rmse"].defined == pytest.approx(math.sqrt(0.125))
    assert metrics["tumour_burden_rmse"].undefined == 1


def test_intervals_cover_the_value_repeat_with_the_seed_and_shrink_with_cases():
    rng = np.random.default_rng(0)

    def cases(n):
        return [shifted_case(int(s), str(i)) for i, s in enumerate(rng.integers(0, 5, n))]

    few, many = cases(8), cases(80)
    a, b = (ev.summarise(few, samples=400, seed=1).metrics["lesion_dice_per_case"] for _ in range(2))
    assert a == b
    assert a.low < a.value < a.high
    wide = ev.summarise(many, samples=400, seed=1).metrics["lesion_dice_per_case"]
    assert wide.high - wide.low < (a.high - a.low) / 2


def test_the_interval_of_a_mean_is_that_of_the_central_limit_theorem():
    cases = [shifted_case(i % 4, str(i)) for i in range(100)]
    dice = [case.lesion.dice for case in cases]
    found = ev.summarise(cases, samples=4000).metrics["lesion_dice_per_case"]
    half = 1.96 * np.std(dice) / 10
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)


def test_one_case_has_no_interval():
    found = ev.summarise([shifted_case()]).metrics["liver_dice_per_case"]
    assert (found.value, found.low, found.high) == (1, None, None)


def test_strata_hold_every_reference_lesion_once():
    shape = (40, 30, 30)
    truth = labels(shape, liver=[((0, 0, 0), shape)], lesions=[((1, 1, 1), (4, 4, 4)), ((8, 8, 8), (28, 28, 28))])
    prediction = truth.copy()
    prediction[:6, :6, :6] = 1
    strata = ev.summarise([ev.evaluate_case(prediction, truth, ONE)]).strata
    assert [s.lesions for s in strata] == [1, 0, 0, 1]
    assert [s.recall.value for s in strata] == [0, None, None, 1]


def test_a_summary_is_json():
    summary = ev.summarise([shifted_case(), shifted_case(2)], samples=20)
    again = json.loads(json.dumps(summary.as_dict(), allow_nan=False))
    assert again["metrics"]["liver_dice_per_case"]["value"] == 1
    assert again["strata"][-1]["below"] is None


def test_csv_lists_the_worst_case_first_and_leaves_undefined_fields_empty(tmp_path):
    liver = np.ones((3, 3, 3), int)
    missed = ev.evaluate_case(np.zeros_like(liver), liver, ONE, case="missed")
    path = ev.write_csv(tmp_path / "deep" / "cases.csv", [missed, shifted_case(4, "worst"), shifted_case(1, "better")])
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["worst", "better", "missed"]
    assert rows[2]["liver_assd"] == ""
    assert float(rows[1]["lesion_dice"]) == 0.75
    assert rows[1]["lesions_truth"] == "1"


@pytest.mark.parametrize("call", [lambda: ev.summarise([]), lambda: ev.write_csv("x.csv", [])])
def test_no_cases_are_refused(call):
    with pytest.raises(ValueError, match="at least one case"):
        call()
