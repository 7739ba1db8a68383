"""TPUs: one program that every core runs on its own shard, with the TPU's own collectives. Not run on hardware yet.

A shard's place on the mesh is not known while the program is traced: it follows from the number of the replica that
runs the program. Halos are `CollectivePermute`s between neighbours; all-reduces are `CrossReplicaSum`s over groups of
the mesh. Weights, moving averages and the optimizer's state are mirrored variables of `tf.distribute.TPUStrategy`, so
that Keras's optimizers, metrics and checkpoints work as they do under that strategy.
"""

import contextlib
import itertools
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree
from mesh_tensorflow.simd_mesh_impl import SimdMeshImpl

from keras_spatial.layout import parse_mesh
from keras_spatial.mesh_tensorflow import mtf
from keras_spatial.runtimes.base import Place, Runtime, ShardOperations, all_coordinates, sizes_of
from keras_spatial.runtimes.blocks import LocalBlocks
from keras_spatial.runtimes.buckets import reduce_together
from keras_spatial.runtimes.functions import Choice


class TpuMesh(ShardOperations, SimdMeshImpl):
    """A mesh with one shard of every tensor in each replica of a strategy; replica `i` is processor `i` of the mesh.

    Args:
        shape: the shape of the mesh.
        layout: Mesh-TF layout rules.
    """

    resizes = False
    devices = ("",)  # The program names no device, because it is compiled for one core.

    @property
    def pnum_tensor(self) -> tf.Tensor:
        """The number of the processor that runs the program."""
        replica = tf.distribute.get_replica_context()
        if replica is None:
            raise RuntimeError("A step on TPUs is traced inside strategy.run: call fit, evaluate or predict.")
        return tf.reshape(tf.convert_to_tensor(replica.replica_id_in_sync_group, tf.int32), [])

    def variants(self, mesh_axes: Sequence[int], key_of: Callable[[tuple[int, ...]], Hashable]):
        """A single value if it is the same on all cores; otherwise a `Choice` of values that the core itself makes."""
        of_cores = [key_of(tuple(place[axis] for axis in mesh_axes)) for place in all_coordinates(self.shape)]
        keys = tuple(dict.fromkeys(of_cores))
        if len(keys) == 1:
            return self.LaidOutTensor([keys[0]])
        number = tf.gather(tf.constant([keys.index(key) for key in of_cores]), self.pnum_tensor)
        return self.LaidOutTensor([Choice(number, keys)])

    def own_numbers(self) -> list[int]:
        return list(range(self.size))

    def hand_out(self, shards: Sequence[Any], places: Sequence[Place]) -> list[tf.Tensor]:
        """Return the shard of the core that runs the program, whole: its place is known after the step."""
        return [tf.identity(shards[0])]

    def reduce_together(self, tensors: Sequence) -> None:
        reduce_together(self, tensors)

    def allreduce(self, x, mesh_axes: Sequence[int], reduction_fn_string: str):
        mesh_axes = [axis for axis in mesh_axes if self.shape[axis].size > 1]
        return super().allreduce(x, mesh_axes, reduction_fn_string) if mesh_axes else x.to_laid_out_tensor()

    def export_to_tf_tensor(self, x: mtf.Tensor, laid_out_x) -> tf.Tensor:
        """The whole tensor, in every replica. Use it for small tensors and for what the user asked for."""
        laid_out_x = laid_out_x.to_laid_out_tensor()
        dtype = laid_out_x.one_slice.dtype
        if dtype == tf.bool:
            laid_out_x = self.slicewise(lambda t: tf.cast(t, tf.int32), laid_out_x)
        for axis, mesh_axis in enumerate(self.tensor_layout(x.shape).tensor_axis_to_mesh_axis):
            if mesh_axis is not None:
                laid_out_x = self.allconcat(laid_out_x, mesh_axis, axis)
        return tf.cast(laid_out_x.one_slice, dtype)


