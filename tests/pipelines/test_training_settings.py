"""What a training is set to, through `python -m pipelines run`: every kind of setting in small form."""

import importlib.util
import json
import math
import os
import shlex
from pathlib import Path

import keras
import numpy as np
import pytest

from components.train import tracking
from pipelines.__main__ import cli
from pipelines.settings import load

OWN = Path(__file__).parents[1] / "components"
ALL = "phantoms=4 phantom_size=16 resolution=16 mesh=rows:2 layout=x:rows epochs=2 validations=2 learning_rates=0.01"
# Together they have every network by name but the U-Net, which all other runs have, a user's own one, and every loss,
# schedule, precision and augmentation. tests/components/test_training.py has every optimizer.
RECIPES = {
    "residual_unet": """filters=2 levels=3 network_options='{blocks: [1, 1, 1]}' schedule=poly warmup=0
        optimizer=sgd optimizer_options='{momentum: 0.9, nesterov: true, weight_decay: 0.00003}'
        augmentation=nnunet oversample=0.33 rare_classes=[lesion] accumulation=2 ema=0.9 global_clipnorm=12
        class_weights=1,8,32 patience=5 recompute=auto device_memory=1GB precision=mixed_bfloat16""",
    "vnet": """filters=2 levels=2 dropout=0.1 precision=mixed_float16 loss=crossentropy schedule=constant
        optimizer=adamw optimizer_options='{weight_decay: 0.001}' augmentation=paper""",
    "attention_unet": """filters=2 levels=2 precision=float32 loss=soft_dice loss_options='{over: case}'
        optimizer=nadam schedule=cosine augmentation=strong batch_size=2""",
    "own_networks:network": """network_options='{width: 3}' loss=own_networks:loss optimizer=lion slices=0
        augmentation=off minutes=1""",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of all runs: phantoms are made, and prepared, for the first one alone."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def sent(monkeypatch, tmp_path):
    """A function that returns the runs that MLflow was sent; None if MLflow is not installed."""
    if importlib.util.find_spec("mlflow") is None:
        return None
    import mlflow

    address = (tmp_path / "mlflow").as_uri()
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv(tracking.ADDRESS_VARIABLE, address)
    return lambda: mlflow.tracking.MlflowClient(address).search_runs(["0"])


@pytest.mark.parametrize("network", RECIPES)
def test_a_training_is_what_its_settings_say(network, folder, sent, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(OWN), os.environ.get("PYTHONPATH", "")]))
    assignments = [f"network={network}", *shlex.split(ALL), *shlex.split(RECIPES[network])]
    options = [part for assignment in assignments for part in ("--set", assignment)]
    log = folder / "log.txt"
    before = len(log.read_text()) if log.exists() else 0
    assert cli(["run", "sweep", "--run-dir", str(folder), *options]) == 0

    model = max((folder / "artifacts").rglob("training.json"), key=lambda path: path.stat().st_mtime).parent
    facts = json.loads((model / "training.json").read_text())
    given = load(None, assignments).model_dump(mode="json")
    names = {assignment.partition("=")[0] for assignment in assignments} & set(facts["settings"])
    assert {name: facts["settings"][name] for name in names} == {name: given[name] for name in names}
    assert facts["settings"]["learning_rate"] == 0.01
    assert len(facts["history"]["loss"]) == 2 and np.isfinite(facts["history"]["loss"]).all()
    assert facts["best"]["epoch"] in (1, 2) and math.isfinite(facts["best"]["dice"])

    saved = keras.saving.load_model(model / "model.keras", compile=False)
    assert saved.output_shape == (None, 16, 16, 16, 3) and len(saved.outputs) == 1
    assert saved.name.startswith(network.partition(":")[0]) or ":" in network
    assert saved.layers[1].dtype_policy.name == given["precision"]
    assert (saved.count_params() == (27 + 1) * 3 + (81 + 1) * 3 + (3 + 1) * 3) == (":" in network)

    # Before its first step, a training says what it needs.
    said = log.read_text()[before:]
    assert said.index("memory in all") < said.index("train: epoch 1/2")
    assert " left: " in said[said.index("train: epoch 1/2") :].splitlines()[0]
    assert ("of the examples are drawn" in said) == bool(given["oversample"])
    kinds = {path.parent.name for path in (model / "logs").rglob("events.out.tfevents.*")}
    assert kinds == {"train", "validation", *(["images"] if given["slices"] else [])}
    if sent is not None:
        [run] = sent()
        assert run.data.params["network"] == network
        assert run.data.metrics["loss"] == pytest.approx(facts["history"]["loss"][-1])


def test_a_training_that_cannot_fit_is_refused_before_the_first_step_with_a_mesh_that_can(tmp_path, capsys):
    options = [
        part for name in (*shlex.split(ALL), "filters=2", "levels=2", "device_memory=0.4MB") for part in ("--set", name)
    ]
    assert cli(["run", "sweep", "--run-dir", str(tmp_path / "run"), *options]) == 2
    said = capsys.readouterr().err
    assert "Does not fit: " in said and "It fits on " in said and "devices: mesh='" in said
    assert not (tmp_path / "run").exists()
