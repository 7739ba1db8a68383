"""Make network, loss and optimizer of a training without its data, and plan a step, to find mistakes early."""

from collections.abc import Sequence

from components.train import network as networks
from components.train import objective
from components.train.memory import check_memory, plan_of
from components.train.settings import TrainingError, TrainingSettings
from keras_spatial.volumes import LITS, Channel, Task, TaskError, ZScore

# The number of voxels along an axis if it depends on the cases: networks can halve such an image six times.
_SIZE = 64


def rehearse(
    settings: TrainingSettings, resolution: int, labels: Sequence[str] | None = None, channels: int | None = None
) -> None:
    """Make network, loss and optimizer, and plan a step on the mesh, whose devices need not exist here.

    Args:
        settings: the settings of the training.
        resolution: the number of voxels along each axis of an image; 0 if it depends on the cases. Then no step is
            planned.
        labels: the names of the classes; None if they are not known. Then only the arguments are checked.
        channels: the number of channels of an image; None if it is not known.

    Raises:
        TrainingError: if a setting is wrong; the message names it, its value and what was expected.
    """
    if labels is None or channels is None:
        networks.check_arguments(settings)
        objective.optimizer(settings)
        # Any task will do, because only the classes are unknown.
        objective.loss(settings, LITS)
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
    # The user's network and loss may raise anything.
    except Exception as error:
        raise TrainingError(
            f"network, loss: a step of {settings.network} with the loss {settings.loss} cannot be planned on the mesh "
            f"{settings.mesh!r} ({type(error).__name__}: {error})"
        ) from error


def _task(labels: Sequence[str], channels: int) -> Task:
    try:
        return Task("cases", tuple(labels), tuple(Channel(str(number), ZScore()) for number in range(channels)))
    except TaskError as error:
        raise TrainingError(str(error)) from error
