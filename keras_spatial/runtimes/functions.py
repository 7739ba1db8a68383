"""Local functions that are traced once and called on every shard.

The graph then has one call for each shard in place of the function's body, so that building it costs little on a large
mesh.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

# Private modules of TensorFlow, for `unoptimized`, `custom_gradient` and `undifferentiated`.
from tensorflow.python.eager import context, record
from tensorflow.python.framework import ops

# A local function is called on every device, and TensorFlow prepares it for each of them. This turns off its graph
# optimizers, which would take most of the time of a first step.
_PROTO = tf.compat.v1.ConfigProto()
_PROTO.graph_options.rewrite_options.disable_meta_optimizer = True
_CONFIG = _PROTO.SerializeToString()
# In functions that have a convolution with a bias, one of them stays on: it makes one operation of the convolution, its
# bias and its activation, which saves one or two passes over the result.
_FUSING_PROTO = tf.compat.v1.ConfigProto()
for _optimizer in (
    *("arithmetic_optimization", "common_subgraph_elimination", "constant_folding", "debug_stripper"),
    *("dependency_optimization", "function_optimization", "implementation_selector", "layout_optimizer"),
    *("loop_optimization", "pin_to_host_optimization", "scoped_allocator_optimization", "shape_optimization"),
    *("auto_mixed_precision", "use_plugin_optimizers"),
):
    setattr(_FUSING_PROTO.graph_options.rewrite_options, _optimizer, RewriterConfig.OFF)
_FUSING_PROTO.graph_options.rewrite_options.disable_model_pruning = True
_FUSING_PROTO.graph_options.rewrite_options.memory_optimization = RewriterConfig.NO_MEM_OPT
_FUSING_PROTO.graph_options.rewrite_options.remapping = RewriterConfig.ON
_FUSING_PROTO.graph_options.rewrite_options.meta_optimizer_iterations = RewriterConfig.ONE
_FUSING_PROTO.graph_options.rewrite_options.min_graph_nodes = -1
_FUSING_CONFIG = _FUSING_PROTO.SerializeToString()


@contextmanager
def unoptimized() -> Iterator[None]:
    """Call functions without TensorFlow's graph optimizer inside a `with` block.

    The graph of a step consists of calls of local functions, which are optimized separately, and of the data that pass
    between them. There is nothing in it to optimize, but on a large mesh the attempt takes longer than everything else.
    """
    before = context.context().function_call_options
    config = _without_optimizer(before.config_proto_serialized)
    context.context().function_call_options = context.FunctionCallOptions(before.executor_type, config)
    try:
        yield
    finally:
        context.context().function_call_options = before


@functools.cache
def _without_optimizer(serialized: bytes) -> tf.compat.v1.ConfigProto:
    config = tf.compat.v1.ConfigProto.FromString(serialized)
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    return config


@dataclass(frozen=True)
class Prepared:
    """A function that was traced for arguments of some shapes.

    Attributes:
        concrete: the concrete TensorFlow function.
        used: the indices of the arguments that it takes, which are those that its results depend on.
    """

    concrete: Any
    used: tuple[int, ...]

    def __call__(self, arguments: Sequence[tf.Tensor]) -> tuple[tf.Tensor, ...]:
        """Call the function by one node in the current graph."""
        return call(self.concrete, [arguments[i] for i in self.used])


class SharedFunction:
    """A stateless TensorFlow function that is traced once for arguments of some shapes and then called by one node.

    A call takes only the arguments that the results depend on, so that it keeps no others alive.

    Args:
        function: a function from tensors of static shape to a tuple of tensors.
    """

    def __init__(self, function: Callable[..., Sequence[tf.Tensor]]):
        self._function = function
        self._traced: dict[tuple, Prepared] = {}

    def inline(self, *arguments: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Put the function's operations into the current graph, where they can reuse the memory of their arguments.

        A called function cannot do that, because its caller keeps its arguments alive.
        """
        return tuple(self._function(*arguments))

    def __call__(self, *arguments: tf.Tensor) -> tuple[tf.Tensor, ...]:
        tensors = [tf.convert_to_tensor(a) for a in arguments]
        if tf.executing_eagerly():
            # The same tensor may be passed for several arguments; without copies, their derivatives would be added.
            return tuple(self._function(*[tf.identity(a) for a in tensors]))
        return self.prepared(tensors)(tensors)

    def prepared(self, arguments: Sequence[Any]) -> Prepared:
        """The function for arguments of some shapes, which is traced at most once.

        Args:
            arguments: anything with a static `shape` and a `dtype`.
        """
        signature = signature_of(arguments)
        if signature not in self._traced:
            self._traced[signature] = _prepared(self._function, arguments)
        return self._traced[signature]


