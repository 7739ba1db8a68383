"""Plan the memory of a training before its first step: what a device must hold, and on which mesh it would fit."""

import math
from collections.abc import Callable

import keras_spatial as ks  # First: it turns oneDNN on before TensorFlow starts.

# isort: split
import keras
import tensorflow as tf

from components.train.settings import TrainingError, TrainingSettings
from keras_spatial import processes
from keras_spatial.planning import NothingFits, Plan, parse_size, readable, smallest_mesh

_MOST_DEVICES = 256


def plan_training(network: ks.Model, settings: TrainingSettings, twin: Callable[[], keras.Model]) -> Plan:
    """Plan a training step of a compiled model, and recompute layers if the settings ask for it and memory is short.

    Args:
        network: the compiled and partitioned model.
        settings: the settings of the training.
        twin: a function that makes the same model again, compiled, with variables of its own. It is needed for TPUs,
            whose strategy mirrors the variables, which a plan cannot do.

    Returns:
        The plan, which fits if the memory of a device is known.

    Raises:
        TrainingError: if the step does not fit; the message names the smallest mesh on which it would.
    """
    distribution = network.distribution
    assert distribution is not None
    memory = device_memory(settings)
    if settings.recompute == "auto" and memory is not None:
        try:
            found = ks.recompute(network, memory=memory, batch_size=settings.batch_size)
        except NothingFits as error:
            raise TrainingError(_advice(network, settings, memory, str(error))) from None
        assert found is not None
        return found
    if distribution.strategy is None:
        found = ks.plan(network, distribution, settings.batch_size)
    else:
        found = plan_of(twin(), settings)
    if memory is not None and not found.fits(memory):
        raise TrainingError(_advice(network, settings, memory, found.explain(memory)))
    return found


def plan_of(model: keras.Model, settings: TrainingSettings) -> Plan:
    """Plan a training step of a plain compiled model on the mesh of the settings, whose devices need not exist here."""
    cpus = ["cpu:0"] * math.prod(settings.mesh_axes.values())
    distribution = ks.SpatialParallel(ks.device_mesh(settings.mesh, devices=cpus), settings.layout)
    return ks.plan(model, distribution, settings.batch_size)


def check_memory(model: keras.Model, settings: TrainingSettings, plan: Plan) -> None:
    """Check that a plan fits into the memory that the settings name.

    With `recompute` "auto", nothing is checked, because recomputation may make a step fit.

    Raises:
        TrainingError: if the plan does not fit; the message names the smallest mesh on which it would.
    """
    if not settings.device_memory or settings.recompute == "auto":
        return
    memory = parse_size(settings.device_memory, "device_memory")
    if not plan.fits(memory):
        raise TrainingError(_advice(model, settings, memory, plan.explain(memory)))


def device_memory(settings: TrainingSettings) -> int | None:
    """The bytes of memory of one device, the smallest of all processes; None if it is not known.

    It comes from the settings, or else, for GPUs, from TensorFlow.
    """
    if settings.device_memory:
        return parse_size(settings.device_memory, "device_memory")
    # There is no other public way to find a GPU's memory. This is TensorFlow's limit, which leaves some memory to the
    # driver.
    from tensorflow.python.client import device_lib

    gpus = tf.config.list_logical_devices("GPU")
    sizes = [d.memory_limit for d in device_lib.list_local_devices() if d.device_type == "GPU"] if gpus else []
    given = processes.current().exchange("memory of a device", str(min(sizes, default=0)))
    known = [int(size) for size in given if int(size)]
    return min(known, default=None)


def _advice(network: keras.Model, settings: TrainingSettings, memory: int, why: str) -> str:
    others = ["recompute=auto"] if settings.recompute == "off" else []
    others += ["precision=mixed_bfloat16"] if settings.precision == "float32" else []
    try:
        fitting = smallest_mesh(network, memory, most_devices=_MOST_DEVICES, batch_size=settings.batch_size)
        mesh = (
            f"It fits on {fitting.devices} devices: mesh={fitting.mesh!r}, layout={fitting.layout!r}, with "
            f"{readable(fitting.memory)} each."
        )
    except NothingFits:
        mesh = f"No mesh of up to {_MOST_DEVICES} such devices is enough."
    return f"{why}\n{mesh} Or set {' or '.join([*others, 'fewer filters'])}."
