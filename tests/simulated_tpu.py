"""Simulate a TPU slice by a strategy that mirrors over logical CPUs, with its own collectives in place of the TPU's.

TensorFlow has no kernels for the TPU's collectives on CPUs. Every replica runs the same program as a core would.
"""

import math
from collections.abc import Callable

import tensorflow as tf

import keras_spatial as ks
from keras_spatial.layout import parse_mesh
from keras_spatial.runtimes import tpu as runtime


class MirroredCollectives:
    """The TPU's collectives over the replicas of a mirrored strategy."""

    @staticmethod
    def cross_replica_sum(value, group_assignment):
        def summed(strategy, values):
            given = strategy.experimental_local_results(values)
            groups = {replica: group for group in group_assignment for replica in group}
            results = [tf.add_n([given[j] for j in groups[i]]) for i in range(len(given))]
            return _per_replica(results)

        return tf.distribute.get_replica_context().merge_call(summed, args=(value,))

    @staticmethod
    def collective_permute(value, source_target_pairs):
        def permuted(strategy, values):
            given = strategy.experimental_local_results(values)
            sources = {target: source for source, target in source_target_pairs}
            results = [given[sources[i]] if i in sources else tf.zeros_like(v) for i, v in enumerate(given)]
            return _per_replica(results)

        return tf.distribute.get_replica_context().merge_call(permuted, args=(value,))


def _per_replica(values):
    from tensorflow.python.distribute.values import PerReplica

    return PerReplica(values)


def strategy(mesh: str) -> tf.distribute.MirroredStrategy:
    """Replace `ks.tpu_strategy`: make a replica on a logical CPU for each position of the mesh."""
    ks.device_mesh(mesh)  # This makes the logical CPUs.
    names = [f"/cpu:{i}" for i in range(math.prod(parse_mesh(mesh).values()))]
    # Not TensorFlow's collectives, which bind a process to one number of devices.
    return tf.distribute.MirroredStrategy(names, tf.distribute.ReductionToOneDevice())


def stand_in(replace: Callable[[object, str, object], None]) -> list[tuple[str, str | None]]:
    """Let every slice that is started be a simulated one of as many cores as its mesh asks for.

    Args:
        replace: `setattr`, or that of a `MonkeyPatch`.

    Returns:
        A list that gets the mesh and the name of each slice that is started.
    """
    # Mesh-TensorFlow can be imported only after this package has supplied what TensorFlow no longer has.
    from mesh_tensorflow import simd_mesh_impl

    started = []

    def start(mesh: str, tpu: str | None = None) -> tf.distribute.MirroredStrategy:
        started.append((mesh, tpu))
        return strategy(mesh)

    replace(ks, "tpu_strategy", start)
    replace(runtime, "check_strategy", lambda strategy, devices: None)
    replace(simd_mesh_impl, "tpu_ops", MirroredCollectives)
    return started
