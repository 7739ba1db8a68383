"""Local functions that are traced once and called on every shard.

A graph then holds one call per shard where it would hold the function's body, so that building it costs little on a
large mesh.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

# Not public: how one call is optimized; `custom_gradient`; `undifferentiated`.
from tensorflow.python.eager import context, record
from tensorflow.python.framework import ops

# A local function is called on every device, and TensorFlow prepares it for each of them: without its graph optimizers,
# which would take most of a first step.
_PROTO = tf.compat.v1.ConfigProto()
_PROTO.graph_options.rewrite_options.disable_meta_optimizer = True
_CONFIG = _PROTO.SerializeToString()


@contextmanager
def unoptimized() -> Iterator[None]:
    """Call functions without TensorFlow's graph optimizer.

    The graph of a step is calls of local functions, which are optimized by themselves, and what passes between them.
    There is nothing in it to optimize, but on a large mesh the attempt takes longer than all else.
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
        concrete: TensorFlow's function.
        used: which of the arguments it takes: those that its results depend on.
    """

    concrete: Any
    used: tuple[int, ...]

    def __call__(self, arguments: Sequence[tf.Tensor]) -> tuple[tf.Tensor, ...]:
        """One call node, in the graph at hand."""
        return call(self.concrete, [arguments[i] for i in self.used])


class SharedFunction:
    """A stateless TensorFlow function, traced once for arguments of some shapes and called by one node from then on.

    A call takes only those arguments that the results depend on, so that it keeps no others alive.

    Args:
        function: from tensors of static shape to a tuple of tensors.
    """

    def __init__(self, function: Callable[..., Sequence[tf.Tensor]]):
        self._function = function
        self._traced: dict[tuple, Prepared] = {}

    def inline(self, *arguments: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """The function's operations in the graph at hand: they can write over arguments that nothing else uses.

        A called function cannot: its caller holds on to its arguments.
        """
        return tuple(self._function(*arguments))

    def __call__(self, *arguments: tf.Tensor) -> tuple[tf.Tensor, ...]:
        tensors = [tf.convert_to_tensor(a) for a in arguments]
        if tf.executing_eagerly():
            # A tensor that stands for several arguments must be told apart, lest derivatives be added up.
            return tuple(self._function(*[tf.identity(a) for a in tensors]))
        return self.prepared(tensors)(tensors)

    def prepared(self, arguments: Sequence[Any]) -> Prepared:
        """The function for arguments of some shapes, traced at most once.

        Args:
            arguments: anything with a static `shape` and a `dtype`.
        """
        signature = tuple((a.dtype, *static_sizes(a.shape)) for a in arguments)
        if signature not in self._traced:
            self._traced[signature] = _prepared(self._function, arguments)
        return self._traced[signature]


class DerivativeFunction(SharedFunction):
    """The derivative of a function, transposed: from its arguments and its results' gradients to arguments' gradients.

    Args:
        function: from `count` tensors to a tuple of tensors.
        count: the number of its arguments.
        sources: the arguments to differentiate with respect to.
        targets: the results whose gradients are given.
        tail: a function of the only result, such as `relu`, whose derivative is the same at its own result. That
            result follows the arguments, and the gradient that is given is that of it.
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
            # Of rows that were looked up TensorFlow gives the gradient as those rows alone.
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
        make: from a key, such as what of a shard lies inside the image, to a function.
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
    """A key that only the device itself knows, by its number among the possible ones."""

    number: tf.Tensor
    keys: tuple


