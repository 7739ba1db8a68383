"""MLflow gets a training's settings and values if its address is set, and only then."""

import importlib.util
import sys

import pytest

from components.train import tracking
from components.train.settings import TrainingError, TrainingSettings
from keras_spatial.launch import free_ports

MLFLOW = importlib.util.find_spec("mlflow") is not None


def test_without_an_address_nothing_is_sent(monkeypatch):
    monkeypatch.delenv(tracking.ADDRESS_VARIABLE, raising=False)
    with tracking.run(TrainingSettings(), first=True) as callbacks:
        assert callbacks == []


def test_an_address_without_mlflow_is_an_error_that_names_the_extra(monkeypatch, tmp_path):
    # Python then finds no such module, be it installed or not.
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setenv(tracking.ADDRESS_VARIABLE, (tmp_path / "runs").as_uri())
    with (
        pytest.raises(TrainingError, match=r"MLFLOW_TRACKING_URI is set, .*keras-spatial\[mlflow\]"),
        tracking.run(TrainingSettings(), first=True),
    ):
        pass
    # Other processes than the first write nothing.
    with tracking.run(TrainingSettings(), first=False) as callbacks:
        assert callbacks == []


class Lost:
    """An MLflow whose server can no longer be reached after the start."""

    def __init__(self):
        self.tried = 0

    def start_run(self):
        pass

    def log_params(self, values):
        pass

    def log_metrics(self, values, step):
        self.tried += 1
        raise ConnectionError("API request failed")

    def end_run(self, status):
        raise ConnectionError(f"{status} was not sent")


def test_a_server_that_is_lost_costs_no_training(monkeypatch, capsys):
    mlflow = Lost()
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setenv(tracking.ADDRESS_VARIABLE, "http://mlflow")
    with tracking.run(TrainingSettings(), first=True) as callbacks:
        for epoch in range(3):
            callbacks[0].on_epoch_end(epoch, {"loss": 0.5})
    said = capsys.readouterr().out
    assert "MLflow gets no values from epoch 1 on: ConnectionError: API request failed" in said
    assert "MLflow could not be told that the training has ended: ConnectionError: FINISHED was not sent" in said
    # A disconnected client tries for minutes each time.
    assert mlflow.tried == 1


def test_an_error_of_the_training_is_not_hidden_by_that_of_the_server(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mlflow", Lost())
    monkeypatch.setenv(tracking.ADDRESS_VARIABLE, "http://mlflow")
    with pytest.raises(ZeroDivisionError), tracking.run(TrainingSettings(), first=True):
        _ = 1 / 0
    assert "FAILED was not sent" in capsys.readouterr().out


@pytest.mark.skipif(not MLFLOW, reason="MLflow is not installed: pip install .[mlflow]")
def test_an_address_where_nothing_answers_is_named_before_the_training(monkeypatch):
    import mlflow

    address = f"http://127.0.0.1:{free_ports(1)[0]}"
    monkeypatch.setenv(tracking.ADDRESS_VARIABLE, address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_tracking_uri(address)
    with (
        pytest.raises(TrainingError, match=rf"MLFLOW_TRACKING_URI: .*{address}"),
        tracking.run(TrainingSettings(), first=True),
    ):
        pass


@pytest.mark.skipif(not MLFLOW, reason="MLflow is not installed: pip install .[mlflow]")
def test_mlflow_gets_settings_and_values_by_epoch(monkeypatch, tmp_path):
    import mlflow

    monkeypatch.setenv(tracking.ADDRESS_VARIABLE, (tmp_path / "runs").as_uri())
    # MLflow keeps runs in files only where that is asked for; its databases are not part of the skinny package.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    with tracking.run(TrainingSettings(filters=4), first=True) as callbacks:
        for epoch, value in enumerate((0.5, 0.25)):
            callbacks[0].on_epoch_end(epoch, {"loss": value, "val_classes_dice_liver": value})
    [run] = mlflow.search_runs(output_format="list")
    assert run.data.params["filters"] == "4"
    assert run.data.metrics == {"loss": 0.25, "val_dice_liver": 0.25}
