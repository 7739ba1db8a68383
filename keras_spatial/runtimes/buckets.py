"""Combine many small all-reduces into a few large ones."""

import math
from collections.abc import Sequence

import tensorflow as tf

from keras_spatial.mesh_tensorflow import mtf


def reduce_together(mesh_impl: mtf.MeshImpl, tensors: Sequence) -> None:
    """Carry out the pending all-reduces of tensors such as weight gradients, with one message for each dtype."""
    pending: dict[tuple, list[mtf.LazyAllreduceSum]] = {}
    for tensor in tensors:
        if isinstance(tensor, mtf.LazyAllreduceSum) and tensor._reduced is None:
            kind = (tuple(tensor.mesh_axes), tensor.laid_out_input.tensor_list[0].dtype)
            if tensor not in pending.setdefault(kind, []):
                pending[kind].append(tensor)
    for (mesh_axes, _), lazy in pending.items():
        shapes = [tensor.slice_shape for tensor in lazy]
        sizes = [math.prod(shape) for shape in shapes]
        flat = mesh_impl.slicewise(
            lambda *parts: tf.concat([tf.reshape(part, [-1]) for part in parts], 0),
            *[tensor.laid_out_input for tensor in lazy],
        )
        total = mesh_impl.allreduce(flat, mesh_axes, "SUM")

        def apart(t: tf.Tensor, sizes=sizes, shapes=shapes) -> tuple[tf.Tensor, ...]:
            return tuple(tf.reshape(part, s) for part, s in zip(tf.split(t, sizes), shapes, strict=True))

        for tensor, result in zip(lazy, mesh_impl.slicewise(apart, total), strict=True):
            tensor._reduced = result
