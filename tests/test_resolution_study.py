"""The study of resolution and patches: its settings, batches, resuming and pictures. It is run by hand, not here."""

import json
from itertools import islice

import numpy as np
import pytest

from benchmarks.resolution_study import __main__ as study
from benchmarks.resolution_study import data
from benchmarks.resolution_study.data import Cases, batches
from benchmarks.resolution_study.report import plot, table
from benchmarks.resolution_study.settings import PRESETS, Arm, Settings
from keras_spatial.evaluation import evaluate_case, summarise
from keras_spatial.volumes import Window

TINY = Settings((8, 16), patch=8, native=16, train=2, test=1, updates=2, levels=2, seeds=(0, 1))


@pytest.mark.parametrize("settings", [*PRESETS.values(), TINY])
def test_patches_are_taken_at_the_highest_resolution_and_see_as_many_voxels(settings):
    for recipe in settings.recipes:
        *whole, patches = [arm for arm in settings.arms if arm.recipe == recipe]
        assert [arm.resolution for arm in whole] == list(settings.resolutions)
        assert patches.resolution == max(settings.resolutions)
        assert patches.batch_size * patches.input_size**3 == patches.resolution**3
    assert len(settings.seeds) >= 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolutions": (10,)}, "multiples"),
        ({"patch": 48}, "tile"),
        ({"seeds": ()}, "at least one"),
        ({"recipes": ("best",)}, "recipes among old"),
    ],
)
def test_settings_that_make_no_study_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Settings(**changes)


@pytest.mark.parametrize("arm", [Arm(8), Arm(8, 4)], ids=["whole", "patches"])
def test_labels_stay_on_their_images_and_batches_repeat_with_the_seed(arm):
    labels = np.random.default_rng(0).integers(0, 3, (3, 8, 8, 8)).astype(np.uint8)
    cases = Cases(labels[..., None].astype(np.float32), labels)
    first, again, other = (list(islice(batches(cases, arm, seed), 5)) for seed in (1, 1, 2))
    for image, label in first:
        assert image.shape == (arm.batch_size, *(arm.input_size,) * 3, 1)
        assert np.array_equal(image[..., 0], label)
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a[1], b[1]) for a, b in zip(first, other, strict=True))


def test_recipes_differ_from_the_old_one_in_window_and_flips():
    assert data.window(Arm(8)) == Window(-512, 512)
    assert data.window(Arm(8, recipe="window")) == Window(-160, 240)
    labels = np.random.default_rng(0).integers(0, 3, (1, 8, 8, 8)).astype(np.uint8)
    cases = Cases(labels[..., None].astype(np.float32), labels)
    shown = list(islice(batches(cases, Arm(8, recipe="unflipped"), 0), 8))
    assert all(np.array_equal(label[0], labels[0]) for _, label in shown)
    assert not all(np.array_equal(label[0], labels[0]) for _, label in islice(batches(cases, Arm(8), 0), 8))


def run_of(dice_shift):
    truth = np.zeros((12, 12, 12), np.uint8)
    truth[2:10, 2:10, 2:10] = 1
    truth[4:8, 4:8, 4:8] = 2
    case = evaluate_case(np.roll(truth, dice_shift, 0), truth, (3, 3, 3))
    lesions = [[x.diameter, x.detected] for x in case.lesions.reference]
    return {"summary": summarise([case]).as_dict(), "lesions": lesions, "cpu_per_update": 0.5}


def test_a_study_whose_runs_are_all_there_trains_nothing_and_reads_them(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.resolution_study.data.phantoms", lambda folder, settings: ([0, 1], [2]))
    monkeypatch.setattr("benchmarks.resolution_study.train.build", lambda *_: pytest.fail("trained again"))
    (tmp_path / "runs").mkdir()
    for number, arm in enumerate(TINY.arms):
        for seed in TINY.seeds:
            path = tmp_path / "runs" / f"{arm.name}-seed{seed}.json"
            path.write_text(json.dumps(run_of(number)), encoding="utf-8")
    results = study.run(TINY, tmp_path)
    assert list(results) == list(TINY.arms)
    text = table(results)
    assert "| 8³, old | 2 | 1.000 ± 0.000 | 1.000 ± 0.000 |" in text
    assert "8³ patches of 16³, old" in text
    assert plot(results, TINY, tmp_path / "study.png").stat().st_size > 10_000


def test_a_folder_with_another_study_is_refused(tmp_path):
    study._check_folder(tmp_path, TINY)
    study._check_folder(tmp_path, TINY)
    with pytest.raises(SystemExit, match="other settings"):
        study._check_folder(tmp_path, PRESETS["small"])
