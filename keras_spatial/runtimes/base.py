"""`Runtime`: all that differs between one process, many processes, TPUs and planning."""

import abc
import contextlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_spatial.mesh_tensorflow import mtf


class Runtime(abc.ABC):
    """Where shards live and how a step runs. One belongs to each `SpatialParallel`.

    Args:
        device_mesh: the devices.
        layout: image axis to mesh axis.
    """

    # Whether this process writes files and shows progress.
    writes = True

    def __init__(self, device_mesh: keras.distribution.DeviceMesh, layout: Mapping[str, str]):
        self.device_mesh = device_mesh
        self.layout = dict(layout)

    @property
    def shape(self) -> mtf.Shape:
        mesh = self.device_mesh
        return mtf.Shape([mtf.Dimension(n, s) for n, s in zip(mesh.axis_names, mesh.shape, strict=True)])

    @property
    def layout_rules(self) -> mtf.LayoutRules:
        return mtf.LayoutRules(self.layout.items())

    @property
    def devices(self) -> list[str]:
        return list(self.device_mesh.devices.flatten())

    @abc.abstractmethod
    def mesh_impl(self) -> mtf.MeshImpl:
        """A fresh mesh implementation with the operations of `ShardOperations`, to lower one graph with."""

    def local_coordinates(self) -> list[dict[str, int]]:
        """For each device of this process, in the order of the mesh, its index along each mesh axis."""
        names = self.device_mesh.axis_names
        impl = self.mesh_impl()
        along = [impl.laid_out_pcoord(axis).tensor_list for axis in range(len(names))]
        return [dict(zip(names, place, strict=True)) for place in zip(*along, strict=True)]

    # A model's life.

    def scope(self) -> contextlib.AbstractContextManager:
        """The scope in which variables are made."""
        return contextlib.nullcontext()

    def check_optimizer(self, optimizer: Any) -> None:  # noqa: B027  There is nothing to check by default.
        """Raise a `ValueError` if an optimizer cannot be used here."""

    def fit_arguments(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments of `fit` and the like, as this process takes them."""
        return arguments

    def synchronize(self, model: keras.Model) -> None:  # noqa: B027  One process agrees with itself.
        """Before anything is computed: make sure that all processes hold the same model, with the same weights."""

    def agree_on_batch(self, what: str, batch: Any) -> None:  # noqa: B027  One process agrees with itself.
        """Make sure that all processes were given the same batch; `what` names it in messages."""

    def before_step(self, build: Callable[[], None]) -> None:  # noqa: B027  A step makes its variables itself.
        """Called before each step with a function that makes the variables of the optimizer and the metrics."""

    def compiled(self, step: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """A step as one TensorFlow function."""
        return tf.function(step, autograph=False)

    def raising(self) -> contextlib.AbstractContextManager:
        """Around a call: one follows another where it must, and errors come as they were raised.

        `compiled` does it by itself.
        """
        return contextlib.nullcontext()

    def taken(self, value: tf.Tensor) -> Callable[[], np.ndarray]:
        """Reads what `ShardOperations.hand_out` gave, after the step."""
        array = value.numpy()  # pyright: ignore[reportAttributeAccessIssue]
        return lambda: array

    def shared_gradients(self, gradients: Sequence[tf.Tensor | None]) -> list[tf.Tensor | None]:
        """What the optimizer is given, of gradients that are sums over the mesh already."""
        return list(gradients)

    def check_local_blocks(self, name: str) -> None:  # noqa: B027  They can, by default.
        """Raise a `ValueError` if outputs cannot be handed out shard by shard."""


class ShardOperations:
    """What a mesh implementation of this package has beside Mesh-TensorFlow's own operations."""

    # Mesh-TensorFlow's own, which the class beside this one brings.
    laid_out_pcoord: Callable[[int], Any]
    laid_out_pnum: Callable[[], Any]
    LaidOutTensor: Any

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)

    def variants(self, mesh_axes: Sequence[int], key_of: Callable[[tuple[int, ...]], Hashable]):
        """For each shard a value that depends on its coordinates along some mesh axes, as a laid-out list."""
        along = [self.laid_out_pcoord(axis).tensor_list for axis in mesh_axes]
        count = len(self.laid_out_pnum().tensor_list)
        return self.LaidOutTensor([key_of(tuple(column[i] for column in along)) for i in range(count)])

    def hand_out(self, values: Sequence[Any], sizes: Sequence[Sequence[int]]) -> list[tf.Tensor]:
        """The first elements of some shards, for the caller of the step, who reads them by `Runtime.taken`."""
        parts = []
        for value, size in zip(values, sizes, strict=True):
            with tf.device(value.device):
                parts.append(tf.slice(value, [0] * len(size), size))
        return parts

    def reduce_together(self, tensors: Sequence) -> None:
        """Carry out the pending all-reduces of many small tensors, with fewer messages where messages cost."""


def all_coordinates(shape: mtf.Shape) -> list[tuple[int, ...]]:
    """The coordinates of every processor of a mesh, in order."""
    return [tuple(int(i) for i in place) for place in np.ndindex(*[dimension.size for dimension in shape.dims])]