def derivative(function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
    """The gradient with respect to `x`, given that of `function(x)`."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        y = function(x)
    return tape.gradient(y, x, output_gradients=[dy])  # pyright: ignore[reportReturnType]


@contextmanager
def undifferentiated() -> Iterator[None]:
    """Build operations whose gradients nobody will ask for.

    The gradients that `tf.custom_gradient` registers meanwhile are forgotten afterwards: they would hold the graph for
    good. Keras's optimizers add up gradients over replicas so, which keeps the whole step of every model ever trained.
    """
    registry = ops.gradient_registry._registry
    before = set(registry)
    try:
        yield
    finally:
        for name in registry.keys() - before:
            del registry[name]


def custom_gradient(function: Callable[..., tuple[tf.Tensor, Callable]]) -> Callable[..., tf.Tensor]:
    """As `tf.custom_gradient`, for local functions: under a tape the gradient is the given one.

    TensorFlow's own enters each use in a graph into a registry that nothing ever leaves, so that a process keeps the
    graph of every step that it has traced. Where there is no tape, such as in a branch of a conditional whose gradient
    is found later, the operations' own gradients are taken; they must give the same.

    Args:
        function: from tensors to a tensor and the function from its gradient to the list of those of the arguments.
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
    """A Python number as a tensor. `tf.cast` would round it to float32 on its way to float64."""
    return tf.constant(np.asarray(value).astype(tf.as_dtype(dtype).as_numpy_dtype))


def static_sizes(shape: tf.TensorShape) -> list[int]:
    """The sizes of a shape, all of which are known while a step is traced."""
    return shape.as_list()  # pyright: ignore[reportReturnType]


def _ancestors(tensors: Sequence[tf.Tensor]) -> set[tf.Operation]:
    """All operations that some tensors of a graph depend on."""
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

    It holds whatever its Python function makes: nested functions, control edges and custom gradients are TensorFlow's
    business. What its results do not depend on TensorFlow drops when it prepares the function for a device.
    """
    specs = [tf.TensorSpec(a.shape, a.dtype) for a in arguments]
    # Inlined, the bodies would make the graph as large as if nothing were shared.
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
    # Constants that its Python function found outside are arguments too.
    arguments = [*arguments, *(concrete.captured_inputs if captured is None else captured)]
    results = [output.dtype for output in concrete.outputs]
    if not _gains_by_rewriting(concrete):
        # A node whose operation is the function itself is prepared in a fifth of the time.
        operation = graph.create_op(tf.compat.as_str(concrete.name), arguments, results, name="call")
        return _with_shapes(operation, concrete.outputs)
    # As `tf.raw_ops.PartitionedCall`, which takes twice as long to find out the same; on a large mesh that is felt.
    attributes = {
        "Tin": _types(tuple(a.dtype for a in arguments)),
        "Tout": _types(tuple(results)),
        "f": tf.compat.v1.AttrValue(func=tf.compat.v1.NameAttrList(name=concrete.name)),
        "config_proto": tf.compat.v1.AttrValue(s=_CONFIG),
    }
    operation = graph.create_op("PartitionedCall", arguments, results, attrs=attributes)
    return _with_shapes(operation, concrete.outputs)


# Parts of the names of operations that oneDNN has faster versions of, or that call further functions.
_REWRITTEN = ("Conv", "Pool", "MatMul", "Einsum", "BatchNorm", "Call", "While", "If", "Case")


def _gains_by_rewriting(concrete) -> bool:
    """Whether TensorFlow, for oneDNN, replaces operations of a function; not where it only adds and moves data."""
    if not hasattr(concrete, "_gains_by_rewriting"):
        kinds = {operation.type for operation in concrete.graph.get_operations()}
        concrete._gains_by_rewriting = any(part in kind for kind in kinds for part in _REWRITTEN)
    return concrete._gains_by_rewriting


def _with_shapes(operation: tf.Operation, like: Sequence[tf.Tensor]) -> tuple[tf.Tensor, ...]:
    for result, output in zip(operation.outputs, like, strict=True):
        result.set_shape(output.shape)
    return tuple(operation.outputs)


@functools.cache
def _types(dtypes: tuple[tf.DType, ...]) -> tf.compat.v1.AttrValue:
    kinds = [dtype.as_datatype_enum for dtype in dtypes]
    return tf.compat.v1.AttrValue(list=tf.compat.v1.AttrValue.ListValue(type=kinds))
