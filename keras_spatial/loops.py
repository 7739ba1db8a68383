"""What Keras's loops call for each batch: steps traced for its shape, and the arguments of `fit` and `compile`.

Keras traces one function over an iterator, whose batch size is unknown because the last batch may be smaller. Shards
have static sizes, so here each batch size has its own trace.
"""

import inspect
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import tensorflow as tf
from keras import tree

from keras_spatial import keras_private
from keras_spatial.announcements import announced
from keras_spatial.runtimes.functions import unoptimized

if TYPE_CHECKING:
    from keras_spatial.model import Model


def named(method: Callable, args: tuple, kwargs: dict) -> dict[str, Any]:
    """The arguments of a call, by their names."""
    arguments = dict(inspect.signature(method).bind(*args, **kwargs).arguments)
    return arguments | arguments.pop("kwargs", {})


def fit_arguments(model: "Model", mode: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `fit`, `evaluate` or `predict`, which is the mode, as a model with a mesh passes them to Keras.

    Every call of one of them begins with this.
    """
    if not keras_private.is_validation_of_fit(arguments):
        model._partition.begin(mode)
    if arguments.get("verbose", "auto") == "auto" and not sys.stdout.isatty():
        # A file, a pod's log or the launcher would receive every state of Keras's progress bar, with colour codes.
        arguments["verbose"] = 2
    return model._runtime.fit_arguments(arguments)


def compile_arguments(method: Callable, args: tuple, kwargs: dict) -> dict[str, Any]:
    """The arguments of `compile`, without XLA.

    Args:
        method: the `compile` that is called with them.
        args, kwargs: the user's arguments.

    Raises:
        ValueError: if `jit_compile` or `run_eagerly` is asked for.
    """
    arguments = named(method, args, kwargs)
    if arguments.get("jit_compile", "auto") not in ("auto", False, None):
        raise ValueError("A partitioned model cannot be compiled by XLA. Received: jit_compile=True")
    if arguments.get("run_eagerly"):
        raise ValueError("A partitioned model does not run eagerly. Received: run_eagerly=True")
    parameters = inspect.signature(method).parameters
    if "jit_compile" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        arguments["jit_compile"] = False
    return arguments


def over_iterator(model: "Model", step: Callable, mode: str) -> Callable:
    """A function that runs a step on the next batches of an iterator, as Keras's `train_function` does.

    Args:
        model: a model with a mesh.
        step: a step of the model, or Keras's wrapped form of it.
        mode: "fit" or "evaluate".
    """
    compiled = _prepared(model, step, mode)

    def run(iterator):
        logs = None
        for _ in range(model.steps_per_execution):
            try:
                data = next(iterator)
            except (StopIteration, tf.errors.OutOfRangeError):
                break
            if mode == "fit" and model._partition.skip:
                model._partition.skip -= 1
                logs = {}
            else:
                model._partition.prepare(model, data, mode)
                with unoptimized():
                    logs = compiled(data)
        if logs is None:
            raise StopIteration
        return logs

    return run


def over_batches(model: "Model", step: Callable) -> Callable:
    """A function that runs a step of prediction on several batches, as Keras's `predict_function` does."""
    compiled = _prepared(model, step, "predict")

    def run(batches):
        model._partition.prepare(model, batches[0], "predict")
        with unoptimized():
            outputs = [compiled(batch) for batch in batches]
        return tree.map_structure(lambda *parts: tf.concat(parts, 0), *outputs) if outputs[1:] else outputs[0]

    return run


def _prepared(model: "Model", step: Callable, mode: str) -> Callable:
    model._partition.synchronize_early(model)
    model._partition.begin(mode)  # After `compile`, `train_on_batch` counts as a new call, too.
    step = announced(step, mode, model._network.distribution.device_mesh.devices.size)
    return keras_private.without_optionals(model, model._runtime.compiled(step))
