"""MLflow, where its address is set: the settings of a training and its values after each epoch.

A server that is lost while a training runs costs what it would have shown, and not the training, whose log has it all.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import keras

from components import console
from components.train.best import plain_name
from components.train.settings import TrainingError, TrainingSettings

ADDRESS_VARIABLE = "MLFLOW_TRACKING_URI"
"""MLflow's own environment variable; without it nothing is sent. MLflow reads its experiment's name and its
credentials from the environment too."""


class MLflowValues(keras.callbacks.Callback):
    """Sends the values of each epoch to the MLflow run that is active, until that fails once.

    MLflow itself tries for minutes before it fails, and all processes of a training wait meanwhile.
    """

    first_process_only = True

    def __init__(self, mlflow: Any):
        super().__init__()
        self._mlflow, self._lost = mlflow, False

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._lost:
            return
        values = {plain_name(name): float(value) for name, value in (logs or {}).items()}
        try:
            self._mlflow.log_metrics(values, step=epoch)
        except Exception as error:  # Its client passes on what several libraries raise.
            self._lost = True
            console.note("train", f"MLflow gets nothing from epoch {epoch + 1} on: {type(error).__name__}: {error}")


@contextlib.contextmanager
def run(settings: TrainingSettings, *, first: bool) -> Iterator[list[keras.callbacks.Callback]]:
    """An MLflow run around a training, whose callbacks are given; none where no address is set.

    Args:
        settings: logged as the run's parameters.
        first: whether this is the process that writes.

    Raises:
        TrainingError: if the address is set and MLflow is not installed, or nothing can be sent there.
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
    try:
        mlflow.start_run()
        mlflow.log_params(settings.model_dump(mode="json"))
    except Exception as error:
        raise TrainingError(
            f"{ADDRESS_VARIABLE}: expected the address of an MLflow server. Received: {os.environ[ADDRESS_VARIABLE]!r} "
            f"({type(error).__name__}: {error}). Correct it, or unset it."
        ) from error
    status = "FAILED"
    try:
        yield [MLflowValues(mlflow)]
        status = "FINISHED"
    finally:
        try:
            mlflow.end_run(status)
        except Exception as error:
            console.note("train", f"MLflow was not told of the end: {type(error).__name__}: {error}")
