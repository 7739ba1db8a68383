"""Mesh-TensorFlow over several processes: each lowers only its own shards, and TF's collectives connect them.

All processes build the same Mesh-TF graph, so they make the same messages in the same order; the keys of messages are
numbered in that order and need no negotiation. Data that move between devices of the same process are plain copies.
"""

import contextlib
import itertools
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_spatial.mesh_tensorflow import mtf
from keras_spatial.processes import Processes
from keras_spatial.runtimes.base import Runtime
from keras_spatial.runtimes.buckets import reduce_together
from keras_spatial.runtimes.functions import static_sizes
from keras_spatial.runtimes.placement import Placement, host_of
from keras_spatial.runtimes.synchronize import callbacks_without_files, facts_of, state_of

# Keys must be unique among all graphs of a process; all processes trace the same functions in the same order.
_instances = itertools.count(1)


class CollectiveMesh(Placement):
    """A mesh with one shard of every tensor on each device of this process.

    Args:
        shape: the shape of the mesh.
        layout: Mesh-TF layout rules.
        devices: the full names of all devices of the mesh, in all processes, in the order of processors.
        processes: the processes of this job.
    """

    def __init__(self, shape: mtf.Shape, layout: mtf.LayoutRules, devices: Sequence[str], processes: Processes):
        self.processes = processes
        self.all_devices = list(devices)
        self.owners = [processes.rank_of(device) for device in devices]
        self.local = [pnum for pnum, owner in enumerate(self.owners) if owner == processes.rank]
        self._last: list[tf.Operation] = []
        super().__init__(shape, layout, [devices[pnum] for pnum in self.local])

    # Shards: laid-out lists have the shards of this process, in the order of `local`.

    def laid_out_pnum(self):
        return self.LaidOutTensor(list(self.local))

    def laid_out_pcoord(self, mesh_axis: int):
        return self.LaidOutTensor([self._coordinates(pnum)[mesh_axis] for pnum in self.local])

    def import_tf_tensor(self, x: mtf.Tensor, tf_x: tf.Tensor):
        shape = self.slice_shape(x.shape)
        if list(shape) == static_sizes(tf_x.shape):
            return self.LaidOutTensor([tf_x] * len(self.local))
        shards = []
        for pnum, device in zip(self.local, self.devices, strict=True):
            with self.on_host():
                part = tf.slice(tf_x, self.slice_begin(x.shape, pnum), shape)
            with tf.device(device):
                shards.append(tf.identity(part))
        return self.LaidOutTensor(shards)

    def export_to_tf_tensor(self, x: mtf.Tensor, laid_out_x) -> tf.Tensor:
        """The whole tensor, in every process. A replicated tensor needs no messages."""
        shards = laid_out_x.to_laid_out_tensor().tensor_list
        if self.tensor_layout(x).is_fully_replicated:
            return shards[0]
        with tf.device(self.devices[0]):
            mine = tf.stack(shards)
            dtype = mine.dtype
            if dtype == tf.bool:
                mine = tf.cast(mine, tf.int8)
            ranks = list(range(self.processes.count))
            everyone = self._gather(mine, ranks)
            # The runtime chooses the order of the members of a group, so their numbers are gathered too.
            numbers = self._gather(tf.constant(self.local, tf.int32), ranks)
            ordered = tf.unstack(tf.gather(everyone, tf.argsort(numbers)), self.size)
            whole = self.combine_slices(ordered, x.shape, device=self.devices[0])
            return tf.cast(whole, dtype)

    # Messages.

    def reduce_together(self, tensors: Sequence) -> None:
        reduce_together(self, tensors)

    def allreduce(self, x, mesh_axes: Sequence[int], reduction_fn_string: str):
        if all(self.shape[axis].size == 1 for axis in mesh_axes):
            return x.to_laid_out_tensor()
        shards = dict(zip(self.local, x.to_laid_out_tensor().tensor_list, strict=True))
        results: dict[int, tf.Tensor] = {}
        for group in self._groups(mesh_axes):
            mine = [pnum for pnum in group if pnum in shards]
            leaders = self._leaders(group)
            key = next(_instances) if len(leaders) > 1 else None
            if not mine:
                continue
            with tf.device(self.all_devices[mine[0]]):
                total = _reduce([shards[pnum] for pnum in mine], reduction_fn_string)
                if key is not None:
                    total = self._reduce_over(total, leaders, key, reduction_fn_string)
            results |= dict.fromkeys(mine, total)
        return self.LaidOutTensor([results[pnum] for pnum in self.local])

    def receive(self, x, mesh_axis: int, source_pcoord: Sequence[int | None]):
        """Receive a shard from one neighbour, or zeros: by a copy within a process, by a message between processes."""
        shards = dict(zip(self.local, x.to_laid_out_tensor().tensor_list, strict=True))
        sends: list[tf.Tensor] = []
        received: dict[int, tf.Tensor] = {}
        for group in self._groups([mesh_axis]):
            for pnum, source in zip(group, source_pcoord, strict=True):
                if source is None:
                    continue
                origin = group[source]
                if self.owners[origin] == self.owners[pnum]:
                    if pnum in shards:
                        received[pnum] = shards[origin]
                    continue
                key = next(_instances)  # Every process must count it, even if it takes no part in this message.
                if origin in shards:
                    sends.append(self._send(shards[origin], origin, pnum, key))
                if pnum in shards:
                    received[pnum] = self._receive_from(shards[pnum], origin, pnum, key)
        results = []
        # Nothing reads the result of a send, so it would be pruned from the graph unless the results depended on it.
        with tf.control_dependencies(sends):
            for pnum, device in zip(self.local, self.devices, strict=True):
                with tf.device(device):
                    value = received.get(pnum)
                    results.append(tf.zeros_like(shards[pnum]) if value is None else tf.identity(value))
        return self.LaidOutTensor(results)

    def allconcat(self, x, mesh_axis, concat_axis):
        raise NotImplementedError("keras_spatial gathers by all-reduce: see engine.reshard.")

    def alltoall(self, x, mesh_axis, split_axis, concat_axis):
        raise NotImplementedError("keras_spatial changes layouts by halo exchange: see engine.reshard.")

    # TensorFlow's collectives.

    def _send(self, value: tf.Tensor, origin: int, target: int, key: int) -> tf.Tensor:
        with tf.device(self.all_devices[origin]):
            return self._ordered(
                lambda: tf.raw_ops.CollectiveBcastSendV2(input=value, **self._pair(origin, target, key))
            )

    def _receive_from(self, like: tf.Tensor, origin: int, target: int, key: int) -> tf.Tensor:
        with tf.device(self.all_devices[target]):
            result = self._ordered(
                lambda: tf.raw_ops.CollectiveBcastRecvV2(
                    T=like.dtype, shape=like.shape.as_list(), **self._pair(origin, target, key)
                )
            )
        return tf.ensure_shape(result, like.shape)

    def _pair(self, origin: int, target: int, key: int) -> dict:
        group = sorted([origin, target])
        return {
            "group_size": 2,
            "group_key": self._group_key(group),
            "instance_key": key,
            "communication_hint": self.processes.communication,
            "timeout_seconds": self.processes.timeout,
        }

    def _reduce_over(self, value: tf.Tensor, leaders: Sequence[int], key: int, reduction: str) -> tf.Tensor:
        result = self._ordered(
            lambda: tf.raw_ops.CollectiveReduceV2(
                input=value,
                group_size=len(leaders),
                group_key=self._group_key(leaders),
                instance_key=key,
                ordering_token=[],
                merge_op={"SUM": "Add", "MAX": "Max"}[reduction],
                final_op="Id",
                communication_hint=self.processes.communication,
                timeout_seconds=self.processes.timeout,
            )
        )
        return tf.ensure_shape(result, value.shape)

    def _gather(self, value: tf.Tensor, ranks: Sequence[int]) -> tf.Tensor:
        leaders = [self.owners.index(rank) for rank in ranks]
        result = self._ordered(
            lambda: tf.raw_ops.CollectiveGatherV2(
                input=value,
                group_size=len(leaders),
                group_key=self._group_key(leaders),
                instance_key=next(_instances),
                ordering_token=[],
                communication_hint=self.processes.communication,
                timeout_seconds=self.processes.timeout,
            )
        )
        shape = static_sizes(value.shape)
        return tf.ensure_shape(result, [len(ranks) * shape[0], *shape[1:]])

    def _ordered(self, make: Callable[[], tf.Tensor]) -> tf.Tensor:
        """Make a message. With NCCL it follows the previous one, because NCCL needs the same order in all processes."""
        if self.processes.communication != "nccl":
            return make()
        with tf.control_dependencies(self._last):
            result = make()
        self._last = [result.op]
        return result

    def _groups(self, mesh_axes: Sequence[int]) -> list[list[int]]:
        return mtf.processor_groups(self.shape, list(mesh_axes))

    def _leaders(self, group: Sequence[int]) -> list[int]:
        """The first processor of each process that takes part."""
        first: dict[int, int] = {}
        for pnum in group:
            first.setdefault(self.owners[pnum], pnum)
        return sorted(first.values())

    def _group_key(self, members: Sequence[int]) -> int:
        names = ",".join(self.all_devices[pnum] for pnum in members)
        return 1 + zlib.crc32(names.encode()) % (2**31 - 2)

    def _coordinates(self, pnum: int) -> list[int]:
        return mtf.pnum_to_processor_coordinates(self.shape, pnum)


