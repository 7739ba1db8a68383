"""Device meshes: which devices compute, and how they are arranged."""

import math
import os
import re
from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from keras_spatial import processes

# Logical CPU devices share TensorFlow's thread pool and cost nothing while unused, but their number is fixed when
# TensorFlow starts: enough for several small meshes in one program, unless the first mesh is larger.
_LEAST_LOGICAL_CPUS = 16
_CPU_COUNT_VARIABLE = "KERAS_SPATIAL_CPU_DEVICES"


def parse_pairs(text: str | Mapping[str, object] | Sequence[tuple[str, object]], what: str) -> list[tuple[str, str]]:
    """`"rows:2, columns:2"`, a dict or a list of pairs, as a list of pairs of strings.

    Raises:
        ValueError: if a pair lacks its colon or a name stands twice.
    """
    if isinstance(text, str):
        parts = [part.strip() for part in re.split(r"[,;]", text) if part.strip()]
        pairs = [tuple(item.strip() for item in part.split(":")) for part in parts]
    else:
        pairs = [(str(k), str(v)) for k, v in (text.items() if isinstance(text, Mapping) else text)]
    if not pairs or any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise ValueError(f"A {what} is written as 'name:value, name:value'. Received: {text!r}")
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError(f"Every name of a {what} may stand only once. Received: {text!r}")
    return [(name, value) for name, value in pairs]


def device_mesh(shape: str | Mapping[str, int], devices: Sequence[str] | None = None) -> keras.distribution.DeviceMesh:
    """Arrange devices in a mesh of named axes.

    Call it before TensorFlow does any work: on a machine without accelerators it makes logical CPU devices, whose
    number is fixed once TensorFlow has started (at least 16 are made; `KERAS_SPATIAL_CPU_DEVICES` sets another least).

    Args:
        shape: the mesh's axes and their sizes in Mesh-TensorFlow's notation, such as `"rows:2, columns:2"`, or a dict.
        devices: TensorFlow device names such as `"gpu:0"`, as many as the product of the sizes. By default the
            cores of the TPU slice that `ks.tpu_strategy` has started, the machine's GPUs, or logical CPU devices where
            it has neither; after `ks.initialize()` equally many of each process.

    Returns:
        A `keras.distribution.DeviceMesh`.

    Raises:
        ValueError: if `shape` is malformed, or asks for more devices than there are.

    Example:

    ```python
    mesh = ks.device_mesh("rows:2, columns:2")
    ```
    """
    pairs = parse_pairs(shape, "mesh shape")
    for name, value in pairs:
        if not value.isdigit() or int(value) < 1:
            raise ValueError(f"The size of mesh axis '{name}' must be a positive integer. Received: {shape!r}")
    names = [name for name, _ in pairs]
    sizes = tuple(int(value) for _, value in pairs)
    count = math.prod(sizes)
    if devices is None:
        devices = _default_devices(count, shape)
    if len(devices) != count:
        raise ValueError(
            f"The mesh {dict(zip(names, sizes, strict=True))} needs {count} devices. "
            f"Received: {len(devices)} devices, {list(devices)}"
        )
    return keras.distribution.DeviceMesh(sizes, names, list(devices))


def _default_devices(count: int, shape: object) -> list[str]:
    job = processes.current()
    if job.count == 1:
        return _devices_of_process(count, shape)
    if count % job.count:
        raise ValueError(
            f"The mesh {shape!r} has {count} devices, which {job.count} processes cannot share equally. Change the "
            f"mesh or the number of processes, or name the devices yourself."
        )
    local = [device.split(":") for device in _devices_of_process(count // job.count, shape)]
    return [job.device(rank, kind, int(number)) for rank in range(job.count) for kind, number in local]


def _devices_of_process(count: int, shape: object) -> list[str]:
    if tf.config.list_physical_devices("TPU"):
        return [f"tpu:{i}" for i in range(count)]
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        if len(gpus) < count:
            raise ValueError(
                f"The mesh {shape!r} needs {count} devices, but this machine has {len(gpus)} GPUs. Make the mesh "
                f"smaller, or name CPU devices yourself: devices=['cpu:0', ...]."
            )
        return [f"gpu:{i}" for i in range(count)]
    make_logical_cpus(count)
    available = len(tf.config.list_logical_devices("CPU"))
    if available < count:
        raise ValueError(
            f"The mesh {shape!r} needs {count} devices, but TensorFlow was already started with {available} logical "
            f"CPU device(s). Make the largest mesh first, before any TensorFlow operation, or set "
            f"{_CPU_COUNT_VARIABLE}={count} in the environment."
        )
    return [f"cpu:{i}" for i in range(count)]


def make_logical_cpus(count: int) -> None:
    """Make logical CPU devices, if TensorFlow has not started."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    if tf.config.get_logical_device_configuration(cpu):
        return
    least = int(os.environ.get(_CPU_COUNT_VARIABLE, _LEAST_LOGICAL_CPUS))
    configuration = [tf.config.LogicalDeviceConfiguration()] * max(count, least)
    try:
        tf.config.set_logical_device_configuration(cpu, configuration)
    except RuntimeError:
        # TensorFlow has started: the caller finds too few devices and says so.
        return
