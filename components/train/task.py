"""What the data set's task decides of a training: the network's input and classes, its metrics, the images' size."""

from typing import Any

import keras

import keras_spatial as ks
from keras_spatial.volumes import Task, metric_name


def task_of(builder: Any) -> Task:
    """The task in a data set's metadata.

    Raises:
        TaskError: if it is missing or damaged.
    """
    metadata = dict(builder.info.metadata or {})
    return Task.of(metadata.get("task"), f"{builder.data_path}: metadata.json")


def image_size(builder: Any, levels: int) -> tuple[int, int, int] | None:
    """The common size of images that differ in size: that of the largest one, rounded up so that a network of so many
    levels can halve it; None where the data set's images have one size."""
    task = task_of(builder)
    if None not in builder.info.features["label"].shape or task.largest is None:
        return None
    factor = 2 ** (levels - 1)
    x, y, z = (-(-n // factor) * factor for n in task.largest)
    return x, y, z


def input_shape(builder: Any, levels: int) -> tuple[int, ...]:
    """Image axes and channels of the network's input."""
    size = image_size(builder, levels)
    shape = builder.info.features["image"].shape
    return tuple(shape) if size is None else (*size, shape[-1])


def dice_metrics(task: Task) -> list[keras.metrics.Metric]:
    """A Dice for each class, under its name; LiTS's liver includes its lesions."""
    if task.scores == "lits":
        return [
            ks.metrics.Dice(class_id=1, or_above=True, name="dice_liver"),
            ks.metrics.Dice(class_id=2, name="dice_lesion"),
        ]
    return [
        ks.metrics.Dice(class_id=number, name=f"dice_{metric_name(name)}")
        for number, name in enumerate(task.labels)
        if number
    ]
