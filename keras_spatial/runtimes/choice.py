"""Which runtime a mesh of devices needs."""

import os
from collections.abc import Mapping

import keras
import tensorflow as tf

from keras_spatial import processes
from keras_spatial.runtimes.base import Runtime
from keras_spatial.runtimes.collective import CollectiveRuntime
from keras_spatial.runtimes.placement import PlacementRuntime
from keras_spatial.runtimes.streaming import StreamingRuntime
from keras_spatial.runtimes.tpu import TpuRuntime


def choose_runtime(
    device_mesh: keras.distribution.DeviceMesh,
    layout: Mapping[str, str],
    strategy: tf.distribute.Strategy | None,
    offload: str | os.PathLike | None = None,
) -> Runtime:
    """The runtime for some devices.

    Args:
        device_mesh: the devices.
        layout: image axis to mesh axis.
        strategy: that of a TPU slice.
        offload: where shards are kept between operations, see `SpatialParallel`.

    Raises:
        ValueError: if a mesh of TPU cores lacks its strategy, or another mesh has one; or if shards are to share
            devices where they cannot.
    """
    names = list(device_mesh.devices.flatten())
    shared = len(set(names)) < len(names)
    if strategy is not None or any("tpu" in str(device).lower() for device in names):
        if shared or offload is not None:
            raise ValueError(
                "Positions of a mesh share no TPU cores, and nothing is offloaded from them: a TPU's program runs by "
                f"itself. Received: {len(set(names))} devices for {len(names)} positions, offload={offload!r}"
            )
        return TpuRuntime(device_mesh, layout, strategy)  # pyright: ignore[reportArgumentType]
    job = processes.current()
    if shared or offload is not None:
        if job.count > 1:
            raise ValueError(
                "Positions of a mesh share devices in one process alone. Received: a job of "
                f"{job.count} processes, {len(set(names))} devices for {len(names)} positions, offload={offload!r}"
            )
        return StreamingRuntime(device_mesh, layout, "host" if offload is None else offload)
    if job.count > 1:
        return CollectiveRuntime(device_mesh, layout, job)
    return PlacementRuntime(device_mesh, layout)
