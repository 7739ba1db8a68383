"""Choose the runtime that a mesh of devices needs."""

import os
from collections.abc import Mapping

import keras
import tensorflow as tf

from keras_spatial import processes
from keras_spatial.runtimes import nccl
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
    """Choose the runtime for a mesh of devices.

    Args:
        device_mesh: the mesh of devices.
        layout: the mesh axis of each sharded image axis.
        strategy: the strategy of a TPU slice, or None.
        offload: where shards are kept between operations; see `SpatialParallel`.

    Raises:
        ValueError: if a mesh of TPU cores has no strategy, another mesh has one, or positions share devices where they
            cannot, or the environment asks for sums of an unknown kind.
    """
    names = list(device_mesh.devices.flatten())
    shared = len(set(names)) < len(names)
    if strategy is not None or any("tpu" in str(device).lower() for device in names):
        if shared or offload is not None:
            raise ValueError(
                "Positions of a mesh cannot share TPU cores, and TPU cores cannot offload shards. "
                f"Received: {len(set(names))} devices for {len(names)} positions, offload={offload!r}"
            )
        return TpuRuntime(device_mesh, layout, strategy)  # pyright: ignore[reportArgumentType]
    job = processes.current()
    if shared or offload is not None:
        if job.count > 1:
            raise ValueError(
                "Positions of a mesh can share devices only in a single process. Received: a job of "
                f"{job.count} processes, {len(set(names))} devices for {len(names)} positions, offload={offload!r}"
            )
        return StreamingRuntime(device_mesh, layout, "host" if offload is None else offload)
    if job.count > 1:
        return CollectiveRuntime(device_mesh, layout, job)
    sums = os.environ.get(nccl.VARIABLE, "copies")
    if sums not in ("copies", "nccl"):
        raise ValueError(f"{nccl.VARIABLE}: expected 'copies' or 'nccl'. Received: {sums!r}")
    if sums == "nccl" and all("gpu" in str(device).lower() for device in names):
        return nccl.NcclRuntime(device_mesh, layout)
    return PlacementRuntime(device_mesh, layout)
