"""Which axis of the image is split over which axis of the mesh."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.distribution.distribution_lib import Distribution  # Not exported; the base of ModelParallel.

from keras_spatial import processes
from keras_spatial.mesh import parse_pairs
from keras_spatial.mtf.compatibility import mtf
from keras_spatial.runtimes import tpu
from keras_spatial.runtimes.collective import CollectiveMesh
from keras_spatial.runtimes.placement import Placement

AXIS_NAMES = ("batch", "x", "y", "z")


class SpatialParallel(Distribution):
    """Splits images, and batches of them, over a mesh of devices.

    The axes of a channels-last image tensor are named `batch, x, y, z` (2D: `batch, x, y`; 1D: `batch, x`). Weights
    are replicated. A mesh axis that the layout does not name computes the same on each of its devices.

    Args:
        device_mesh: a `keras.distribution.DeviceMesh`, see `ks.device_mesh`.
        layout: which axis goes to which mesh axis, such as `"batch:cores, x:rows, y:columns"`, or a dict.
        strategy: for a mesh of TPU cores, from `ks.tpu_strategy`. Make and compile models inside `scope()` then. Not
            run on hardware.

    Raises:
        ValueError: if the layout names an unknown image axis or mesh axis, or uses a mesh axis twice; or if a mesh of
            TPU cores lacks its strategy.

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
    ):
        if not isinstance(device_mesh, keras.distribution.DeviceMesh):
            raise ValueError(
                f"device_mesh must be a DeviceMesh, made by ks.device_mesh(...). Received: {device_mesh!r}"
            )
        pairs = parse_pairs(layout, "layout")
        for axis, mesh_axis in pairs:
            if axis not in AXIS_NAMES:
                raise ValueError(f"A layout maps the axes {', '.join(AXIS_NAMES)}. Received: '{axis}' in {layout!r}")
            if mesh_axis not in device_mesh.axis_names:
                raise ValueError(
                    f"The layout maps '{axis}' to '{mesh_axis}', but the mesh has the axes "
                    f"{list(device_mesh.axis_names)}. Received: layout={layout!r}"
                )
        mesh_axes = [mesh_axis for _, mesh_axis in pairs]
        if len(set(mesh_axes)) != len(mesh_axes):
            raise ValueError(f"A layout may use every mesh axis only once. Received: {layout!r}")
        super().__init__(device_mesh, batch_dim_name=dict(pairs).get("batch"), auto_shard_dataset=False)
        self._layout = dict(pairs)
        self.strategy: tf.distribute.Strategy | None = strategy
        if strategy is not None:
            tpu.check_strategy(strategy, device_mesh.devices.size)
        elif any("tpu" in str(device).lower() for device in device_mesh.devices.flatten()):
            raise ValueError("A mesh of TPU cores needs strategy=ks.tpu_strategy(...). Received: strategy=None")

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Make the distribution current; on TPUs also the strategy, whose variables all replicas share."""
        with self.strategy.scope() if self.strategy is not None else contextlib.nullcontext(), super().scope():
            yield

    @property
    def layout(self) -> dict[str, str]:
        """Image axis to mesh axis, such as `{"x": "rows"}`."""
        return dict(self._layout)

    @property
    def num_model_replicas(self) -> int:
        return 1

    def blocks(self, axis: str) -> int:
        """Into how many blocks an axis, named as in the layout, is split: 1 where the layout leaves it whole."""
        if axis not in self._layout:
            return 1
        names = list(self.device_mesh.axis_names)
        return self.device_mesh.shape[names.index(self._layout[axis])]

    def mesh_impl(self) -> mtf.MeshImpl:
        """A fresh Mesh-TensorFlow mesh implementation, to lower one graph with."""
        shape = mtf.Shape(
            [mtf.Dimension(n, s) for n, s in zip(self.device_mesh.axis_names, self.device_mesh.shape, strict=True)]
        )
        layout, devices = mtf.LayoutRules(self._layout.items()), list(self.device_mesh.devices.flatten())
        if self.strategy is not None:
            return tpu.TpuMesh(shape, layout)
        job = processes.current()
        if job.count > 1:
            return CollectiveMesh(shape, layout, devices, job)
        return Placement(shape, layout, devices)

    def local_coordinates(self) -> list[dict[str, int]]:
        """Of each device of this process, in the order of the mesh: its index along each mesh axis."""
        names = self.device_mesh.axis_names
        if self.strategy is not None:
            # One process has all cores, and each finds out its place when it runs.
            return [dict(zip(names, place, strict=True)) for place in np.ndindex(*self.device_mesh.shape)]
        impl = self.mesh_impl()
        along = [impl.laid_out_pcoord(axis).tensor_list for axis in range(len(names))]
        return [dict(zip(names, place, strict=True)) for place in zip(*along, strict=True)]

    # Keras asks these for layouts of its own; the variables stay whole, and the images are split by `ks.Model`.

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