class TpuRuntime(Runtime):
    """The runtime for the cores of a TPU slice. Not run on hardware yet.

    Args:
        device_mesh, layout: as for `Runtime`.
        strategy: the result of `tpu_strategy`.

    Raises:
        ValueError: if it is not a TPU strategy, or its number of replicas is not the mesh's number of devices.
    """

    def __init__(
        self,
        device_mesh: keras.distribution.DeviceMesh,
        layout: Mapping[str, str],
        strategy: tf.distribute.TPUStrategy | None,
    ):
        super().__init__(device_mesh, layout)
        if strategy is None:
            raise ValueError("A mesh of TPU cores needs strategy=ks.tpu_strategy(...). Received: strategy=None")
        check_strategy(strategy, device_mesh.devices.size)
        self.strategy = strategy

    def mesh_impl(self) -> TpuMesh:
        return TpuMesh(self.shape, self.layout_rules)

    def local_coordinates(self) -> list[dict[str, int]]:
        """The coordinates of all cores: one process feeds all of them, and each finds its place when it runs."""
        return [dict(zip(self.device_mesh.axis_names, place, strict=True)) for place in all_coordinates(self.shape)]

    def scope(self) -> contextlib.AbstractContextManager:
        return self.strategy.scope()

    def check_optimizer(self, optimizer: Any) -> None:
        if getattr(optimizer, "_distribution_strategy", None) is not self.strategy:
            raise ValueError(
                "Make the optimizer of a model on TPUs inside distribution.scope(), or give it by its name. "
                f"Received: {optimizer!r}"
            )

    def before_step(self, build: Callable[[], None], own_step: bool) -> None:
        # A step on TPUs cannot make variables, whoever wrote it.
        with self.scope():
            build()

    def compiled(self, step: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return on_replicas(self.strategy, step, lambda results: results[0])

    def compiled_blocks(self, step: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return on_replicas(self.strategy, step, tuple)

    def handed_out(self, values: Sequence[Any], places: Sequence[Place]) -> list[Callable[[], np.ndarray]]:
        [of_cores] = values  # One value for each core.
        blocks = [of_cores[core].numpy()[tuple(map(slice, sizes_of(index)))] for core, index in places]
        return [lambda block=block: block for block in blocks]

    def shared_gradients(self, gradients: Sequence[tf.Tensor | None]) -> list[tf.Tensor | None]:
        # The gradients are sums over the mesh already, and Keras sums them over the replicas again.
        return [None if g is None else g / self.strategy.num_replicas_in_sync for g in gradients]


def tpu_strategy(shape: str, tpu: str | None = None) -> tf.distribute.TPUStrategy:
    """Start a TPU slice and arrange its cores so that neighbours on the mesh are neighbours in the slice.

    This has not been run on TPU hardware yet.

    Args:
        shape: the shape of the mesh, as for `ks.device_mesh`. It must have as many positions as the slice has cores.
        tpu: the name or address of the slice, as for `tf.distribute.cluster_resolver.TPUClusterResolver`. By default it
            is the one that the environment names, as on Cloud TPU virtual machines (`"local"`).

    Returns:
        A strategy for `ks.SpatialParallel(..., strategy=...)`.

    Raises:
        ValueError: if the mesh and the slice differ in their number of cores; also TensorFlow's own, if there is no
            TPU.

    Example:

    ```python
    strategy = ks.tpu_strategy("rows:4, columns:2")
    mesh = ks.device_mesh("rows:4, columns:2")
    distribution = ks.SpatialParallel(mesh, "x:rows, y:columns", strategy=strategy)
    ```
    """
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu)
    tf.config.experimental_connect_to_cluster(resolver)
    topology = tf.tpu.experimental.initialize_tpu_system(resolver)
    sizes = list(parse_mesh(shape).values())
    cores = assignment(sizes, [int(n) for n in topology.mesh_shape])
    return tf.distribute.TPUStrategy(
        resolver,
        experimental_device_assignment=tf.tpu.experimental.DeviceAssignment(topology, cores[:, None, :]),
    )


def assignment(mesh: Sequence[int], topology: Sequence[int]) -> np.ndarray:
    """Assign a core of a slice to each processor of a mesh.

    Each mesh axis takes some of the topology's axes and runs through them back and forth, like a snake, so that
    processors that are neighbours along the mesh axis are neighbours in the slice. If the sizes do not allow that, the
    whole mesh follows one such path through the slice; then only neighbours along the last mesh axis are neighbours in
    the slice.

    Args:
        mesh: the sizes of the mesh axes.
        topology: the sizes of the slice's axes `(x, y, z, core)`.

    Returns:
        The coordinates of the cores, integers of shape `[processors, 4]`.

    Raises:
        ValueError: if the mesh and the slice differ in their number of cores.
    """
    if math.prod(mesh) != math.prod(topology):
        raise ValueError(
            f"A mesh on a TPU slice needs as many devices as the slice has cores. "
            f"Received: mesh {tuple(mesh)}, topology {tuple(topology)}"
        )
    for owners in itertools.product(range(len(mesh)), repeat=len(topology)):
        taken = [[i for i, owner in enumerate(owners) if owner == axis] for axis in range(len(mesh))]
        if all(math.prod(topology[i] for i in axes) == size for axes, size in zip(taken, mesh, strict=True)):
            break
    else:
        return np.array(list(_snake(topology)))
    places = np.zeros((math.prod(mesh), len(topology)), int)
    paths = [list(_snake([topology[i] for i in axes])) for axes in taken]
    for number, steps in enumerate(itertools.product(*paths)):
        for axes, step in zip(taken, steps, strict=True):
            places[number, axes] = step
    return places


def _snake(sizes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """All places of a grid, each a neighbour of the previous one; the last axis changes fastest."""
    if not sizes:
        yield ()
        return
    for number, before in enumerate(_snake(sizes[:-1])):
        last = range(sizes[-1])
        for i in last if number % 2 == 0 else reversed(last):
            yield (*before, i)


def check_strategy(strategy: Any, devices: int) -> None:
    """Check that a strategy's replicas are the mesh's devices.

    Raises:
        ValueError: if it is not a TPU strategy, or has another number of replicas.
    """
    if not isinstance(strategy, tf.distribute.TPUStrategy):
        raise ValueError(
            "strategy: expected a tf.distribute.TPUStrategy, made by ks.tpu_strategy(...). Meshes of CPUs or GPUs must "
            f"not have a strategy. Received: {strategy!r}"
        )
    if strategy.num_replicas_in_sync != devices:
        raise ValueError(
            f"strategy: expected a replica for each of the mesh's {devices} devices. "
            f"Received: {strategy.num_replicas_in_sync} replicas"
        )


def on_replicas(
    strategy: tf.distribute.Strategy, step: Callable[[Any], Any], chosen: Callable[[tuple], Any]
) -> Callable[[Any], Any]:
    """Compile a step into one TensorFlow function that runs in all replicas.

    From `LocalBlocks` each replica gets only its own block; whole tensors go to all replicas.

    Args:
        strategy: the strategy that runs it.
        step: the step.
        chosen: a function from a result's values in all replicas to the value that is returned.
    """

    def run(data: Any) -> Any:
        results = strategy.run(step, args=(data,))
        return tf.nest.map_structure(lambda value: chosen(strategy.experimental_local_results(value)), results)

    compiled = tf.function(run, autograph=False)

    def own_block(value: Any) -> Any:
        if not isinstance(value, LocalBlocks):
            return value
        replicas = strategy.num_replicas_in_sync
        if len(value.slices) != replicas:
            raise ValueError(f"Expected a block for each of {replicas} cores. Received: {len(value.slices)} blocks")
        return strategy.experimental_distribute_values_from_function(
            lambda context: LocalBlocks((value.slices[context.replica_id_in_sync_group],), value.counts)
        )

    return lambda data: compiled(tree.map_structure(own_block, data))
