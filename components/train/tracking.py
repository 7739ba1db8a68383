"""Send the settings of a training, and its values after each epoch, to MLflow if its address is set.

If the server is lost while a training runs, MLflow misses the rest of the values. The training continues, and its own
log has all of them.
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
"""MLflow's own environment variable. Without it, nothing is sent. MLflow also reads the name of its experiment and its
credentials from the environment."""


class MLflowValues(keras.callbacks.Callback):
    """Sends the values of each epoch to the active MLflow run, until that fails for the first time.

    MLflow itself tries for minutes before it fails, and all processes of a training wait for it.
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
        # MLflow's client passes on the errors of several libraries.
        except Exception as error:
            self._lost = True
            console.note("train", f"MLflow gets no values from epoch {epoch + 1} on: {type(error).__name__}: {error}")


@contextlib.contextmanager
def run(settings: TrainingSettings, *, first: bool) -> Iterator[list[keras.callbacks.Callback]]:
    """An MLflow run inside a `with` block, which yields callbacks for the training; none if no address is set.

    Args:
        settings: the settings of the training, which are logged as the parameters of the run.
        first: whether this is the first process, which is the one that sends.

    Raises:
        TrainingError: if the address is set, but MLflow is not installed or nothing can be sent there.
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
            console.note(
                "train", f"MLflow could not be told that the training has ended: {type(error).__name__}: {error}"
            )
