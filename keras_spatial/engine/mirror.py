"""Mirroring a sharded axis: every shard is reversed and trades places with the one opposite."""

from collections.abc import Sequence

import tensorflow as tf

from keras_spatial.mesh_tensorflow import mtf


class Mirror(mtf.Operation):
    """Puts the shards along one mesh axis in reverse order, and reverses each along the tensor's axis.

    Each device sends its shard to one other device and receives one, so nothing is gathered. The operation is its own
    adjoint.

    Args:
        x: the tensor.
        axis: the index of the tensor's axis.
        mesh_axis: the index of the mesh axis over which it is sharded.
    """

    def __init__(self, x: mtf.Tensor, axis: int, mesh_axis: int):
        super().__init__([x], name="mirror")
        self.axis, self.mesh_axis = axis, mesh_axis
        self._outputs = [mtf.Tensor(self, x.shape, x.dtype)]

    def lower(self, lowering: mtf.Lowering) -> None:
        mesh_impl = lowering.mesh_impl(self)
        (x,) = self.inputs
        turned = mesh_impl.slicewise(lambda t: tf.reverse(t, [self.axis]), lowering.tensors[x])
        opposite = list(reversed(range(mesh_impl.shape[self.mesh_axis].size)))
        lowering.set_tensor_lowering(self.outputs[0], mesh_impl.receive(turned, self.mesh_axis, opposite))

    def gradient(self, grad_ys: Sequence[mtf.Tensor]) -> list[mtf.Tensor]:
        return [Mirror(grad_ys[0], self.axis, self.mesh_axis).outputs[0]]