class DerivativeFunction(SharedFunction):
    """The transposed derivative of a function: from its arguments and its results' gradients to arguments' gradients.

    Args:
        function: a function from `count` tensors to a tuple of tensors.
        count: the number of its arguments.
        sources: the indices of the arguments with respect to which to differentiate.
        targets: the indices of the results whose gradients are given.
        tail: a function that was applied to the only result, such as `relu`, whose derivative is the same at its result
            as at its argument. The tail's result is then passed after the arguments, and the gradient that is given is
            that with respect to the tail's result.
    """

    def __init__(
        self,
        function: Callable,
        count: int,
        sources: Sequence[int],
        targets: Sequence[int],
        tail: Callable[[tf.Tensor], tf.Tensor] | None = None,
    ):
        def differentiate(*arguments: tf.Tensor) -> Sequence[tf.Tensor]:
            inputs, dys = arguments[:count], arguments[count:]
            if tail is not None:
                dys = (derivative(tail, *dys),)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                watched = [inputs[i] for i in sources]
                tape.watch(watched)
                results = function(*inputs)
            gradients = tape.gradient(
                [results[i] for i in targets],
                watched,
                output_gradients=list(dys),
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
            # TensorFlow gives the gradient of a look-up as the rows that were looked up; this makes it dense.
            return [tf.convert_to_tensor(gradient) for gradient in gradients]  # pyright: ignore[reportOptionalIterable]

        super().__init__(differentiate)


def _prepared(function: Callable, arguments: Sequence[Any]) -> Prepared:
    concrete = trace(function, arguments)
    needed = _ancestors(concrete.outputs)
    own = concrete.inputs[: len(arguments)]
    used = tuple(i for i, placeholder in enumerate(own) if placeholder.op in needed)
    if len(used) == len(arguments):
        return Prepared(concrete, used)

    def of_used(*values: tf.Tensor):
        known = dict(zip(used, values, strict=True))
        return function(*[known.get(i, tf.zeros(a.shape, a.dtype)) for i, a in enumerate(arguments)])

    return Prepared(trace(of_used, [arguments[i] for i in used]), used)


class VariedFunction:
    """Functions that differ from shard to shard in something that is known while they are traced.

    Args:
        make: a function that makes the function for a key, such as the part of a shard inside the image.
    """

    def __init__(self, make: Callable[[Any], Callable]):
        self._make = functools.cache(make)

    def of(self, key: Any) -> Callable:
        """The function for one key."""
        return self._make(key)

    def __call__(self, key: Any, *arguments: tf.Tensor) -> tuple[tf.Tensor, ...]:
        if isinstance(key, Choice):
            cases = [lambda k=k: self._make(k)(*arguments) for k in key.keys]
            return tuple(tf.switch_case(key.number, cases)) if len(cases) > 1 else cases[0]()
        return self._make(key)(*arguments)


@dataclass(frozen=True)
class Choice:
    """A key that is known only on the device, given as its number among the possible keys."""

    number: tf.Tensor
    keys: tuple


def derivative(function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
    """The gradient with respect to `x`, given the gradient `dy` with respect to `function(x)`."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        y = function(x)
    return tape.gradient(y, x, output_gradients=[dy])  # pyright: ignore[reportReturnType]


@contextmanager
def undifferentiated() -> Iterator[None]:
    """Build operations whose gradients will not be asked for, inside a `with` block.

    The gradients that `tf.custom_gradient` registers meanwhile are removed afterwards, because they would keep the
    graph alive forever. Keras's optimizers register such gradients when they sum gradients over replicas, which would
    keep the whole step of every model that was ever trained.
    """
    registry = ops.gradient_registry._registry
    before = set(registry)
    try:
        yield
    finally:
        for name in registry.keys() - before:
            del registry[name]


def custom_gradient(function: Callable[..., tuple[tf.Tensor, Callable]]) -> Callable[..., tf.Tensor]:
    """As `tf.custom_gradient`, for local functions: under a tape, the given gradient is used.

    TensorFlow's own function enters each use in a graph into a registry from which nothing is ever removed, so a
    process would keep the graph of every step that it has traced. Without a tape, such as in a branch of a conditional
    whose gradient is computed later, the operations' own gradients are used; they must have the same values.

    Args:
        function: a function from tensors to a tensor and to a second function, which turns the gradient of that tensor
            into the list of the gradients of the arguments.
    """

    @functools.wraps(function)
    def recorded(*arguments: tf.Tensor) -> tf.Tensor:
        with record.stop_recording():
            y, gradient = function(*arguments)
            y = tf.identity(y) if any(y is a for a in arguments) else y
        record.record_operation(function.__name__, [y], list(arguments), gradient)
        return y

    return recorded


def scalar(value: float, dtype: tf.DType | str) -> tf.Tensor:
    """A Python number as a tensor. `tf.cast` would round it to float32 before it makes it float64."""
    return tf.constant(np.asarray(value).astype(tf.as_dtype(dtype).as_numpy_dtype))


def static_sizes(shape: tf.TensorShape) -> list[int]:
    """The sizes of a shape as integers; while a step is traced, all of them are known."""
    return shape.as_list()  # pyright: ignore[reportReturnType]


def signature_of(arguments: Sequence[Any]) -> tuple:
    """The dtypes and static shapes of some arguments."""
    return tuple((a.dtype, *static_sizes(a.shape)) for a in arguments)


def _ancestors(tensors: Sequence[tf.Tensor]) -> set[tf.Operation]:
    """All operations on which some tensors of a graph depend."""
    found: set[tf.Operation] = set()
    pending = [t.op for t in tensors]
    while pending:
        operation = pending.pop()
        if operation not in found:
            found.add(operation)
            pending += [t.op for t in operation.inputs] + list(operation.control_inputs)
    return found


def trace(function: Callable, arguments: Sequence[tf.Tensor]):
    """A concrete function for arguments of these shapes and dtypes, with a flat tuple of results.

    It contains whatever its Python function makes; TensorFlow handles nested functions, control edges and custom
    gradients, and removes operations on which the results do not depend when it prepares the function for a device.
    """
    specs = [tf.TensorSpec(a.shape, a.dtype) for a in arguments]
    # Inlined bodies would make the graph as large as if nothing were shared.
    traced = tf.function(
        lambda *args: tuple(function(*args)), autograph=False, experimental_attributes={"_noinline": True}
    )
    return traced.get_concrete_function(*specs)


def call(
    concrete, arguments: Sequence[tf.Tensor], captured: Sequence[tf.Tensor] | None = None
) -> tuple[tf.Tensor, ...]:
    """One call node, on the device in force; other tensors can be given than those that the function captured."""
    graph = tf.compat.v1.get_default_graph()
    concrete.add_to_graph(graph)
    # Constants that its Python function captured are arguments, too.
    arguments = [*arguments, *(concrete.captured_inputs if captured is None else captured)]
    results = [output.dtype for output in concrete.outputs]
    if not _gains_by_rewriting(concrete):
        # A node whose operation is the function itself takes a fifth of the time to prepare.
        operation = graph.create_op(tf.compat.as_str(concrete.name), arguments, results, name="call")
        return _with_shapes(operation, concrete.outputs)
    # As `tf.raw_ops.PartitionedCall`, which takes twice as long to make the same node; on a large mesh that matters.
    attributes = {
        "Tin": _types(tuple(a.dtype for a in arguments)),
        "Tout": _types(tuple(results)),
        "f": tf.compat.v1.AttrValue(func=tf.compat.v1.NameAttrList(name=concrete.name)),
        "config_proto": tf.compat.v1.AttrValue(s=_FUSING_CONFIG if _can_be_fused(concrete) else _CONFIG),
    }
    operation = graph.create_op("PartitionedCall", arguments, results, attrs=attributes)
    return _with_shapes(operation, concrete.outputs)


# Parts of the names of operations for which oneDNN has faster versions, or that call further functions.
_REWRITTEN = ("Conv", "Pool", "MatMul", "Einsum", "BatchNorm", "Call", "While", "If", "Case")


def _gains_by_rewriting(concrete) -> bool:
    """Whether TensorFlow would replace operations of a function by oneDNN's; not if it only adds and moves data."""
    if not hasattr(concrete, "_gains_by_rewriting"):
        kinds = {operation.type for operation in concrete.graph.get_operations()}
        concrete._gains_by_rewriting = any(part in kind for kind in kinds for part in _REWRITTEN)
    return concrete._gains_by_rewriting


def _can_be_fused(concrete) -> bool:
    """Whether a function has a convolution with a bias."""
    if not hasattr(concrete, "_can_be_fused"):
        kinds = {operation.type for operation in concrete.graph.get_operations()}
        concrete._can_be_fused = "BiasAdd" in kinds and any("Conv" in kind for kind in kinds)
    return concrete._can_be_fused


def _with_shapes(operation: tf.Operation, like: Sequence[tf.Tensor]) -> tuple[tf.Tensor, ...]:
    for result, output in zip(operation.outputs, like, strict=True):
        result.set_shape(output.shape)
    return tuple(operation.outputs)


@functools.cache
def _types(dtypes: tuple[tf.DType, ...]) -> tf.compat.v1.AttrValue:
    kinds = [dtype.as_datatype_enum for dtype in dtypes]
    return tf.compat.v1.AttrValue(list=tf.compat.v1.AttrValue.ListValue(type=kinds))
