"""Sums over the GPUs of one process by NCCL, in place of copies to one GPU and back. Not run on hardware yet.

NCCL passes a sum around all GPUs at once, while copies all go through one of them. This matters most for the sum of the
weights' gradients. TensorFlow's kernel launches the members of a sum in the same order on every GPU, so that
independent sums cannot block each other.
"""

import itertools
from collections.abc import Sequence

import tensorflow as tf

from keras_spatial.runtimes.buckets import reduce_together
from keras_spatial.runtimes.placement import REDUCE_SCOPE, Placement, PlacementRuntime

VARIABLE = "KERAS_SPATIAL_SUMS"
"""Environment variable: "nccl" for this runtime, "copies" (the default) for the one that has been run."""

_numbers = itertools.count(1)


class NcclPlacement(Placement):
    """A mesh of GPUs whose sums NCCL computes."""

    def reduce_together(self, tensors: Sequence) -> None:
        reduce_together(self, tensors)

    def allreduce(self, x, mesh_axes: Sequence[int], reduction_fn_string: str):
        if all(self.shape[axis].size == 1 for axis in mesh_axes):
            return x.to_laid_out_tensor()
        reduction = {"SUM": "sum", "MAX": "max"}[reduction_fn_string]

        def reduced(shards: list[tf.Tensor], devices: list[str]) -> list[tf.Tensor]:
            name = f"keras_spatial_{next(_numbers)}"
            results = []
            for shard, device in zip(shards, devices, strict=True):
                with tf.device(device), tf.name_scope(REDUCE_SCOPE):
                    results.append(
                        tf.raw_ops.NcclAllReduce(
                            input=shard, reduction=reduction, num_devices=len(devices), shared_name=name
                        )
                    )
            together = []
            # Every member waits for all others, so a member that was pruned because nothing reads its result would
            # block them.
            with tf.control_dependencies(results):
                for result, device in zip(results, devices, strict=True):
                    with tf.device(device):
                        together.append(tf.identity(result))
            return together

        return self._collective_with_groups(x, list(mesh_axes), reduced)


class NcclRuntime(PlacementRuntime):
    """The runtime for GPUs of one process whose sums NCCL computes. Not run on hardware yet."""

    def mesh_impl(self) -> NcclPlacement:
        return NcclPlacement(self.shape, self.layout_rules, self.devices)
