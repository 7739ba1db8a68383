"""Keep the processes of a job consistent: the same model, the same weights, and files that are written only once."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import keras

from keras_spatial.keras_private import KerasSaveable, compilation, function_arguments

# Keras's callbacks that write or send something and do not change the training itself.
_WRITERS = (
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.CSVLogger,
    keras.callbacks.TensorBoard,
    keras.callbacks.RemoteMonitor,
    keras.callbacks.ProgbarLogger,
)
# The arguments of `compile`, besides the optimizer, that must be the same in all processes.
_COMPARED = ("loss", "loss_weights", "metrics", "weighted_metrics", "steps_per_execution")


def callbacks_without_files(callbacks: Any) -> Any:
    """The callbacks for processes other than the first: those that write nothing. All processes pass them the same
    logs.

    A user's callback that writes is left out too if it has an attribute `first_process_only = True`.
    """
    if callbacks is None or isinstance(callbacks, keras.callbacks.CallbackList):
        return callbacks
    listed = callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]
    return [c for c in listed if not isinstance(c, _WRITERS) and not getattr(c, "first_process_only", False)]


def state_of(model: keras.Model) -> list[keras.Variable]:
    """The variables that training changes, without those of metrics: weights, averages, seeds, optimizer state."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and not optimizer.built:
        # On TPUs the optimizer's variables belong to the strategy, which is in force only while Keras itself builds
        # them.
        with model._runtime.scope():
            optimizer.build(model.trainable_variables)
    metrics = {id(v) for v in model.metrics_variables}
    found = [*model.variables, *(optimizer.variables if optimizer is not None else ())]
    return list({id(v): v for v in found if id(v) not in metrics}.values())


def facts_of(model: keras.Model, variables: Sequence[keras.Variable]) -> dict[str, str]:
    """The facts about a model that must be the same in all processes."""
    mesh = model.distribution.device_mesh
    shapes = json.dumps([(list(v.shape), str(v.dtype)) for v in variables])
    operations = [f"{type(o).__name__}{_configuration(o)}" for o in getattr(model, "operations", [])]
    optimizer = getattr(model, "optimizer", None)
    compiled = compilation(model) or {}
    return {
        "mesh and layout": repr(model.distribution),
        "devices": ", ".join(mesh.devices.flatten()),
        "number of parameters": str(model.count_params() if model.built else "not built"),
        "layers": hashlib.sha256("\n".join(operations).encode()).hexdigest()[:16],
        "shapes of variables": hashlib.sha256(shapes.encode()).hexdigest()[:16],
        "optimizer": "none" if optimizer is None else _described(optimizer),
        "loss, metrics": _described([compiled.get(name) for name in _COMPARED]),
    }


def _described(value: Any) -> str:
    """A text that is the same in all processes with the same value."""
    return json.dumps(value, sort_keys=True, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, KerasSaveable):
        # Keras leaves the arguments of a loss's function out of the loss's configuration.
        return {type(value).__name__: [_without_chance(value.get_config()), function_arguments(value)]}
    return getattr(value, "__qualname__", type(value).__name__)


def _configuration(operation: keras.Operation) -> str:
    try:
        return _described(_without_chance(operation.get_config()))
    except (NotImplementedError, TypeError):
        return ""


def _without_chance(configuration: dict[str, Any]) -> dict[str, Any]:
    """The configuration without names, seeds and initializers, which may differ: the first process's state counts."""
    return {k: v for k, v in configuration.items() if k not in ("name", "seed") and "initializer" not in k}
