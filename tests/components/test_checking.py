"""Mistakes of a run's settings are found before its first step: nothing is computed, and no case is read."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from alive import gone

from components.checking import check_apart, check_run
from components.validate.settings import Settings, SettingsError
from datasets.cases import NoCasesError
from datasets.phantom import write_lits_folder
from pipelines.__main__ import cli

HERE = Path(__file__).parent
RUN = {"phantoms": 4, "mesh": "rows:2", "layout": "x:rows", "resolution": 16, "filters": 2}
OWN = {**{name: value for name, value in RUN.items() if name != "filters"}, "network": "own_networks:network"}
TEXTURES = {"name": "toy", "modality": {"0": "T1", "1": "T2"}, "labels": {"0": "background", "1": "a"}, "training": []}


@pytest.fixture(autouse=True)
def own_code_is_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("PYTHONPATH", str(HERE), prepend=":")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"class_weights": [1, 2]}, r"class_weights: expected 3 numbers, one for each of background, liver, lesion"),
        ({"rare_classes": '["tumour"]', "oversample": 0.3}, r"rare_classes: expected some of \['liver', 'lesion'\]"),
        (
            {"folds": 5, "pipeline": "cross_validation"},
            r"folds: expected at most as many folds as there are cases, 4. Received: 5",
        ),
        ({"split": "fold-1-of-6"}, r"split: expected at most as many folds .* 4. Received: 'fold-1-of-6'"),
        ({"network_options": {"widht": 3}}, r"network_options .*unexpected keyword argument 'widht'"),
        ({"network_options": '{"kernel_size": "wide"}'}, r"network"),
        ({"loss_options": {"dice": 3}}, r"loss_options: DiceCrossentropy does not take"),
        ({"optimizer_options": {"momentun": 3}}, r"optimizer_options: Adam does not take"),
        ({"device_memory": "0.4MB", "levels": 2}, r"(?s)Does not fit: .*It fits on \d+ devices: mesh='.*', layout='"),
    ],
)
def test_what_a_later_step_would_refuse_is_named(settings, expected):
    with pytest.raises(SettingsError, match=expected):
        check_run(settings.pop("pipeline", "lits_segmentation"), Settings(**{**RUN, **settings}))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"network": "own_networks:missing"}, r"network: own_networks:missing cannot be imported"),
        ({"network": "own_networks:no_model"}, r"to make a keras.Model. Received: str"),
        ({"network": "own_networks:too_few_classes"}, r"does not fit the data set: .*\(None, 16, 16, 16, 3\)"),
        ({"network": "own_networks:failing"}, r"Received: ZeroDivisionError"),
        ({"network": "own_networks:unknown_layer"}, r"UnsupportedLayer"),
        ({"network": "nowhere.keras"}, r"network: expected a .keras file that can be read. Received: 'nowhere.keras'"),
        ({"loss": "own_networks:no_loss"}, r"loss: expected own_networks:no_loss to make a keras.losses.Loss"),
        ({"loss": "own_networks:failing_loss"}, r"cannot be planned on the mesh 'rows:2' \(.*no such axis"),
        ({"loss": "own_networks:loss", "loss_options": {"beta": 1}}, r"loss_options: loss does not take"),
    ],
)
def test_a_mistake_of_the_users_own_code_is_named(settings, expected):
    with pytest.raises(SettingsError, match=expected):
        check_run("lits_segmentation", Settings(**{**OWN, **settings}))


def test_a_run_without_mistakes_is_let_through():
    check_run("sweep", Settings(**OWN, loss="own_networks:loss", network_options={"width": 3}))
    check_run("sweep", Settings(**OWN, loss="own_networks:loss_of_numbers"))
    check_run("batch_inference", Settings(data="scans", model="m.keras", class_weights=(1.0,)))


def test_the_classes_and_channels_are_those_of_the_cases(tmp_path):
    entry = {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps({**TEXTURES, "training": [entry]}))
    with pytest.raises(SettingsError, match="class_weights: expected 2 numbers, one for each of background, a"):
        check_run("lits_segmentation", Settings(**RUN, class_weights="[1, 2, 3]", data=str(tmp_path)))
    check_run("lits_segmentation", Settings(**{**OWN, "resolution": 0}, data=str(tmp_path)))
    with pytest.raises(SettingsError, match=r"window: .* determines the normalisation.*Received: \[-160.0, 240.0\]"):
        check_run("lits_segmentation", Settings(**RUN, window="[-160, 240]", data=str(tmp_path)))


def test_cases_at_a_url_are_known_by_their_names(tmp_path):
    write_lits_folder(tmp_path / "scans", 3, size=16)
    given = {**OWN, "data": (tmp_path / "scans").as_uri()}
    check_run("lits_segmentation", Settings(**given))
    with pytest.raises(SettingsError, match="class_weights: expected 3 numbers"):
        check_run("lits_segmentation", Settings(**{**given, "class_weights": [1]}))
    with pytest.raises(NoCasesError, match="memory://scans"):
        check_run("lits_segmentation", Settings(**{**given, "data": "memory://scans"}))


@pytest.mark.parametrize(
    ("network", "said"), [("crashing", r"status 7, after\nhere it ends"), ("leaving", "status 0, after\n")]
)
def test_the_users_code_is_run_in_a_process_of_its_own(network, said):
    with pytest.raises(SettingsError, match=f"without a crash. Received: {said}"):
        check_apart("lits_segmentation", Settings(**{**OWN, "network": f"own_networks:{network}"}))


def test_the_users_code_may_print_what_it_likes():
    check_apart("lits_segmentation", Settings(**{**OWN, "network": "own_networks:talking"}))


def test_the_users_code_and_what_it_started_end_with_the_command(tmp_path, monkeypatch):
    pids = tmp_path / "pids"
    monkeypatch.setenv("OWN_PIDS", str(pids))
    settings = {**OWN, "network": "own_networks:waiting"}
    program = f"from components.checking import *\ncheck_apart('lits_segmentation', Settings(**{settings!r}))"
    command = subprocess.Popen([sys.executable, "-c", program], cwd=HERE.parents[1])
    while not (pids.exists() and pids.read_text().endswith("\n")):
        assert command.poll() is None
        time.sleep(0.05)
    command.kill()
    command.wait()
    assert all(gone(int(pid), seconds=10.0) for pid in pids.read_text().split())


def test_a_pipeline_does_not_begin_with_a_mistake(tmp_path, capsys):
    command = ["run", "lits_segmentation", "--run-dir", str(tmp_path / "run"), "--set", "class_weights=1, 2"]
    assert cli(command) == 2
    assert "FAILED: SettingsError: class_weights: expected 3 numbers" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
