"""As many shards as it takes for one device to be enough."""

import os

import keras
import tensorflow as tf

from keras_spatial.distribution import SpatialParallel
from keras_spatial.mesh import device_mesh
from keras_spatial.planning.search import smallest_mesh


def shared_distribution(
    model: keras.Model, memory: int, offload: str | os.PathLike, *, batch_size: int = 1, training: bool = False
) -> SpatialParallel:
    """The smallest mesh on one device of which each position fits into the device's memory.

    What `ks.plan` says of a position is more than its shards take where they are computed one after another, since
    what waits is not on the device.

    Args:
        model: any Keras model that can be partitioned.
        memory: bytes of the device.
        offload: where shards wait, "host" or a folder: see `ks.SpatialParallel`.
        batch_size: images per step.
        training: whether to train with it, or to predict.

    Raises:
        NothingFits: if no mesh of up to 256 positions is enough.
        OffloadError: if the folder cannot be written to.

    Example:

    ```python
    distribution = ks.planning.shared_distribution(model, 8 * 10**9, "/scratch")
    spatial = ks.partition(model, distribution)
    ```
    """
    found = smallest_mesh(model, memory, batch_size=batch_size, training=training)
    device = "gpu:0" if tf.config.list_physical_devices("GPU") else "cpu:0"
    return SpatialParallel(device_mesh(found.mesh, devices=[device]), found.layout, offload=offload)
