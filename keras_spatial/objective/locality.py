"""Decide from a function's operations whether it treats each voxel of labels and predictions independently.

Such a function can be called unchanged on each shard. It is traced with symbolic tensors, and every operation must act
element by element, or only along the channels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_spatial.keras_private import core, mask_of, nn, nodes_of, numpy, symbolic_calls
from keras_spatial.rules.keras_ops import POINTWISE

_ELEMENTWISE = (*POINTWISE, core.ConvertToTensor)
# These act along one axis, which must be that of the channels.
_ALONG_AXIS = (
    *(numpy.Sum, numpy.Mean, numpy.Max, numpy.Amax, numpy.Min, numpy.Amin, numpy.Prod, numpy.Any, numpy.All),
    *(numpy.Var, numpy.Std, numpy.Argmax, numpy.Argmin, numpy.CountNonzero),
    *(nn.Softmax, nn.LogSoftmax, nn.Normalize, nn.CategoricalCrossentropy, nn.SparseCategoricalCrossentropy),
)
# These move nothing between voxels as long as the voxels' axes do not change, which is checked for every operation.
_KEEPS_VOXELS = (numpy.Squeeze, numpy.ExpandDims, numpy.Reshape)


class NotTraceable(Exception):
    """A function cannot be traced with symbolic tensors; the message is the first line of the error that it raised."""


def symbolic(x: Any) -> keras.KerasTensor:
    """A symbolic tensor with the shape and dtype of `x`."""
    return keras.Input(batch_shape=tuple(x.shape), dtype=keras.backend.standardize_dtype(x.dtype))


def traced(function: Callable[..., Any], *tensors: Any) -> keras.Model:
    """The graph of operations that a function performs on tensors of some shapes and dtypes.

    Args:
        function: a function from symbolic tensors to one symbolic tensor.
        *tensors: anything with `shape` and `dtype`; None is passed on.

    Raises:
        NotTraceable: if it does anything with the tensors but call `keras.ops`.
    """
    with tf.init_scope():
        inputs = [None if x is None else symbolic(x) for x in tensors]
        try:
            with symbolic_calls():
                outputs = function(*inputs)
            mask = mask_of(outputs)
            return keras.Model([x for x in inputs if x is not None], [outputs] if mask is None else [outputs, mask])
        except Exception as error:
            raise NotTraceable(str(error).strip().split("\n")[0][:300] or type(error).__name__) from error


def check_that_keras_takes(function: Callable[..., Any], *tensors: Any) -> None:
    """Raise Keras's own error if a function fails in plain Keras too, for example for labels of a wrong shape."""
    specs = [tf.TensorSpec(x.shape, x.dtype) for x in tensors if x is not None]
    with tf.init_scope():
        tf.function(lambda *given: function(*given), autograph=False).get_concrete_function(*specs)


def is_local(graph: keras.Model, voxels: Sequence[int]) -> bool:
    """Whether a graph treats each voxel independently and computes one value for it.

    Args:
        graph: the result of `traced` for labels and predictions.
        voxels: the sizes of all axes of the predictions except the channels.
    """
    voxels = tuple(voxels)
    if any(tuple(x.shape[: len(voxels)]) != voxels for x in graph.inputs):
        return False
    if any(tuple(x.shape) != voxels for x in graph.outputs):
        return False
    return all(_is_local(node, voxels) for node in nodes_of(graph))


def _is_local(node: Any, voxels: tuple[int, ...]) -> bool:
    operation = node.operation
    if isinstance(operation, keras.layers.InputLayer):
        return True
    given = tree.flatten((node.arguments.args, node.arguments.kwargs))
    tensors = [x for x in given if isinstance(x, keras.KerasTensor)]
    constants = [x for x in given if isinstance(x, (np.ndarray, tf.Tensor, keras.Variable)) and len(x.shape)]
    rank = len(voxels)
    if any(tuple(x.shape[:rank]) != voxels for x in (*tensors, *tree.flatten(node.output_tensors))):
        return False
    # Tensors with and without channels do not align, and constants may differ only from channel to channel.
    if len({len(x.shape) for x in tensors}) > 1 and not isinstance(operation, _ALONG_AXIS):
        return False
    if any(int(np.prod(x.shape[:-1])) != 1 for x in constants):
        return False
    if isinstance(operation, nn.BinaryCrossentropy):
        return True
    if isinstance(operation, nn.OneHot):
        return len(tensors[0].shape) == rank and operation.axis in (-1, rank)
    if isinstance(operation, _KEEPS_VOXELS):
        return True
    if isinstance(operation, _ALONG_AXIS):
        axis = operation.axis
        axis = axis[0] if isinstance(axis, (tuple, list)) and len(axis) == 1 else axis
        last = max(len(x.shape) for x in tensors) - 1
        return last == rank and isinstance(axis, int) and axis in (-1, last)
    return isinstance(operation, _ELEMENTWISE)
