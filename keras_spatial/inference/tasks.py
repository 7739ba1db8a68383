"""Choose the task by which a model's volumes are prepared, from the model's file and a command line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import keras

from keras_spatial import model_tasks
from keras_spatial.volumes import LITS, Task, TaskError, read_task, task_of


def chosen_task(model: str | Path, given: str | None, option: str = "--task ") -> Task | Literal["lits"]:
    """The task of a model's file, or the one that was given in its place. No task is assumed.

    Args:
        model: the path of the model's file.
        given: "lits", or the path of a task.json; None or "" takes that of the file.
        option: the command's option for the task, for the message.

    Raises:
        TaskError: if neither names a task, or its description is damaged.
    """
    if given == "lits":
        return "lits"
    if given:
        return read_task(given)
    if model_tasks.read_text(model) is None:
        raise TaskError(
            f"{model}: expected a model that knows its task: the normalisation, channels and grid of its training. "
            f"Received: a file without one. Give {option}TASK.json; or {option}lits, if it was trained on CT in LiTS's "
            "window (-512 to 512 HU) over the whole field of view; or write the task into the file, once, with "
            "ks.volumes.write_task"
        )
    return read_task(model)


def channel_names(task: Task | Literal["lits"]) -> tuple[str, ...]:
    """The names of the channels that a model of a task takes."""
    return tuple(channel.name for channel in (LITS if task == "lits" else task).channels)


def common_task(models: Sequence[keras.Model]) -> Task | None:
    """The task that all models have from their files; None if none has one.

    Raises:
        ValueError: if they differ.
    """
    tasks = [task_of(model) for model in models]
    first = tasks[0] if tasks else None
    for model, task in zip(models, tasks, strict=True):
        if (task is None) != (first is None) or (task is not None and first is not None and not task.same_input(first)):
            raise ValueError(
                f"model {model.name}: expected the task of the first one; their probabilities cannot be averaged. "
                f"Received: {'none' if task is None else task} against {'none' if first is None else first}"
            )
    return first


def input_size(models: Sequence[keras.Model], channels: int) -> tuple[int, int, int]:
    """The number of voxels of the models' input along x, y and z.

    Raises:
        ValueError: if the size of an input is not known, or an input has another number of channels or another size
            than those of the other models.
    """
    shape = None
    for model in models:
        first, shape = shape, model.input_shape
        if not isinstance(shape, tuple) or len(shape) != 5 or None in shape[1:4] or shape[4] != channels:
            raise ValueError(
                f"model {model.name}: expected one input [batch, x, y, z, {channels}] of known size. Received: {shape}"
            )
        if first is not None and first[1:] != shape[1:]:
            raise ValueError(f"model {model.name}: expected the input of the others, {first}. Received: {shape}")
    if shape is None:
        raise ValueError("model: expected at least one. Received: none")
    return shape[1], shape[2], shape[3]


def check_fits(models: Sequence[keras.Model], task: Task | None) -> tuple[int, int, int]:
    """Refuse models that cannot segment any image of a task, or any CT if there is no task.

    Returns:
        The number of voxels of their input along x, y and z.

    Raises:
        ValueError: if their input or their classes do not fit.
    """
    size = input_size(models, 1 if task is None else len(task.channels))
    for model in models:
        shape = model.output_shape
        if task is not None and isinstance(shape, tuple) and shape[-1] not in (None, len(task.labels)):
            raise ValueError(
                f"task {task.name}: expected a model with scores of the {len(task.labels)} classes {task.labels}. "
                f"Received: {shape[-1]} classes"
            )
    return size
