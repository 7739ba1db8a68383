"""What a training makes before its first step, made without its data: network, loss and optimizer, and their plan."""

from collections.abc import Sequence

# isort: split

from components.train import network as networks
from components.train import objective
from components.train.memory import check_memory, plan_of
from components.train.settings import TrainingError, TrainingSettings
from keras_spatial.volumes import LITS, Channel, Task, TaskError, ZScore

# Voxels along an axis where only the cases decide it: enough for networks that halve an image six times.
_SIZE = 64


def rehearse(
    settings: TrainingSettings, resolution: int, labels: Sequence[str] | None = None, channels: int | None = None
) -> None:
    """Make what the settings name, and plan a step on the mesh, whose devices need not be here.

    Args:
        settings: the settings of the training.
        resolution: the number of voxels along each axis of an image; 0 if only the cases decide it, and then no
            step is planned.
        labels: the names of the classes; None if they are not known, and then only the arguments are checked.
        channels: the number of channels of an image; None as for `labels`.

    Raises:
        TrainingError: naming the setting, its value and what was expected.
    """
    if labels is None or channels is None:
        networks.check_arguments(settings)
        objective.optimizer(settings)
        objective.loss(settings, LITS)  # Of any task: its classes alone are unknown.
        return
    task = _task(labels, channels)
    size = resolution or (None if settings.network_source == "file" else _SIZE)
    model = networks.make(settings, (size, size, size, channels), len(labels))
    objective.compile_model(model, settings, task)
    if not resolution:
        return
    try:
        check_memory(model, settings, plan_of(model, settings))
    except TrainingError:
        raise
    except Exception as error:  # Of the user's network and loss, whatever they raise.
        raise TrainingError(
            f"network, loss: a step of {settings.network} with the loss {settings.loss} cannot be planned on the mesh "
            f"{settings.mesh!r} ({type(error).__name__}: {error})"
        ) from error


def _task(labels: Sequence[str], channels: int) -> Task:
    try:
        return Task("cases", tuple(labels), tuple(Channel(str(number), ZScore()) for number in range(channels)))
    except TaskError as error:
        raise TrainingError(str(error)) from error
