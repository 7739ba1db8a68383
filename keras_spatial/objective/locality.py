"""Decide from a function's operations whether it treats each voxel of labels and predictions independently.

The function is traced with symbolic tensors of the whole image's shape: every operation must act element by element, or
along the channels alone. The traced operations then run on each shard, with the numbers that the function has read off
the whole shape; the function itself is not called again.
"""

import math
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_spatial.keras_private import (
    SymbolicState,
    core,
    mask_of,
    nn,
    nodes_of,
    numpy,
    run_graph,
    symbolic_calls,
    symbolic_variables,
)
from keras_spatial.rules.keras_ops import POINTWISE, hidden_arrays
from keras_spatial.rules.variables_read import reading_variables
from keras_spatial.runtimes.functions import static_sizes

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


@dataclass(frozen=True)
class Traced:
    """The operations that a function has run on tensors of certain shapes.

    Attributes:
        graph: the graph from the tensors, followed by the variables, to the function's result, and to its mask if it
            has one.
        variables: the variables that it reads.
    """

    graph: keras.Model
    variables: tuple[keras.Variable, ...]

    @property
    def masked(self) -> bool:
        return len(self.graph.outputs) > 1


def symbolic(x: Any) -> keras.KerasTensor:
    """A symbolic tensor with the shape and dtype of `x`."""
    return keras.Input(batch_shape=tuple(x.shape), dtype=keras.backend.standardize_dtype(x.dtype))


def traced(function: Callable[..., Any], *tensors: Any) -> Traced:
    """Trace what a function does with tensors of certain shapes and dtypes, as a graph of operations.

    Args:
        function: a function from symbolic tensors to one symbolic tensor, or to a list of them.
        *tensors: anything with `shape` and `dtype`; None stays None.

    Raises:
        NotTraceable: if it does anything with them except calling `keras.ops`, draws random numbers, or changes
            variables.
    """
    with _tracing(tensors) as (inputs, state):
        outputs = function(*inputs)
        mask = None if isinstance(outputs, list) else mask_of(outputs)
        if state.assigned:
            raise NotTraceable(f"it changes the variables {[v.path for v, _ in state.assigned.values()]}")
        if isinstance(outputs, list):
            return _graph(inputs, state, outputs)
        return _graph(inputs, state, [outputs] if mask is None else [outputs, mask])


def traced_changes(function: Callable[..., Any], *tensors: Any) -> tuple[Traced | None, list[tuple[Any, Any]]]:
    """Trace the new values that a function assigns to variables.

    Args, Raises: see `traced`.

    Returns:
        The graph of the new values that depend on the inputs, or None if none does; and each changed variable with its
        new value. The symbolic ones of these values are the graph's outputs, in the same order.
    """
    with _tracing(tensors) as (inputs, state):
        function(*inputs)
        changes = list(state.assigned.values())
        outputs = [value for _, value in changes if isinstance(value, keras.KerasTensor)]
        return _graph(inputs, state, outputs) if outputs else None, changes


@contextmanager
def _tracing(tensors: Sequence[Any]) -> Iterator[tuple[list, SymbolicState]]:
    with tf.init_scope():
        inputs = [None if x is None else symbolic(x) for x in tensors]
        try:
            with symbolic_calls(), reading_variables() as reads, symbolic_variables() as state:
                yield inputs, state
            # Keras's own variables are symbolic here.
            reads.variables[:] = [v for v in reads.variables if not isinstance(v, keras.Variable)]
            if reads:
                raise NotTraceable(f"it reads {reads}, whose value in the first step would be used in all steps")
        except NotTraceable:
            raise
        except Exception as error:
            raise NotTraceable(str(error).strip().split("\n")[0][:300] or type(error).__name__) from error


def _graph(inputs: Sequence[Any], state: SymbolicState, outputs: Any) -> Traced:
    given = [x for x in inputs if x is not None] + [symbol for _, symbol in state.read]
    return Traced(keras.Model(given, outputs), tuple(variable for variable, _ in state.read))


def is_local(found: Traced, voxels: Sequence[int]) -> bool:
    """Whether a function computes one value for each voxel, from the labels and predictions of that voxel alone.

    Args:
        found: what `traced` has returned for labels and predictions.
        voxels: the sizes of all axes of the predictions except that of the channels.
    """
    voxels = tuple(voxels)
    graph, count = found.graph, len(found.variables)
    images, variables = graph.inputs[: len(graph.inputs) - count], graph.inputs[len(graph.inputs) - count :]
    if any(tuple(x.shape[: len(voxels)]) != voxels for x in images):
        return False
    if any(tuple(x.shape) != voxels for x in graph.outputs):
        return False
    # A value that depends on variables alone is the same on every device, however it is computed.
    small = {id(x) for x in variables}
    for node in nodes_of(graph):
        if isinstance(node.operation, keras.layers.InputLayer):
            continue
        tensors = [x for x in _given(node) if isinstance(x, keras.KerasTensor)]
        if all(id(x) in small for x in tensors):
            small |= {id(x) for x in tree.flatten(node.output_tensors)}
        elif not _is_local(node, voxels, small):
            return False
    return not any(id(x) in small for x in graph.outputs)


def _given(node: Any) -> list[Any]:
    return tree.flatten((node.arguments.args, node.arguments.kwargs))


def _is_local(node: Any, voxels: tuple[int, ...], small: Container[int]) -> bool:
    operation, given, rank = node.operation, _given(node), len(voxels)
    tensors = [x for x in given if isinstance(x, keras.KerasTensor) and id(x) not in small]
    constants = [x for x in given if isinstance(x, (np.ndarray, tf.Tensor, keras.Variable)) or id(x) in small]
    if any(tuple(x.shape[:rank]) != voxels for x in (*tensors, *tree.flatten(node.output_tensors))):
        return False
    # Tensors with and without channels do not line up.
    if len({len(x.shape) for x in tensors}) > 1 and not isinstance(operation, _ALONG_AXIS):
        return False
    # Constants may only differ from channel to channel, where the last axis is that of the channels.
    last = max(len(x.shape) for x in tensors) - 1
    for constant in constants:
        if len(constant.shape) > last + 1 or math.prod(constant.shape[:-1] if last == rank else constant.shape) != 1:
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
        return last == rank and isinstance(axis, int) and axis in (-1, last)
    return isinstance(operation, _ELEMENTWISE) and not hidden_arrays(operation)


def check_traced(found: Traced) -> None:
    """Refuse elementwise operations that hold an array of their own.

    The array may differ from voxel to voxel, and the rules would give every shard the same one.

    Raises:
        NotTraceable: if there is such an operation.
    """
    for node in nodes_of(found.graph):
        if isinstance(node.operation, _ELEMENTWISE) and (names := hidden_arrays(node.operation)):
            raise NotTraceable(f"{type(node.operation).__name__} with an array as {names}")


def on_shards(found: Traced, rank: int) -> Callable[..., list[tf.Tensor]]:
    """The function that runs a traced function on shards.

    Args:
        found: a function that `is_local`.
        rank: the number of axes, without that of the channels.

    Returns:
        A function from shards, followed by the values of the variables, to the graph's outputs on these shards.
    """
    kept = {id(n.operation): n.outputs[0].shape[rank:] for n in nodes_of(found.graph)}

    def run(operation: keras.Operation) -> Callable[..., Any]:
        if not isinstance(operation, _KEEPS_VOXELS):
            return operation
        rest = kept[id(operation)]
        return lambda x, *_, **__: tf.reshape(x, [*static_sizes(x.shape)[:rank], *rest])

    return lambda *tensors: tree.flatten(run_graph(found.graph, list(tensors), run))
