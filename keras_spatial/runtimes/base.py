"""`Runtime`: everything that differs between one process, several processes, TPUs, streaming and planning."""

import abc
import contextlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_spatial.mesh_tensorflow import mtf

Place = tuple[int, tuple[slice, ...]]
"""Which of this process's shards holds a block of a tensor, and where the block lies in it."""


def sizes_of(index: Sequence[slice]) -> list[int]:
    """The number of elements of a block along each axis."""
    return [along.stop - along.start for along in index]


class Runtime(abc.ABC):
    """Decides where shards live and how a step runs. Each `SpatialParallel` has one.

    Args:
        device_mesh: the mesh of devices.
        layout: the mesh axis of each sharded image axis.
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
        """Make a mesh implementation with the operations of `ShardOperations`, which lowers one graph."""

    def local_coordinates(self) -> list[dict[str, int]]:
        """The index along each mesh axis of each device of this process, in the order of the mesh."""
        names = self.device_mesh.axis_names
        impl = self.mesh_impl()
        along = [impl.laid_out_pcoord(axis).tensor_list for axis in range(len(names))]
        return [dict(zip(names, place, strict=True)) for place in zip(*along, strict=True)]

    # A model's life.

    def scope(self) -> contextlib.AbstractContextManager:
        """The scope in which variables must be made."""
        return contextlib.nullcontext()

    def check_optimizer(self, optimizer: Any) -> None:  # noqa: B027  There is nothing to check by default.
        """Raise a `ValueError` if an optimizer cannot be used here."""

    def fit_arguments(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments of `fit`, `evaluate` or `predict`, adapted to this process."""
        return arguments

    def synchronize(self, model: keras.Model) -> None:  # noqa: B027  One process agrees with itself.
        """Check that all processes hold the same model, and give them the same weights."""

    def agree_on_batch(self, what: str, batch: Any) -> None:  # noqa: B027  One process agrees with itself.
        """Check that all processes were given the same batch; `what` names it in messages."""

    def before_step(self, build: Callable[[], None], own_step: bool) -> None:
        """Prepare a step.

        TensorFlow would trace a step that makes variables twice, and keep both graphs.

        Args:
            build: a function that makes the variables of the optimizer, the losses and the metrics.
            own_step: whether the step is a user's own, whose losses and metrics may be called with anything.
        """
        if not own_step:
            build()

    def on_host(self) -> contextlib.AbstractContextManager:
        """The scope in which whole images are prepared before they are cut. With GPUs it is host memory, because
        TensorFlow would place such operations on the first GPU, which may have no room for a whole image.
        """
        return contextlib.nullcontext()

    def compiled(self, step: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """A step as one TensorFlow function."""
        return tf.function(step, autograph=False)

    def raising(self) -> contextlib.AbstractContextManager:
        """A scope around a call, in which calls wait for one another if they must, and errors are raised as they
        occurred.

        The functions of `compiled` do this by themselves.
        """
        return contextlib.nullcontext()

    def compiled_blocks(self, step: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """A step that returns what `ShardOperations.hand_out` does, as one TensorFlow function."""
        return tf.function(step, autograph=False)

    def handed_out(self, values: Sequence[Any], places: Sequence[Place]) -> list[Callable[[], np.ndarray]]:
        """Functions that read, after the step, the shards that `ShardOperations.hand_out` returned."""
        arrays = [value.numpy() for value in values]
        return [lambda array=array: array for array in arrays]

    def shared_gradients(self, gradients: Sequence[tf.Tensor | None]) -> list[tf.Tensor | None]:
        """The gradients for the optimizer, made from gradients that are sums over the mesh already."""
        return list(gradients)


class ShardOperations:
    """The operations that a mesh implementation of this package has besides those of Mesh-TensorFlow."""

    # Attributes of Mesh-TensorFlow's class, which is the other base class of every implementation.
    laid_out_pcoord: Callable[[int], Any]
    laid_out_pnum: Callable[[], Any]
    LaidOutTensor: Any

    # Whether thin tensors are written into large ones in place, with operations that only CPUs have.
    in_place = False
    # Whether TensorFlow's own operation resizes images here, with its gradient.
    resizes = True

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)

    def variants(self, mesh_axes: Sequence[int], key_of: Callable[[tuple[int, ...]], Hashable]):
        """A laid-out list with a value for each shard that depends on its coordinates along some mesh axes."""
        along = [self.laid_out_pcoord(axis).tensor_list for axis in mesh_axes]
        count = len(self.laid_out_pnum().tensor_list)
        return self.LaidOutTensor([key_of(tuple(column[i] for column in along)) for i in range(count)])

    def on_host(self) -> contextlib.AbstractContextManager:
        """As `Runtime.on_host`."""
        return contextlib.nullcontext()

    def own_numbers(self) -> list[int]:
        """The numbers of the mesh positions whose shards this process holds."""
        return self.laid_out_pnum().tensor_list

    def hand_out(self, shards: Sequence[Any], places: Sequence[Place]) -> list[tf.Tensor]:
        """Return some shards of a tensor to the caller of the step, who reads them with `Runtime.handed_out`.

        Args:
            shards: the shards of this process.
            places: for each shard that is wanted, its index in `own_numbers` and its place in the tensor.
        """
        parts = []
        for position, index in places:
            with tf.device(shards[position].device):
                parts.append(tf.slice(shards[position], [0] * len(index), sizes_of(index)))
        return parts

    def reduce_together(self, tensors: Sequence) -> None:
        """Carry out the pending all-reduces of many small tensors, together where messages are expensive."""


def all_coordinates(shape: mtf.Shape) -> list[tuple[int, ...]]:
    """The coordinates of every processor of a mesh, in the order of their numbers."""
    return [tuple(int(i) for i in place) for place in np.ndindex(*[dimension.size for dimension in shape.dims])]
