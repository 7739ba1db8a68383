"""Read the task of a data set, and what it determines for a training: the size of the images and the metrics."""

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


def largest_image(builder: Any) -> tuple[int, int, int] | None:
    """The shape that holds every image of a data set whose images differ in size; None if all have one size."""
    task = task_of(builder)
    return task.largest if None in builder.info.features["label"].shape else None


def dice_metrics(task: Task) -> list[keras.metrics.Metric]:
    """A Dice metric for each class, named after it; LiTS's liver includes its lesions."""
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