class CollectiveRuntime(Runtime):
    """The runtime for the devices of several processes.

    Args:
        device_mesh, layout: as for `Runtime`.
        processes: the processes of this job.
    """

    def __init__(self, device_mesh: keras.distribution.DeviceMesh, layout: Mapping[str, str], processes: Processes):
        super().__init__(device_mesh, layout)
        self.processes = processes
        self.writes = processes.is_first

    def mesh_impl(self) -> CollectiveMesh:
        return CollectiveMesh(self.shape, self.layout_rules, self.devices, self.processes)

    def on_host(self) -> contextlib.AbstractContextManager:
        return host_of([device for device in self.devices if self.processes.rank_of(device) == self.processes.rank])

    def fit_arguments(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if self.writes:
            return arguments
        return {**arguments, "verbose": 0, "callbacks": callbacks_without_files(arguments.get("callbacks"))}

    def synchronize(self, model: keras.Model) -> None:
        """Compare the model in all processes and share the weights of the first.

        Raises:
            RuntimeError: in all processes, within their timeout, naming what differs.
        """
        variables = state_of(model)
        self.processes.agree("model", facts_of(model, variables))
        if variables:
            broadcast_variables(variables, self.processes)

    def agree_on_batch(self, what: str, batch: Any) -> None:
        """Compare a batch in all processes.

        Raises:
            RuntimeError: in all processes, naming the tensor that differs.
        """
        self.processes.agree_on_batch(what, batch)


def _reduce(values: list[tf.Tensor], reduction: str) -> tf.Tensor:
    if len(values) == 1:
        return values[0]
    return tf.add_n(values) if reduction == "SUM" else tf.reduce_max(tf.stack(values), axis=0)


def broadcast_variables(variables: Sequence[Any], processes: Processes) -> None:
    """Give all processes the values of process 0, in one message.

    Every process must call it with the same variables in the same order.

    Args:
        variables: the Keras variables.
        processes: the processes of this job.
    """
    arrays = [np.asarray(v.numpy()) for v in variables]
    sizes = [array.nbytes for array in arrays]
    data = np.frombuffer(b"".join(array.tobytes() for array in arrays) + bytes(-sum(sizes) % 4), np.int32)
    options = {
        "group_size": processes.count,
        "group_key": 1 + zlib.crc32(b"one device of every process") % (2**31 - 2),
        "instance_key": next(_instances),
        "communication_hint": "ring",
        "timeout_seconds": processes.timeout,
    }

    @tf.function(autograph=False)
    def broadcast(mine: tf.Tensor) -> tf.Tensor:
        with tf.device(processes.device(processes.rank, "CPU", 0)):
            if processes.is_first:
                return tf.raw_ops.CollectiveBcastSendV2(input=mine, **options)
            return tf.raw_ops.CollectiveBcastRecvV2(T=tf.int32, shape=list(data.shape), **options)

    received = broadcast(tf.constant(data)).numpy().tobytes()
    if processes.is_first:
        return
    start = 0
    for variable, array, size in zip(variables, arrays, sizes, strict=True):
        variable.assign(np.frombuffer(received[start : start + size], array.dtype).reshape(array.shape))
        start += size
