"""Make the loss, the metrics, the optimizer and the augmentation of a training from the settings."""

import dataclasses
import inspect
from typing import Any

import keras_spatial as ks  # First: it turns oneDNN on before TensorFlow starts.

# isort: split
import keras
import tensorflow as tf

from components.train.network import code
from components.train.settings import LOSSES, TrainingError, TrainingSettings
from components.train.task import dice_metrics
from keras_spatial import data
from keras_spatial.volumes import Task, Window

# The default options, which were tuned on phantoms for the demo.
_DICE_CROSSENTROPY = {"crossentropy_weight": 0.3, "dice_weight": 1.0}
_OPTIMIZERS = {"adam": "Adam", "adamw": "AdamW", "lion": "Lion", "nadam": "Nadam", "rmsprop": "RMSprop", "sgd": "SGD"}


def compile_model(model: keras.Model, settings: TrainingSettings, task: Task) -> None:
    """Compile a model whose outputs are all compared with the same labels. Coarser outputs weigh 1/2, 1/4, ...

    Metrics are weighted, so that they do not count the padding of images of different sizes.

    Raises:
        TrainingError: if the loss or the optimizer does not know an option.
    """
    metrics = dice_metrics(task)
    outputs = len(model.outputs)
    if outputs == 1:
        model.compile(optimizer=optimizer(settings), loss=loss(settings, task), weighted_metrics=metrics)
        return
    weights = [2.0**-number for number in range(outputs)]
    model.compile(
        optimizer=optimizer(settings),
        loss=[loss(settings, task) for _ in range(outputs)],
        loss_weights=[weight / sum(weights) for weight in weights],
        weighted_metrics=[metrics, *[[] for _ in weights[1:]]],
    )


def for_outputs(dataset: tf.data.Dataset, outputs: int) -> tf.data.Dataset:
    """A data set of images, labels and perhaps weights, in which labels and weights are repeated for each output."""
    if outputs == 1:
        return dataset
    return dataset.map(lambda image, *others: (image, *((other,) * outputs for other in others)))


def loss(settings: TrainingSettings, task: Task) -> keras.losses.Loss:
    """The loss by name or by the user's code, with its options."""
    if settings.loss not in LOSSES:
        made = _made(code(settings.loss, "loss"), dict(settings.loss_options), "loss_options")
        if not isinstance(made, keras.losses.Loss):
            raise TrainingError(f"loss: expected {settings.loss} to make a keras.losses.Loss. Received: {made!r}")
        return made
    kind = getattr(ks.losses, LOSSES[settings.loss])
    options: dict[str, Any] = dict(_DICE_CROSSENTROPY) if settings.loss == "dice_crossentropy" else {}
    if "class_weights" in inspect.signature(kind).parameters:
        options["class_weights"] = settings.class_weights or task.loss_weights or None
    return _made(kind, {**options, **settings.loss_options}, "loss_options")


def optimizer(settings: TrainingSettings) -> keras.optimizers.Optimizer:
    """The optimizer by name, with its options, accumulation, moving average and clipping."""
    options: dict[str, Any] = {"learning_rate": settings.learning_rate}
    if settings.accumulation > 1:
        options["gradient_accumulation_steps"] = settings.accumulation
    if settings.ema:
        options |= {"use_ema": True, "ema_momentum": settings.ema}
    if settings.global_clipnorm:
        options["global_clipnorm"] = settings.global_clipnorm
    kind = getattr(keras.optimizers, _OPTIMIZERS[settings.optimizer])
    return _made(kind, {**options, **settings.optimizer_options}, "optimizer_options")


def augmentation(settings: TrainingSettings, task: Task) -> data.Augmentation | None:
    """The augmentation of the training cases.

    Intensities that do not come from a window are not clipped, because they have no bounds, and not changed by a gamma,
    because a negative number has no real power.
    """
    found = {"off": None, "paper": data.PAPER, "strong": data.STRONG, "nnunet": data.NNUNET}[settings.augmentation]
    if found is None:
        return None
    found = dataclasses.replace(found, classes=len(task.labels))
    if all(isinstance(channel.intensities, Window) for channel in task.channels):
        return found
    return dataclasses.replace(found, bounds=None, gamma=0.0)


def _made(kind: Any, options: dict[str, Any], setting: str) -> Any:
    try:
        return kind(**options)
    # The user's code may raise anything.
    except Exception as error:
        raise TrainingError(f"{setting}: {kind.__name__} does not take {options} ({error})") from error
