"""Variables that a function on shards captures. The program passes their values to it, as it does with all tensors.

A variable is a handle in TensorFlow's graph, which cannot be an argument of a Python function. The step's graph reads
it in order with the other operations on it, and the function gets a variable of its own that holds the value.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

# Not public: the inputs of an operation, the name of a resource that every run makes for itself, and the type of a
# handle.
from tensorflow.python.eager import context
from tensorflow.python.framework import op_def_registry
from tensorflow.python.ops import handle_data_util

from keras_spatial.runtimes.functions import call

# The operations on a variable that do not change its value.
_READING = {"ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VariableShape", "VarIsInitializedOp"}


def variables_of(concrete: Any) -> list[tf.Tensor]:
    """The handles of the variables that a function captures.

    Raises:
        ValueError: if it does anything other than read them, or captures something that is not a variable.
    """
    handles = [tensor for tensor in concrete.captured_inputs if tensor.dtype in (tf.resource, tf.variant)]
    changing = _changing(concrete) if handles else None
    if changing is not None or not all(_is_variable(handle) for handle in handles):
        raise ValueError(
            "If shards share devices, a function of a shard, such as an activation or a loss, may capture only "
            "variables, and only read them: no tables, and nothing that changes. Received: "
            f"{changing or [handle.dtype.name for handle in handles]}"
        )
    return handles


def value_of(handle: tf.Tensor) -> tf.Tensor:
    """A variable's value at this point of the current graph."""
    spec = spec_of(handle)
    return tf.ensure_shape(tf.raw_ops.ReadVariableOp(resource=handle, dtype=spec.dtype), spec.shape)


def spec_of(handle: tf.Tensor) -> tf.TensorSpec:
    """The shape and the dtype of a variable's value."""
    (known,) = handle_data_util.get_handle_data(handle).shape_and_type
    return tf.TensorSpec(tf.TensorShape(known.shape), tf.as_dtype(known.dtype))


def by_value(concrete: Any) -> Callable[..., Sequence[tf.Tensor]]:
    """Wrap a function so that it takes the values of the variables that it captures after its arguments."""
    handles = variables_of(concrete)
    numbers = {id(handle): number for number, handle in enumerate(handles)}

    def function(*arguments: tf.Tensor) -> Sequence[tf.Tensor]:
        count = len(arguments) - len(handles)
        variables = [_variable(value) for value in arguments[count:]]
        captured = [variables[numbers[id(t)]] if id(t) in numbers else t for t in concrete.captured_inputs]
        results = call(concrete, arguments[:count], captured)
        with tf.control_dependencies(results):
            for variable in variables:
                tf.raw_ops.DestroyResourceOp(resource=variable)
        return results

    return function


def _variable(value: tf.Tensor) -> tf.Tensor:
    """The handle of a variable that each run makes for itself."""
    handle = tf.raw_ops.VarHandleOp(dtype=value.dtype, shape=value.shape, shared_name=context.anonymous_name())
    assigned: Any = tf.raw_ops.AssignVariableOp(resource=handle, value=value)
    with tf.control_dependencies([assigned]):
        return tf.identity(handle)


def _is_variable(handle: tf.Tensor) -> bool:
    if handle.dtype != tf.resource:
        return False
    known = handle_data_util.get_handle_data(handle)
    return known is not None and known.is_set and len(known.shape_and_type) == 1


def _changing(concrete: Any) -> str | None:
    """An operation of a function, or of those that it calls, that does anything other than read variables; None if
    there is none.
    """
    definition = concrete.graph.as_graph_def()
    for node in [*definition.node, *(node for function in definition.library.function for node in function.node_def)]:
        known = op_def_registry.get(node.op)
        takes = known is not None and any(a.type == tf.resource.as_datatype_enum for a in known.input_arg)
        if takes and node.op not in _READING:
            return node.op
    return None
