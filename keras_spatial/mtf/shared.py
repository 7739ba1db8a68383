"""Local functions that are traced once and called on every slice.

A graph then holds one call per slice where it would hold the function's body, so that building it costs little on a
large mesh.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context  # Not public; the only way to choose how one call is optimized.

# A local function is called on every device, and TensorFlow prepares it for each of them: without its graph optimizers,
# which would take most of a first step. What they would drop, `trace` leaves out.
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


class SharedFunction:
    """A stateless TensorFlow function, traced once for arguments of some shapes and called by one node from then on.

    Args:
        function: from tensors of static shape to a tuple of tensors.
    """

    def __init__(self, function: Callable[..., Sequence[tf.Tensor]]):
        self._function = function
        self._traced: dict[tuple, Any] = {}

    def inline(self, *arguments: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """The function's operations in the graph at hand: they can write over arguments that nothing else uses.

        A called function cannot: its caller holds on to its arguments.
        """
        return tuple(self._function(*arguments))

    def __call__(self, *arguments: tf.Tensor) -> tuple[tf.Tensor, ...]:
        tensors = [tf.convert_to_tensor(a) for a in arguments]
        if tf.executing_eagerly():
            return tuple(self._function(*tensors))
        signature = tuple((t.dtype, *static_sizes(t.shape)) for t in tensors)
        if signature not in self._traced:
            self._traced[signature] = trace(self._function, tensors)
        return call(self._traced[signature], tensors)


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
            return tape.gradient(  # pyright: ignore[reportReturnType]
                [results[i] for i in targets],
                watched,
                output_gradients=list(dys),
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )

        super().__init__(differentiate)
        self._concrete = None
        self._used: list[int] = []

    def __call__(self, *arguments: tf.Tensor) -> tuple[tf.Tensor, ...]:
        tensors = [tf.convert_to_tensor(a) for a in arguments]
        if tf.executing_eagerly():
            # A tensor that stands for several arguments must be told apart.
            return tuple(self._function(*[tf.identity(a) for a in tensors]))
        if self._concrete is None:
            self._trace(tensors)
        return call(self._concrete, [tensors[i] for i in self._used])

    def _trace(self, arguments: Sequence[tf.Tensor]) -> None:
        """Trace the function of only those arguments that it depends on, so that the call keeps no others alive."""
        concrete = trace(self._function, arguments)
        needed = _ancestors(concrete.outputs)
        self._used = [i for i, placeholder in enumerate(concrete.inputs) if placeholder.op in needed]
        if len(self._used) == len(arguments):
            self._concrete = concrete
            return

        def of_used(*used: tf.Tensor):
            known = dict(zip(self._used, used, strict=True))
            return self._function(*[known.get(i, tf.zeros(a.shape, a.dtype)) for i, a in enumerate(arguments)])

        self._concrete = trace(of_used, [arguments[i] for i in self._used])


def derivative(function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
    """The gradient with respect to `x`, given that of `function(x)`."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        y = function(x)
    return tape.gradient(y, x, output_gradients=[dy])  # pyright: ignore[reportReturnType]


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

    Operations that its results do not depend on, such as those of a forward pass that only its gradient was wanted of,
    are left out.
    """
    specs = [tf.TensorSpec(a.shape, a.dtype) for a in arguments]
    traced = _get_concrete(lambda *args: tuple(function(*args)), specs)
    needed = {operation.name for operation in _ancestors(traced.outputs)}
    names = [placeholder.op.name for placeholder in traced.inputs]
    if all(operation.name in needed for operation in traced.graph.get_operations() if operation.name not in names):
        return traced
    definition = traced.graph.as_graph_def()
    # Without the placeholders too, of which XLA compiles none.
    kept = [node for node in definition.node if node.name in needed and node.name not in names]
    for node in kept:
        node.attr.pop("_class", None)  # To be on one device with a node that is left out; all are on one.
    del definition.node[:]
    definition.node.extend(kept)
    used = {edge.partition(":")[0] for node in kept for edge in node.input}
    results = [output.name for output in traced.outputs if output.op.name not in names]

    def of_needed(*args: tf.Tensor):
        given = dict(zip(names, args, strict=True))
        fed = {f"{name}:0": argument for name, argument in given.items() if name in used}
        found = iter(tf.graph_util.import_graph_def(definition, fed, results, name=""))
        return tuple(given[o.op.name] if o.op.name in given else next(found) for o in traced.outputs)

    return _get_concrete(of_needed, specs)


def _get_concrete(function: Callable, specs: Sequence[tf.TensorSpec]):
    # Inlined, the bodies would make the graph as large as if nothing were shared.
    traced = tf.function(function, autograph=False, experimental_attributes={"_noinline": True})
    return traced.get_concrete_function(*specs)


def call(concrete, arguments: Sequence[tf.Tensor]) -> tuple[tf.Tensor, ...]:
    """One call node, on the device in force."""
    graph = tf.compat.v1.get_default_graph()
    concrete.add_to_graph(graph)
    results = [output.dtype for output in concrete.outputs]
    if not _gains_by_rewriting(concrete):
        # A node whose operation is the function itself is prepared in a fifth of the time.
        operation = graph.create_op(tf.compat.as_str(concrete.name), list(arguments), results, name="call")
        return _with_shapes(operation, concrete.outputs)
    # As `tf.raw_ops.PartitionedCall`, which takes twice as long to find out the same; on a large mesh that is felt.
    attributes = {
        "Tin": _types(tuple(a.dtype for a in arguments)),
        "Tout": _types(tuple(results)),
        "f": tf.compat.v1.AttrValue(func=tf.compat.v1.NameAttrList(name=concrete.name)),
        "config_proto": tf.compat.v1.AttrValue(s=_CONFIG),
    }
    operation = graph.create_op("PartitionedCall", list(arguments), results, attrs=attributes)
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
