"""MLflow gets a training's settings and values where its address is set, and only there."""

import importlib.util

import pytest

from components.train import tracking
from components.train.settings import TrainingError, TrainingSettings

MLFLOW = importlib.util.find_spec("mlflow") is not None


def test_without_an_address_nothing_is_sent(monkeypatch):
    monkeypatch.delenv(tracking.ADDRESS_VARIABLE, raising=False)
    with tracking.run(TrainingSettings(), first=True) as callbacks:
        assert callbacks == []


@pytest.mark.skipif(MLFLOW, reason="MLflow is installed")
def test_an_address_without_mlflow_is_an_error_that_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setenv(tracking.ADDRESS_VARIABLE, (tmp_path / "runs").as_uri())
    with (
        pytest.raises(TrainingError, match=r"MLFLOW_TRACKING_URI is set, .*keras-spatial\[mlflow\]"),
        tracking.run(TrainingSettings(), first=True),
    ):
        pass
    # Other processes than the first write nothing.
    with tracking.run(TrainingSettings(), first=False) as callbacks:
        assert callbacks == []


@pytest.mark.skipif(not MLFLOW, reason="MLflow is not installed: pip install .[mlflow]")
def test_mlflow_gets_settings_and_values_by_epoch(monkeypatch, tmp_path):
    import mlflow

    monkeypatch.setenv(tracking.ADDRESS_VARIABLE, (tmp_path / "runs").as_uri())
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    with tracking.run(TrainingSettings(filters=4), first=True) as callbacks:
        for epoch, value in enumerate((0.5, 0.25)):
            callbacks[0].on_epoch_end(epoch, {"loss": value, "val_classes_dice_liver": value})
    [run] = mlflow.search_runs(output_format="list")
    assert run.data.params["filters"] == "4"
    assert run.data.metrics == {"loss": 0.25, "val_dice_liver": 0.25}
