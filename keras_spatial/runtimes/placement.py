"""Mesh-TensorFlow on the devices of one process: several GPUs, or logical CPU devices."""

import contextlib
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import tensorflow as tf

from keras_spatial.mesh_tensorflow import PlacementMeshImpl, mtf
from keras_spatial.runtimes.base import Runtime, ShardOperations
from keras_spatial.runtimes.functions import static_sizes

# Profiles tell sums over devices from the layers' own operations by this name (`keras_spatial.profiling`).
REDUCE_SCOPE = "allreduce"
# Tensors with more elements than this are computed by every device for itself. Tensors that are written in place
# (`engine.halo.LARGE`) have far more.
_SMALL = 1 << 12


class Placement(ShardOperations, PlacementMeshImpl):
    """A mesh with one shard of every tensor on each device; TensorFlow's executor copies data between devices.

    It differs from `mtf.PlacementMeshImpl` in operations that cost graph nodes or memory: an all-reduce is one sum
    instead of an unrolled ring (1 instead of N² nodes), an imported tensor is cut into shards axis after axis, and
    processor coordinates are Python integers. A tensor that all devices read is one node: TensorFlow copies it once to
    each device on which something reads it.
    """

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self._known_zeros: dict[tuple, tf.Tensor] = {}

    @property
    def in_place(self) -> bool:
        return all((tf.DeviceSpec.from_string(device).device_type or "CPU").upper() == "CPU" for device in self.devices)

    def on_host(self) -> contextlib.AbstractContextManager:
        return host_of(self.devices)

    def slicewise(self, fn: Callable, *inputs: Any):
        """Apply a function to the shards on each device, and only once to small tensors that several CPU devices share.

        Large ones are left to each device, because what follows may write into them.
        """
        laid_out = mtf.convert_args_to_laid_out_tensors(inputs)
        count = len(self.devices)
        columns = [x.tensor_list if isinstance(x, self.LaidOutTensor) else [x] * count for x in laid_out]
        small = all(_is_small(value) for column in columns for value in column)
        if not (columns and self.in_place and small):
            return super().slicewise(fn, *laid_out)
        first: dict[tuple, int] = {}
        owners = [
            first.setdefault(tuple(map(_identity, given)), i) for i, given in enumerate(zip(*columns, strict=True))
        ]
        own = list(first.values())
        devices, arguments = [self.devices[i] for i in own], [[column[i] for i in own] for column in columns]
        found = dict(zip(own, mtf.parallel(devices, fn, *arguments), strict=True))
        results = [found[owner] for owner in owners]
        if isinstance(results[0], tuple):
            return tuple(self.LaidOutTensor(shards) for shards in mtf.transpose_list_of_lists(results))
        return self.LaidOutTensor(results)

    def allreduce(self, x, mesh_axes: Sequence[int], reduction_fn_string: str):
        reduce = {"SUM": tf.add_n, "MAX": lambda xs: tf.reduce_max(tf.stack(xs), axis=0)}[reduction_fn_string]

        def reduced(shards: list[tf.Tensor], devices: list[str]) -> list[tf.Tensor]:
            with tf.device(devices[0]), tf.name_scope(REDUCE_SCOPE):
                return [reduce(shards)] * len(devices)

        if all(self.shape[axis].size == 1 for axis in mesh_axes):
            return x.to_laid_out_tensor()
        return self._collective_with_groups(x, list(mesh_axes), reduced)

    def receive(self, x, mesh_axis: int, source_pcoord: Sequence[int | None]):
        """Receive a shard from one neighbour, or zeros. TensorFlow copies it to the device of the reading operation."""
        shards = x.to_laid_out_tensor().tensor_list
        received: list[Any] = [None] * len(shards)
        for group in mtf.processor_groups(self.shape, [mesh_axis]):
            for pnum, source in zip(group, source_pcoord, strict=True):
                received[pnum] = self._zeros(pnum, shards[pnum]) if source is None else shards[group[source]]
        return self.LaidOutTensor(received)

    def _zeros(self, pnum: int, like: tf.Tensor) -> tf.Tensor:
        """Zeros on a device. The halos from beyond the mesh of all layers with the same shapes are one tensor."""
        key = (tf.compat.v1.get_default_graph(), pnum, like.dtype, tuple(static_sizes(like.shape)))
        if key not in self._known_zeros:
            with tf.device(self.devices[pnum]):
                self._known_zeros[key] = tf.zeros_like(like)
        return self._known_zeros[key]

    def laid_out_pcoord(self, mesh_axis: int):
        coordinates = [mtf.pnum_to_processor_coordinates(self.shape, pnum) for pnum in range(self.size)]
        return self.LaidOutTensor([coordinate[mesh_axis] for coordinate in coordinates])

    def import_tf_tensor(self, x: mtf.Tensor, tf_x: tf.Tensor):
        layout = self.tensor_layout(x.shape)
        if layout.is_fully_replicated:
            return self.LaidOutTensor([tf_x] * self.size)
        pieces: dict[tuple[int, ...], tf.Tensor] = {(): tf_x}
        with self.on_host():
            for axis, mesh_axis in enumerate(layout.tensor_axis_to_mesh_axis):
                count = 1 if mesh_axis is None else self.shape[mesh_axis].size
                pieces = {
                    (*place, i): part
                    for place, piece in pieces.items()
                    for i, part in enumerate([piece] if count == 1 else _split(piece, count, axis))
                }
        slice_shape = self.slice_shape(x.shape)

        def piece_of(pnum: int) -> tf.Tensor:
            begin = self.slice_begin(x.shape, pnum)
            return pieces[tuple(b // max(s, 1) for b, s in zip(begin, slice_shape, strict=True))]

        shards = []
        for pnum, device in enumerate(self.devices):
            with tf.device(device):
                shards.append(tf.identity(piece_of(pnum)))
        return self.LaidOutTensor(shards)


class PlacementRuntime(Runtime):
    """The runtime for the devices of one process."""

    def mesh_impl(self) -> Placement:
        return Placement(self.shape, self.layout_rules, self.devices)

    def on_host(self) -> contextlib.AbstractContextManager:
        return host_of(self.devices)


def _identity(value: Any) -> Any:
    """A value that is equal for the same tensor, and for equal numbers and the like."""
    return value.ref() if isinstance(value, tf.Tensor) else value


def _is_small(value: Any) -> bool:
    """Whether a value is a small tensor, or something that can be compared."""
    if isinstance(value, tf.Tensor):
        return math.prod(static_sizes(value.shape)) <= _SMALL
    return isinstance(value, Hashable)


def host_of(devices: Sequence[str]) -> contextlib.AbstractContextManager:
    """The scope of host memory for GPUs; for CPUs, which use host memory anyway, the current scope."""
    first = tf.DeviceSpec.from_string(devices[0])
    if (first.device_type or "").upper() != "GPU":
        return contextlib.nullcontext()
    return tf.device(first.replace(device_type="CPU", device_index=0).to_string())


def _split(x: tf.Tensor, count: int, axis: int) -> list[tf.Tensor]:
    """As `tf.split`, which copies unless the axis is the first; no copy if all axes before it have size 1."""
    shape = static_sizes(x.shape)
    if axis == 0 or math.prod(shape[:axis]) != 1:
        return tf.split(x, count, axis)
    parts = tf.split(tf.reshape(x, shape[axis:]), count, 0)
    return [tf.reshape(part, [*shape[:axis], *static_sizes(part.shape)]) for part in parts]
