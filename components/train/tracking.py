"""MLflow, where its address is set: the settings of a training and its values after each epoch."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import keras

from components.train.best import plain_name
from components.train.settings import TrainingError, TrainingSettings

ADDRESS_VARIABLE = "MLFLOW_TRACKING_URI"
"""MLflow's own environment variable; without it nothing is sent. MLflow reads its experiment's name and its
credentials from the environment too."""


class MLflowValues(keras.callbacks.Callback):
    """Sends the values of each epoch to the MLflow run that is active."""

    first_process_only = True

    def __init__(self, mlflow: Any):
        super().__init__()
        self._mlflow = mlflow

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        values = {plain_name(name): float(value) for name, value in (logs or {}).items()}
        self._mlflow.log_metrics(values, step=epoch)


@contextlib.contextmanager
def run(settings: TrainingSettings, *, first: bool) -> Iterator[list[keras.callbacks.Callback]]:
    """An MLflow run around a training, whose callbacks are given; none where no address is set.

    Args:
        settings: logged as the run's parameters.
        first: whether this is the process that writes.

    Raises:
        TrainingError: if the address is set and MLflow is not installed.
    """
    if not os.environ.get(ADDRESS_VARIABLE) or not first:
        yield []
        return
    try:
        import mlflow  # pyright: ignore[reportMissingImports] - of the extra mlflow.
    except ImportError as error:
        raise TrainingError(
            f"{ADDRESS_VARIABLE} is set, but MLflow cannot be imported ({error}). Install keras-spatial[mlflow], or "
            "unset it."
        ) from error
    with mlflow.start_run():
        mlflow.log_params(settings.model_dump(mode="json"))
        yield [MLflowValues(mlflow)]
