"""The component `train` on a TPU slice, which is simulated: the whole training, and its resumption from a backup."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import simulated_tpu

import keras_spatial as ks
from components.evaluate.evaluate import evaluate_model
from components.preprocess.preprocess import build_dataset, open_dataset
from components.train import fit
from components.train.train import train_model
from datasets.phantom import write_lits_folder
from keras_spatial.volumes import read_volume, to_canonical

SETTINGS = {
    "mesh": "rows:2",
    "layout": "x:rows",
    "filters": 2,
    "levels": 2,
    "epochs": 3,
    "backup_steps": 1,
    "slices": 1,
    "ema": 0.5,
}


class Interrupted(Exception):
    """Ends a training before it is complete."""


@pytest.fixture
def slice_(monkeypatch):
    """A TPU slice of as many cores as a mesh asks for; the meshes that were started."""
    return simulated_tpu.stand_in(monkeypatch.setattr)


def interrupt(monkeypatch, epoch):
    """End a training after the last step of an epoch and before that epoch is logged."""
    ended = fit.EpochLog.on_epoch_end

    def end(self, number, logs=None):
        if number == epoch:
            raise Interrupted
        ended(self, number, logs)

    monkeypatch.setattr(fit.EpochLog, "on_epoch_end", end)


def test_the_component_trains_on_a_slice_as_on_cpus_though_it_was_interrupted(tmp_path, slice_, monkeypatch, capsys):
    cases, dataset = tmp_path / "cases", tmp_path / "dataset"
    write_lits_folder(cases, cases=3, size=16)
    build_dataset(str(cases), str(dataset), resolution=16, mesh="rows:2", layout="x:rows")
    found = {}
    for accelerator in ("cpu", "tpu"):
        folder = tmp_path / accelerator
        given = {**SETTINGS, "accelerator": accelerator, "scratch": str(folder / "work")}
        if accelerator == "tpu":
            with monkeypatch.context() as patch, pytest.raises(Interrupted):
                interrupt(patch, epoch=1)
                train_model(str(dataset), str(folder / "model"), **given)
            assert "resuming" not in capsys.readouterr().out
        train_model(str(dataset), str(folder / "model"), **given)
        facts = json.loads((folder / "model" / "training.json").read_text())
        weights = keras.saving.load_model(folder / "model" / "model.keras", compile=False).get_weights()
        found[accelerator] = facts["history"], weights
    assert slice_ == [("rows:2", "local")] * 2
    assert "train: resuming in epoch 2, after step 0" in capsys.readouterr().out
    assert len(found["cpu"][0]["loss"]) == SETTINGS["epochs"]
    (expected, weights), (history, found_weights) = found["cpu"], found["tpu"]
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-3, atol=1e-4, err_msg=name)
    for a, b in zip(found_weights, weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
    assert (tmp_path / "tpu" / "work" / "backup.npz").is_file()
    # The cores predict what the file does on one device, each its own block.
    model, made = tmp_path / "tpu" / "model", (str(tmp_path / "evaluation"), str(tmp_path / "predictions"))
    evaluate_model(str(cases), str(dataset), str(model), *made, accelerator="tpu", mesh="rows:2", layout="x:rows")
    builder = open_dataset(str(dataset))
    [(image, _)] = ks.data.load(builder, "test").as_numpy_iterator()
    scores = keras.saving.load_model(model / "model.keras", compile=False).predict(image, verbose=0)[0]
    [number] = builder.info.metadata["cases"]["test"]
    predicted = to_canonical(read_volume(tmp_path / "predictions" / f"prediction-{number}.nii.gz")).array
    assert np.mean(predicted == np.argmax(scores, -1)) > 0.999


# A training that is killed after the second step of its second epoch, when that step has been backed up.
KILLED = """
import json, os, signal, sys

import simulated_tpu
from components.train.train import train_model
from keras_spatial.backup import Backup

simulated_tpu.stand_in(setattr)
ended = Backup.on_train_batch_end


def end(self, batch, logs=None):
    ended(self, batch, logs)
    if (self._epoch, batch) == (1, 1):
        os.kill(os.getpid(), signal.SIGKILL)


Backup.on_train_batch_end = end
train_model(**json.loads(sys.argv[1]))
"""


def test_a_training_that_was_killed_within_an_epoch_resumes_after_its_last_step(tmp_path, slice_, capsys):
    write_lits_folder(tmp_path / "cases", cases=5, size=16)
    dataset = str(tmp_path / "dataset")
    build_dataset(str(tmp_path / "cases"), dataset, resolution=16, mesh="rows:2", layout="x:rows")
    given = {**SETTINGS, "accelerator": "tpu", "slices": 0, "dataset": dataset}
    places = {
        name: {"model": str(tmp_path / name / "model"), "scratch": str(tmp_path / name / "work")}
        for name in ("whole", "killed")
    }
    train_model(**given, **places["whole"])
    assert "resuming" not in capsys.readouterr().out
    root = Path(__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, json.dumps({**given, **places["killed"]})],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (root, root / "tests")))},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    train_model(**given, **places["killed"])
    assert "train: resuming in epoch 2, after step 2" in capsys.readouterr().out
    facts = [json.loads((Path(places[name]["model"]) / "training.json").read_text()) for name in places]
    assert [found["steps_per_epoch"] for found in facts] == [3, 3]
    assert facts[0]["best"] == facts[1]["best"]
    for name, values in facts[0]["history"].items():
        # The training's own values of the epoch that was interrupted are those of its remaining steps.
        compared = slice(None) if name.startswith("val_") else [0, 2]
        np.testing.assert_array_equal(
            np.array(facts[1]["history"][name])[compared], np.array(values)[compared], err_msg=name
        )
    weights = [
        keras.saving.load_model(Path(places[name]["model"]) / "model.keras", compile=False).get_weights()
        for name in places
    ]
    for found, expected in zip(*weights, strict=True):
        np.testing.assert_array_equal(found, expected)
