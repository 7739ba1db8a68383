"""Meshes for planning, on which nothing runs.

If devices compute at once, a step is lowered for one of them, and messages are counted instead of sent. If positions of
the mesh share devices, the step's program is recorded.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from keras_spatial.mesh_tensorflow import mtf
from keras_spatial.runtimes.base import Runtime
from keras_spatial.runtimes.functions import static_sizes
from keras_spatial.runtimes.placement import Placement
from keras_spatial.runtimes.program import Program
from keras_spatial.runtimes.streaming import StreamingMesh, StreamingRuntime

# The name of received halos, which need memory of their own; every other identity shares the memory of its input.
RECEIVED = "received"


def byte_size(tensor: tf.Tensor) -> int:
    """The size in bytes of a tensor of static shape."""
    return math.prod(static_sizes(tensor.shape)) * tensor.dtype.size


class RehearsalRuntime(Runtime):
    """A runtime for planning: only the part of the device in the middle of the mesh is lowered; no device is needed.

    Attributes:
        traffic: the number of bytes that the device sends in the graph that was lowered last, for `"halo"` exchanges
            and for `"allreduce"`, which counts the tensors that it contributes.
    """

    def __init__(self, device_mesh: keras.distribution.DeviceMesh, layout: Mapping[str, str]):
        super().__init__(device_mesh, layout)
        self.traffic: Counter[str] = Counter()

    def mesh_impl(self) -> "RehearsalMesh":
        # TensorFlow traces a step that makes variables twice, each time with a new mesh; only the last one counts.
        self.traffic.clear()
        return RehearsalMesh(self.shape, self.layout_rules, self.traffic)


class RehearsalMesh(Placement):
    """A mesh with one shard of every tensor: that of the device in the middle, which has neighbours on all sides."""

    def __init__(self, shape: mtf.Shape, layout: mtf.LayoutRules, traffic: Counter[str]):
        self._traffic = traffic
        super().__init__(shape, layout, ["cpu:0"])
        self._place = [dimension.size // 2 for dimension in shape.dims]
        self._number = 0
        for dimension, coordinate in zip(shape.dims, self._place, strict=True):
            self._number = self._number * dimension.size + coordinate

    def laid_out_pnum(self):
        return self.LaidOutTensor([self._number])

    def laid_out_pcoord(self, mesh_axis: int):
        return self.LaidOutTensor([self._place[mesh_axis]])

    def import_tf_tensor(self, x: mtf.Tensor, tf_x: tf.Tensor):
        shape = list(self.slice_shape(x.shape))
        if shape == tf_x.shape.as_list():
            return self.LaidOutTensor([tf.identity(tf_x)])
        return self.LaidOutTensor([tf.slice(tf_x, self.slice_begin(x.shape, self._number), shape)])

    def export_to_tf_tensor(self, x: mtf.Tensor, laid_out_x) -> tf.Tensor:
        return laid_out_x.to_laid_out_tensor().tensor_list[0]

    def allreduce(self, x, mesh_axes: Sequence[int], reduction_fn_string: str):
        (value,) = x.to_laid_out_tensor().tensor_list
        if any(self.shape[axis].size > 1 for axis in mesh_axes):
            self._traffic["allreduce"] += byte_size(value)
        return self.LaidOutTensor([tf.identity(value)])

    def receive(self, x, mesh_axis: int, source_pcoord: Sequence[int | None]):
        (value,) = x.to_laid_out_tensor().tensor_list
        # The device sends as much as it receives, to its neighbour on the other side.
        if self._place[mesh_axis] in source_pcoord:
            self._traffic["halo"] += byte_size(value)
        return self.LaidOutTensor([tf.identity(value, name=RECEIVED)])


class ProgramRehearsal(StreamingRuntime):
    """As the streaming runtime, but the traced program is not run."""

    def __init__(self, runtime: StreamingRuntime):
        super().__init__(runtime.device_mesh, runtime.layout, runtime.offload)
        self._programs: list[Program] = []

    def mesh_impl(self) -> StreamingMesh:
        mesh = super().mesh_impl()
        self._programs.append(mesh.program)
        return mesh

    @property
    def program(self) -> Program:
        """The program of the step that was traced last. A step that makes variables is traced twice."""
        return next(program for program in reversed(self._programs) if program.nodes)
