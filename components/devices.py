"""The devices of a step: those that the settings ask for, or an error that says what TensorFlow has found."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras_spatial as ks  # First: it turns oneDNN on before TensorFlow starts.

# isort: split
import tensorflow as tf

from components.settings import MeshSettings
from keras_spatial import processes

_ENVIRONMENT = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "TPU_NAME", "TPU_WORKER_HOSTNAMES")
_NVIDIA_DRIVER = "/proc/driver/nvidia/version"


class AcceleratorError(RuntimeError):
    """The accelerators that were asked for are not visible."""


def demand(settings: MeshSettings) -> None:
    """Make sure that the GPUs that were asked for are visible, and hide all others.

    Call it before TensorFlow starts. TPUs are found when their slice is started, see `distribution`.

    Raises:
        AcceleratorError: if a GPU is missing. The message has what TensorFlow has found and where it has looked.
    """
    if settings.accelerator == "cpu":
        tf.config.set_visible_devices([], "GPU")
    if settings.accelerator in ("cpu", "tpu"):
        return
    found = tf.config.list_physical_devices("GPU")
    if settings.accelerator == "gpu" and not found:
        raise AcceleratorError(
            f"accelerator: gpu was asked for, but TensorFlow sees none. {seen()} Use the image with CUDA "
            "(EXTRAS=app,stores,cuda), give the pod GPUs (accelerators in the cluster file), and if the driver is "
            "mounted, as at /usr/local/nvidia/lib64 on GKE, name that folder in LD_LIBRARY_PATH. Or set "
            "accelerator=cpu."
        )
    chosen = chosen_gpus(found, settings.gpus)
    if settings.gpus:
        tf.config.set_visible_devices(chosen, "GPU")
    if settings.memory_growth and not chosen:
        warnings.warn("memory_growth: TensorFlow sees no GPU, so that this setting changes nothing.", stacklevel=2)
    if settings.memory_growth:
        for gpu in chosen:
            tf.config.experimental.set_memory_growth(gpu, True)


def chosen_gpus(found: Sequence[Any], numbers: Sequence[int]) -> list[Any]:
    """The GPUs with these numbers, or all of them if there are no numbers.

    Raises:
        AcceleratorError: if a number has no GPU.
    """
    missing = [number for number in numbers if number >= len(found)]
    if missing:
        raise AcceleratorError(
            f"gpus: expected numbers of GPUs that TensorFlow sees, from 0 to below {len(found)}. Received: "
            f"{list(numbers)}. {seen()}"
        )
    return [found[number] for number in numbers] if numbers else list(found)


def share(rank: int, count: int) -> None:
    """Make only this process's equal share of the machine's GPUs visible, if there are any.

    Args:
        rank: the number of the process, from 0.
        count: the number of processes of this machine.

    Raises:
        AcceleratorError: if the GPUs cannot be shared equally.
    """
    tf.config.set_visible_devices(part_of(tf.config.get_visible_devices("GPU"), rank, count), "GPU")


def part_of(gpus: Sequence[Any], rank: int, count: int) -> list[Any]:
    """The neighbouring GPUs that one of a machine's processes gets."""
    if len(gpus) % count:
        raise AcceleratorError(
            f"processes: expected a divisor of the {len(gpus)} visible GPUs, so that each process has its own. "
            f"Received: {count}"
        )
    own = len(gpus) // count
    return list(gpus[rank * own : (rank + 1) * own])


def distribution(settings: MeshSettings) -> ks.SpatialParallel:
    """The distribution over the devices that the settings ask for. On TPUs, this starts the slice.

    Raises:
        AcceleratorError: see `demand`.
        ValueError: if mesh and layout do not fit the devices.
    """
    if processes.current().count == 1:
        # The processes of a job have already done this, before they waited for each other.
        demand(settings)
    strategy = None
    if settings.accelerator == "tpu":
        try:
            strategy = ks.tpu_strategy(settings.mesh, tpu="local")
        except (tf.errors.OpError, RuntimeError) as error:
            why = str(error).partition("\n")[0]
            raise AcceleratorError(
                f"accelerator: tpu was asked for, but its slice cannot be started ({why}). {seen()} Run the step on a "
                "TPU node (accelerator: google.com/tpu in the cluster file), in an image whose TensorFlow is built for "
                "TPUs; see docs/guides/tpu.md."
            ) from error
    return ks.SpatialParallel(ks.device_mesh(settings.mesh), settings.layout, strategy=strategy)


def seen() -> str:
    """A line with the devices that TensorFlow has found, and with everything that decides where it looks."""
    build: dict[str, Any] = dict(tf.sysconfig.get_build_info())
    cuda = f"built for CUDA {build['cuda_version']}" if build.get("is_cuda_build") else "built without CUDA"
    driver = Path(_NVIDIA_DRIVER)
    kernel = driver.read_text(encoding="utf-8").splitlines()[0] if driver.is_file() else "none"
    files = sorted(p.name for pattern in ("nvidia[0-9]*", "accel*") for p in Path("/dev").glob(pattern))
    devices = [device.name for device in tf.config.list_physical_devices()]
    variables = ", ".join(f"{name}={os.environ[name]!r}" for name in _ENVIRONMENT if name in os.environ) or "none set"
    return (
        f"Received: TensorFlow {tf.__version__}, {cuda}; devices {devices}; NVIDIA driver {kernel}; device files "
        f"{files}; environment: {variables}."
    )
