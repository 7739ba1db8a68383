"""The description of a task: what contradicts itself is refused by name, and nothing is rounded or guessed."""

import copy

import numpy as np
import pytest
import tensorflow as tf

from keras_spatial.volumes import Channel, Grid, Percentiles, Task, TaskError, Window, ZScore, metric_name

GOOD = Task("t", ("background", "a"), (Channel("T1", ZScore()), Channel("CT", Window(-100, 5)))).as_dict()


def changed(path, value):
    result = copy.deepcopy(GOOD)
    part = result
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return result


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        (("labels",), "ab", "labels"),
        (("labels",), ["background", 1], "labels"),
        (("labels",), ["background", ""], "labels"),
        (("labels",), ["background"], "labels"),
        (("labels",), ["background", "mean"], "mean"),
        (("labels",), ["background", "Mean"], "mean"),
        (("labels",), ["background", "zone-1", "zone 1"], "'zone 1' beside 'zone-1'"),
        (("labels",), ["background", "Zone", "zone"], "'zone' beside 'Zone'"),
        (("name",), 3, "name"),
        (("channels",), "T1", "channels"),
        (("channels",), [], "channels"),
        (("channels", 0, "name"), None, "channels"),
        (("channels", 1, "intensities", "low"), "-100", "low"),
        (("channels", 1, "intensities", "low"), float("nan"), "low"),
        (("channels", 1, "intensities", "high"), float("inf"), "high"),
        (("channels", 1, "intensities", "high"), True, "high"),
        (("channels", 0, "intensities", "nonzero"), "false", "nonzero"),
        (("channels", 0, "intensities", "nonzero"), 0, "nonzero"),
        (("channels", 0, "intensities", "kind"), "rank", "kind"),
        (
            ("channels", 0, "intensities"),
            {"kind": "percentiles", "low": 0, "high": 1, "mean": float("nan"), "deviation": 1},
            "mean",
        ),
        (("grid", "resolution"), 64.7, "resolution"),
        (("grid", "resolution"), "64", "resolution"),
        (("grid", "resolution"), True, "resolution"),
        (("grid", "resolution"), 4, "resolution"),
        (("grid", "spacing"), ["1", 1, 1], "spacing"),
        (("grid", "spacing"), [1, 1], "spacing"),
        (("grid", "spacing"), [1, 1, float("nan")], "spacing"),
        (("grid", "spacing"), "111", "spacing"),
        (("largest",), [4, 5.5, 6], "largest"),
        (("largest",), [4, 5], "largest"),
        (("largest",), [4, 0, 5], "largest"),
        (("loss_weights",), ["1", "2"], "loss_weights"),
        (("loss_weights",), [1, float("nan")], "loss_weights"),
        (("loss_weights",), [1], "loss_weights"),
        (("scores",), ["lits"], "scores"),
    ],
)
def test_what_is_wrong_in_a_description_is_named(path, value, word):
    with pytest.raises(TaskError, match=rf"task\.json: .*{word}"):
        Task.of(changed(path, value), "task.json")


def test_numbers_that_came_through_protobuf_are_read():
    given = changed(("largest",), [4.0, 5.0, 6.0])
    given["grid"] = {"resolution": 64.0, "spacing": None}
    task = Task.of(given)
    assert task.grid == Grid(64) and task.largest == (4, 5, 6) and isinstance(task.grid.resolution, int)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Task("t", "ab", (Channel("T1", ZScore()),)),  # pyright: ignore[reportArgumentType]
        lambda: Task("t", ["background", "a"], (Channel("T1", ZScore()),)),  # pyright: ignore[reportArgumentType]
        lambda: Window("-100", 5),  # pyright: ignore[reportArgumentType]
        lambda: Window(float("-inf"), 5),
        lambda: Percentiles(0, 1, float("nan"), 1),
        lambda: ZScore("false"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_values_are_checked_where_they_are_made(make):
    with pytest.raises(ValueError, match="Received"):
        make()


def test_numbers_of_numpy_are_numbers():
    assert Window(np.float64(-1), 2)(np.zeros(3)) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Zone 1", "zone_1"),
        ("a/b", "a_b"),
        ("Übergangszone", "ubergangszone"),
        ("U\u0308bergangszone", "ubergangszone"),
        ("lesion (PI-RADS ≥4)", "lesion__pi_rads__4_"),
        ("weiß", "weiudf"),
        ("肝臓", "u809du81d3"),
        ("печень", "u43fu435u447u435u43du44c"),
    ],
)
def test_names_of_metrics_are_those_that_tensorflow_takes(name, expected):
    assert metric_name(name) == expected
    # Keras opens a scope of a metric's name in the graph of a training.
    with tf.Graph().as_default(), tf.name_scope(f"dice_{metric_name(name)}"):
        pass


@pytest.mark.parametrize(
    ("intensities", "text"),
    [
        (Window(-512, 512), "clip((value + 512) / 1024, 0, 1)"),
        (Percentiles(-50, 350, 100, 80), "(clip(value, -50, 350) - 100) / 80"),
        (Percentiles(-50, 350, -10, 80), "(clip(value, -50, 350) + 10) / 80"),
        (ZScore(), "(value - mean) / deviation, both of all voxels of the volume"),
    ],
)
def test_intensities_say_what_is_done_with_them(intensities, text):
    assert str(intensities) == text
