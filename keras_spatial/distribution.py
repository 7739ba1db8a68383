"""`SpatialParallel`: which image axis is sharded over which mesh axis."""

import contextlib
import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_spatial.keras_private import Distribution
from keras_spatial.layout import parse_layout
from keras_spatial.runtimes.base import Runtime
from keras_spatial.runtimes.choice import choose_runtime
from keras_spatial.runtimes.rehearsal import ProgramRehearsal, RehearsalRuntime
from keras_spatial.runtimes.streaming import StreamingRuntime


class SpatialParallel(Distribution):
    """Shards images, and batches of images, over a mesh of devices.

    The axes of a channels-last image tensor are named `batch, x, y, z` (2D: `batch, x, y`; 1D: `batch, x`). Weights
    are replicated. Along a mesh axis that the layout does not name, all devices compute the same.

    Args:
        device_mesh: a `keras.distribution.DeviceMesh`, as `ks.device_mesh` makes it.
        layout: which image axis is sharded over which mesh axis, such as `"batch:cores, x:rows, y:columns"`, or a dict.
        strategy: the result of `ks.tpu_strategy`, for a mesh of TPU cores. Make and compile models inside `scope()`
            then. This has not been run on TPU hardware.
        offload: for a mesh whose positions share devices, where to keep the shards that are not being computed:
            `"host"` for host memory, the default for such a mesh, or a folder with enough space, which is made if it
            does not exist; a text then needs a separator, as in `"./scratch"`. The operations of a step then run one
            after another, and each of them one shard after another, with the same results; the device needs memory
            for only a few shards.

    Raises:
        ValueError: if the layout names an unknown image axis or mesh axis or uses a mesh axis twice, if a mesh of TPU
            cores has no strategy, if positions would share devices in several processes or on TPUs, or if `offload` is
            neither `"host"` nor a path.
        OffloadError: an `OSError`, if `offload` is a folder that cannot be written to.

    Example:

    ```python
    distribution = ks.SpatialParallel(ks.device_mesh("rows:2, columns:2"), "x:rows, y:columns")
    with distribution.scope():
        model = ks.models.UNet3D((64, 64, 64, 1), classes=3)
    ```
    """

    def __init__(
        self,
        device_mesh: keras.distribution.DeviceMesh,
        layout: str | Mapping[str, str] | Sequence[tuple[str, str]],
        strategy: tf.distribute.Strategy | None = None,
        *,
        offload: str | os.PathLike | None = None,
    ):
        if not isinstance(device_mesh, keras.distribution.DeviceMesh):
            raise ValueError(
                f"device_mesh must be a DeviceMesh, made by ks.device_mesh(...). Received: {device_mesh!r}"
            )
        axes = parse_layout(layout, list(device_mesh.axis_names))
        super().__init__(device_mesh, batch_dim_name=axes.get("batch"), auto_shard_dataset=False)
        self._layout = axes
        self.strategy: tf.distribute.Strategy | None = strategy
        self._offloads = offload is not None
        self._runtime = choose_runtime(device_mesh, self._layout, strategy, offload)

    @property
    def runtime(self) -> Runtime:
        """The runtime, which decides where shards live and how steps run."""
        return self._runtime

    def rehearsed(self) -> "SpatialParallel":
        """The same mesh and layout for planning: nothing is run, and no device is needed.

        With `offload` the positions share devices in the plan, too. Without it each has one of its own, whatever the
        devices are called, since they need not exist.
        """
        result = copy.copy(self)
        if self._offloads and isinstance(self._runtime, StreamingRuntime):
            result._runtime = ProgramRehearsal(self._runtime)
        else:
            result._runtime = RehearsalRuntime(self.device_mesh, self._layout)
        return result

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Make this distribution current; on TPUs also its strategy, whose variables all replicas share."""
        with self.runtime.scope(), super().scope():
            yield

    @property
    def layout(self) -> dict[str, str]:
        """The mesh axis of each sharded image axis, such as `{"x": "rows"}`."""
        return dict(self._layout)

    @property
    def num_model_replicas(self) -> int:
        return 1

    def shards(self, axis: str) -> int:
        """The number of shards along an image axis, such as `"x"`; 1 if the layout does not shard it."""
        if axis not in self._layout:
            return 1
        names = list(self.device_mesh.axis_names)
        return self.device_mesh.shape[names.index(self._layout[axis])]

    # Keras asks these methods for its own layouts. There are none: variables are replicated, and `ks.Model` shards
    # images.

    def get_data_layout(self, data_shape: Any) -> None:
        return None

    def get_variable_layout(self, variable: Any) -> None:
        return None

    def get_tensor_layout(self, path: str) -> None:
        return None

    def distribute_dataset(self, dataset: Any) -> Any:
        return dataset

    def __repr__(self) -> str:
        mesh = ", ".join(
            f"{name}:{size}" for name, size in zip(self.device_mesh.axis_names, self.device_mesh.shape, strict=True)
        )
        layout = ", ".join(f"{axis}:{mesh_axis}" for axis, mesh_axis in self._layout.items())
        return f"<SpatialParallel mesh='{mesh}' layout='{layout}'>"


def check_distribution(distribution: Any) -> SpatialParallel:
    """Return the distribution; raise a `ValueError` if it is not a `SpatialParallel`."""
    if not isinstance(distribution, SpatialParallel):
        raise ValueError(f"distribution must be a ks.SpatialParallel. Received: {distribution!r}")
    return distribution


def current_distribution() -> SpatialParallel | None:
    """The distribution in force, if it is one of this package."""
    current = keras.distribution.distribution()
    return current if isinstance(current, SpatialParallel) else None
