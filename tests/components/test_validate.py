"""Parameters of a run that were changed after the pipeline was compiled."""

from pathlib import Path

import pytest

from components import storage
from components.validate.component import validate
from components.validate.hardware import Hardware
from components.validate.settings import Settings, SettingsError
from components.validate.validate import Graph

NO_ACCELERATORS = Hardware(pods=1, accelerator="", accelerators=0, kind="cpu", two_cores=False)
FOUR_GPUS = Hardware(pods=1, accelerator="nvidia.com/gpu", accelerators=4, kind="gpu", two_cores=False)
TWO_PODS = Hardware(pods=2, accelerator="nvidia.com/gpu", accelerators=4, kind="gpu", two_cores=False)
TRAINING = {
    "pipeline": "lits_segmentation",
    "read": tuple(Settings.model_fields),
    "trains": True,
    "predicts": True,
    "spans_pods": False,
    "hardware": NO_ACCELERATORS,
}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr("components.validate.validate._PAUSES", (0.0, 0.0))


def run(graph=(), **parameters):
    """Run the step with the arguments that KFP gives it."""
    return validate.python_func(graph=Graph(**{**TRAINING, **dict(graph)}).model_dump_json(), **parameters)


def test_the_defaults_are_valid():
    run()
    run({"hardware": FOUR_GPUS}, accelerator="gpu", mesh="rows:2, columns:2")


@pytest.mark.parametrize(
    ("graph", "parameters", "expected"),
    [
        ({}, {"epochs": 0}, "epochs: .*greater than or equal to 1. Received: 0"),
        ({}, {"epochs": 0, "dropout": 1.5}, "(?s)dropout: .*less than 1. Received: 1.5.*epochs: "),
        ({}, {"network": "unett"}, "network: expected one of unet, .*Received: 'unett'"),
        ({}, {"class_weights": "[1, 2"}, "class_weights: expected JSON .*Received: '\\[1, 2'"),
        ({}, {"class_weights": '["heavy"]'}, "class_weights.0: .*valid number.*Received: 'heavy'"),
        ({}, {"split": "fold-5-of-3"}, "split: .*K from 0 to below N.*Received: 'fold-5-of-3'"),
        ({}, {"on_bad_case": "ignore"}, "on_bad_case: .*'raise' or 'skip'. Received: 'ignore'"),
        ({}, {"title": "a\nb"}, "title: .*on one line"),
        ({"needed": ("data",)}, {"data": ""}, "data: .*compiled to read it: expected a path or a URL. Received: ''"),
        ({}, {"data": "/no/such/folder"}, "data: expected a file or a folder.*Received: '/no/such/folder'"),
        ({}, {"baseline": "ssss://x"}, "baseline: ssss://x: cannot be opened"),
        (
            {"fingerprints_network": True},
            {"network": "/no/n.keras"},
            "network: expected a file or a folder.*'/no/n.keras'",
        ),
        ({}, {"network": "/data/n.keras"}, "network: .*compiled for a network that is not a file.*'/data/n.keras'"),
        ({}, {"task": "/no/names.json"}, "task: .*compiled without a file.*Received: '/no/names.json'"),
        ({"fingerprints_task": True}, {"task": "lits"}, "task: .*compiled with a file.*Received: 'lits'"),
        (
            {"fingerprints_task": True},
            {"task": "/no/names.json", "data": str(Path(__file__).parent)},
            "task: expected a file.*Received: '/no/names.json'",
        ),
        ({"imported": ("data",)}, {"data": "/data"}, "data: .*compiled for a URL.*expected gs://.* Received: '/data'"),
        ({}, {"resolutions": [32, 36]}, "resolutions: .*multiple of 8. Received: 36"),
        ({"hardware": FOUR_GPUS}, {"mesh": "rows:4, columns:2"}, "mesh: .*expected a mesh of 4 devices.*8 devices"),
        (
            {"hardware": TWO_PODS},
            {"mesh": "rows:4, columns:2"},
            "evaluation_mesh: .*compiled to evaluate or segment in one pod: .*Received: mesh 'rows:4, columns:2'",
        ),
        (
            {"hardware": TWO_PODS, "spans_pods": True},
            {"mesh": "rows:4, columns:2", "evaluation_mesh": "rows:4", "evaluation_layout": "x:rows"},
            "evaluation_mesh: .*in a job of 2 pods: .*evaluation_mesh 'rows:4'",
        ),
        ({"hardware": FOUR_GPUS}, {"accelerator": "tpu"}, "accelerator: the cluster file .*Received: 'tpu'"),
    ],
)
def test_a_parameter_at_fault_is_named_with_its_value(graph, parameters, expected):
    with pytest.raises(SettingsError, match=expected):
        run(graph, **parameters)


def test_settings_that_a_pipeline_does_not_read_do_not_bind_it():
    run({"read": ("network", "levels", "resolutions")}, levels=8, resolutions=[128])


def test_a_store_that_fails_is_asked_again_for_the_step_has_one_attempt(monkeypatch):
    asked = []

    def exists(place):
        asked.append(place)
        if len(asked) < 3:
            raise storage.StorageError(f"{place}: 503 SlowDown")
        return True

    monkeypatch.setattr(storage, "exists", exists)
    run(baseline="s3://bucket/metrics.json")
    assert asked == ["s3://bucket/metrics.json"] * 3


def test_every_setting_is_checked():
    assert {"graph", *Settings.model_fields} == set(validate.component_spec.inputs)


def test_other_code_than_that_of_the_package_is_refused_first(monkeypatch):
    monkeypatch.setenv("KERAS_SPATIAL_CODE", "0" * 16)
    with pytest.raises(RuntimeError, match="the package was compiled from code 0000"):
        run(epochs=0)
