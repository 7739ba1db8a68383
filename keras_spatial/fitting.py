"""`ks.partition_to_fit`: cut images into as few shards as will fit the given devices, which compute them in turn."""

import os
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from keras_spatial.conversion import partition
from keras_spatial.distribution import SpatialParallel
from keras_spatial.model import Model
from keras_spatial.planning import Plan, Room, free_space, host_memory, parse_size, plan, smallest_sharing
from keras_spatial.recomputation import all_segments, recompute


def partition_to_fit(
    model: keras.Model,
    memory: int | str,
    offload: str | os.PathLike | None = None,
    *,
    devices: Sequence[str] | None = None,
    batch_size: int = 1,
    training: bool = True,
    unsupported: str = "raise",
) -> tuple[Model, Plan]:
    """Partition a model into as few shards as fit the memory of the available devices, which compute them in turn.

    The shards that are not being computed wait in host memory, or in a file. If even that has too little room for a
    training step, layers are computed again in its backward pass. If the whole model fits a device, images are not cut.

    Args:
        model: any Keras model that can be partitioned. If it is to be trained, compile it first: the plan then counts
            its own optimizer, losses and metrics.
        memory: the memory of one device, in bytes or as a text such as "16GB". For a CPU it is the memory of the
            process.
        offload: a folder on a fast disk, for a file with the waiting shards. The shards of GPUs wait in host memory
            instead if there is room. Without a folder, the shards of CPUs wait within `memory`.
        devices: the devices that compute, such as `["gpu:0"]`; by default the first GPU, or else the CPU.
        batch_size: the number of images of a step.
        training: whether to train the model, or only to predict with it.
        unsupported: as for `ks.partition`.

    Returns:
        The partitioned model, and the plan of its step: the shards, the memory, and how much waits and is moved.

    Raises:
        NothingFits: a `ValueError`, if even 256 shards are too large for the device, or there is no room for the
            waiting shards.
        OffloadError: an `OSError`, if the folder cannot be written to.

    Example:

    ```python
    model = ks.models.UNet3D((128, 128, 128, 1), classes=3)
    spatial, planned = ks.partition_to_fit(model, "2GB", "./scratch", training=False)
    print(planned)
    ```
    """
    bytes_of_device = parse_size(memory)
    if devices is None:
        devices = ["gpu:0" if tf.config.list_physical_devices("GPU") else "cpu:0"]
    room = Room(
        bytes_of_device,
        devices,
        host_memory(),
        offload,
        0 if offload is None else free_space(offload),
    )
    found = smallest_sharing(
        model,
        room,
        recomputed_plan(model, batch_size, unsupported=unsupported),
        batch_size=batch_size,
        training=training,
        unsupported=unsupported,
    )
    spatial = partition(model, found.distribution, unsupported=unsupported)
    if found.recomputed:
        recompute(spatial, all_segments(spatial))
    return spatial, found.plan


def recomputed_plan(
    model: keras.Model, batch_size: int, *, unsupported: str = "raise"
) -> Callable[[SpatialParallel], Plan]:
    """A function that plans a training step on a given mesh, with all layers computed again in the backward pass."""

    def planned(distribution: SpatialParallel) -> Plan:
        spatial = partition(model, distribution, unsupported=unsupported)
        recompute(spatial, all_segments(spatial))
        return plan(spatial, distribution, batch_size)

    return planned
