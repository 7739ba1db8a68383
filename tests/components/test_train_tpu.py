"""The component `train` on a TPU slice, which is simulated: the whole training, and its resumption from a backup."""

import json

import keras
import numpy as np
import pytest
import simulated_tpu
from mesh_tensorflow import simd_mesh_impl

import keras_spatial as ks
from components.evaluate.evaluate import evaluate_model
from components.preprocess.preprocess import build_dataset, open_dataset
from components.train import fit
from components.train.train import train_model
from datasets.phantom import write_lits_folder
from keras_spatial.runtimes import tpu
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
    started = []

    def start(mesh, tpu=None):
        started.append((mesh, tpu))
        return simulated_tpu.strategy(mesh)

    monkeypatch.setattr(ks, "tpu_strategy", start)
    monkeypatch.setattr(tpu, "check_strategy", lambda strategy, devices: None)
    monkeypatch.setattr(simd_mesh_impl, "tpu_ops", simulated_tpu.MirroredCollectives)
    return started


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
