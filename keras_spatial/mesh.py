"""Device meshes: which devices compute, and how they are arranged."""

import math
from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from keras_spatial import _environment, processes
from keras_spatial.layout import parse_mesh
from keras_spatial.logical_cpus import COUNT_VARIABLE, make_logical_cpus


def device_mesh(shape: str | Mapping[str, int], devices: Sequence[str] | None = None) -> keras.distribution.DeviceMesh:
    """Arrange devices in a mesh of named axes.

    Call it before TensorFlow does any work: on a machine without accelerators it makes logical CPU devices, whose
    number is fixed once TensorFlow has started. It makes at least 16, or at least as many as the environment variable
    `KERAS_SPATIAL_CPU_DEVICES` says.

    Args:
        shape: the mesh's axes and their sizes in Mesh-TensorFlow's notation, such as `"rows:2, columns:2"`, or a dict.
        devices: TensorFlow device names such as `"gpu:0"`, as many as the mesh has positions. If there are fewer, the
            positions share them equally and are computed one after another; see `offload` of `ks.SpatialParallel`. By
            default the cores of the TPU slice that `ks.tpu_strategy` has started, else the machine's GPUs, else logical
            CPU devices; after `ks.initialize()` the same number of devices of each process.

    Returns:
        A `keras.distribution.DeviceMesh`.

    Raises:
        ValueError: if `shape` is malformed or needs more devices than there are.

    Example:

    ```python
    mesh = ks.device_mesh("rows:2, columns:2")
    ```
    """
    axes = parse_mesh(shape)
    names, sizes = list(axes), tuple(axes.values())
    count = math.prod(sizes)
    if devices is None:
        with _environment.quiet():  # TensorFlow looks for devices and prints notices.
            devices = _default_devices(count, shape)
    if not devices or count % len(devices):
        raise ValueError(
            f"The mesh {dict(zip(names, sizes, strict=True))} has {count} positions, which the devices must share "
            f"equally. Received: {len(devices)} devices, {list(devices)}"
        )
    devices = [device for device in devices for _ in range(count // len(devices))]
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
    gpus = tf.config.get_visible_devices("GPU")
    if gpus:
        if len(gpus) < count:
            raise ValueError(
                f"The mesh {shape!r} needs {count} devices, but {len(gpus)} GPUs of this machine are visible. Make the "
                f"mesh smaller, or name CPU devices yourself: devices=['cpu:0', ...]."
            )
        return [f"gpu:{i}" for i in range(count)]
    make_logical_cpus(count)
    available = len(tf.config.list_logical_devices("CPU"))
    if available < count:
        raise ValueError(
            f"The mesh {shape!r} needs {count} devices, but TensorFlow was already started with {available} logical "
            f"CPU device(s). Make the largest mesh first, before any TensorFlow operation, or set "
            f"{COUNT_VARIABLE}={count} in the environment."
        )
    return [f"cpu:{i}" for i in range(count)]
