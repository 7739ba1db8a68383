"""A pass that avoids storing large concatenations of channels before an operation that sums over them.

A convolution of concatenated tensors is the sum of their convolutions, each with its part of the kernel. This saves
each device a copy of all of them, which would live until the backward pass.
"""

import math
from collections.abc import Callable

import tensorflow as tf

from keras_spatial.engine.halo import take
from keras_spatial.engine.local import LocalOperation
from keras_spatial.mesh_tensorflow import mtf

# From this size in bytes on each device, avoiding a stored copy matters more than having fewer operations.
LARGE = 8 << 20


def split_concatenations(graph: mtf.Graph, mesh_impl: mtf.MeshImpl) -> dict[mtf.Operation, mtf.Operation]:
    """Let each operation that sums over the channels of a large concatenation read its parts one by one.

    Args:
        graph: a graph that has not been differentiated or lowered yet.
        mesh_impl: the mesh implementation on which it will be lowered.

    Returns:
        The new operations, each with the operation that it is a part of.
    """
    made: dict[mtf.Operation, mtf.Operation] = {}
    operations: list[mtf.Operation] = []
    for operation in list(graph.operations):
        parts = _parts(operation, mesh_impl)
        if not parts:
            operations.append(operation)
            continue
        known = len(graph.operations)
        _by_parts(operation, parts)
        new = graph.operations[known:]
        del graph.operations[known:]
        operations += new
        made |= dict.fromkeys(new, operation)
    graph.operations[:] = operations
    return made


def _parts(operation: mtf.Operation, mesh_impl: mtf.MeshImpl) -> list[mtf.Tensor]:
    if not (isinstance(operation, LocalOperation) and operation.summed):
        return []
    x = operation.inputs[0]
    joined = isinstance(x.operation, LocalOperation) and x.operation.concatenates
    large = math.prod(mesh_impl.slice_shape(x.shape)) * x.dtype.size >= LARGE
    return list(x.operation.inputs) if joined and large else []


def _by_parts(operation: LocalOperation, parts: list[mtf.Tensor]) -> None:
    """Turn the operation into a chain in which each link adds the contribution of one part."""
    (result,) = operation.outputs
    before: list[mtf.Tensor] = []
    start = 0
    for part in parts:
        width = part.shape.dims[-1].size
        link = LocalOperation(
            _of_channels(operation, start, width, bool(before)),
            [part, *before, *operation.inputs[1:]],
            [(result.shape, result.dtype)],
            halos=operation.halos,
            paddings=operation.paddings,
            fill=operation.fill,
            on_halos=operation.on_halos,
            edges=operation.edges,
            name=operation.name.split("/")[-1],
        )
        before = list(link.outputs)
        start += width
    result._operation = link
    link._outputs[:] = [result]


def _of_channels(operation: LocalOperation, start: int, width: int, adds: bool) -> Callable[..., tuple[tf.Tensor, ...]]:
    def function(shard: tf.Tensor, *others: tf.Tensor) -> tuple[tf.Tensor, ...]:
        before, weights = others[:adds], list(others[adds:])
        for number, axis in operation.summed.items():
            weights[number] = take(weights[number], axis, start, width)
        (value,) = operation.fn(shard, *weights)
        return (before[0] + value if before else value,)

    return function
