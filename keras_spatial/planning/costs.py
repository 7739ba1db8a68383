"""Memory and arithmetic of a TensorFlow graph, from its static shapes."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import tensorflow as tf

from keras_spatial.runtimes.functions import static_sizes
from keras_spatial.runtimes.rehearsal import RECEIVED, byte_size

_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
# The result of such an operation is its first input, with another shape or name.
_ALIASES = {
    *("Identity", "Reshape", "Squeeze", "ExpandDims", "EnsureShape", "StopGradient", "ReadVariableOp", "Bitcast"),
    *("InplaceAdd", "InplaceUpdate"),
}
# TensorFlow's kernels can write the results of these over an input of the same size that nothing else needs.
_IN_PLACE = {
    *("Add", "AddN", "AddV2", "BiasAdd", "Div", "DivNoNan", "Elu", "EluGrad", "Exp", "LeakyRelu", "LeakyReluGrad"),
    *("Log", "Maximum", "Minimum", "Mul", "Neg", "Pow", "RealDiv", "Reciprocal", "Relu", "Relu6", "ReluGrad"),
    *("Rsqrt", "RsqrtGrad", "Select", "SelectV2", "Selu", "Sigmoid", "SigmoidGrad", "Softmax", "Softplus"),
    *("Snapshot", "Sqrt", "Square", "SquaredDifference", "Sub", "Tanh", "TanhGrad"),
}
# The operations between a gradient and the update of its variable, and those that update it.
_CHEAP = _IN_PLACE | _ALIASES | {"Cast", "IdentityN"}
_UPDATES = ("Assign", "ResourceApply")
_CONVOLUTIONS = {
    # For each type, which inputs are the image and the kernel; None stands for the output.
    **dict.fromkeys(("Conv2D", "Conv3D"), (None, 1)),
    **dict.fromkeys(("Conv2DBackpropInput", "Conv3DBackpropInputV2"), (2, 1)),
    **dict.fromkeys(("Conv2DBackpropFilter", "Conv3DBackpropFilterV2"), (2, None)),
    "DepthwiseConv2dNative": (None, 1),
    "DepthwiseConv2dNativeBackpropInput": (2, 1),
    "DepthwiseConv2dNativeBackpropFilter": (2, None),
}


@dataclass(frozen=True)
class Costs:
    """What running a graph costs one device.

    Attributes:
        peak: bytes of all tensors at the worst moment, arguments not counted.
        at: the operation that runs then.
        largest: the tensors that are kept at that moment, largest first: name and bytes.
        workspace: bytes, of those at the peak, inside the operation that runs.
        flops: floating-point operations of convolutions and matrix products, and one per element of other results.
    """

    peak: int
    at: str
    largest: tuple[tuple[str, int], ...]
    workspace: int
    flops: int


@dataclass
class _Buffer:
    """Memory that one or several tensors share."""

    name: str
    size: int
    owned: bool  # False for an argument, whose memory belongs to the caller.
    last: int = -1


@dataclass
class _Functions:
    """The costs of the functions that a graph calls, each found once."""

    graph: tf.Graph
    known: dict[str, Costs | None] = field(default_factory=dict)

    def of(self, operation: tf.Operation) -> Costs | None:
        """The costs of the function that an operation calls, or is itself; None for TensorFlow's own operations."""
        name = operation.get_attr("f").name if operation.type in _CALLS else operation.type
        if name not in self.known:
            function = self.graph._get_function(name)  # Not public; it is read here and nowhere else.
            if function is None and operation.type in _CALLS:
                raise ValueError(f"The graph calls a function that it does not contain. Received: {name}")
            self.known[name] = None if function is None else costs(function.graph, function.graph.outputs, self)
        return self.known[name]


def costs(graph: tf.Graph, outputs: Sequence[tf.Tensor], functions: _Functions | None = None) -> Costs:
    """What running a graph costs, if its operations run in the order in which they were made.

    Args:
        graph: a graph with static shapes.
        outputs: the tensors that are computed. Operations with side effects run as well.
        functions: what is known about the functions that the graph calls.
    """
    functions = functions or _Functions(graph)
    operations = _needed(graph, outputs)
    buffers = _buffers(operations, outputs)
    live: dict[int, _Buffer] = {}
    total = peak = workspace = flops = 0
    at, largest = "", ()
    for number, operation in enumerate(operations):
        inner = functions.of(operation)
        flops += inner.flops if inner else _flops(operation)
        made = {id(b): b for b in (buffers[t.ref()] for t in operation.outputs) if b.owned and id(b) not in live}
        size = sum(b.size for b in made.values())
        needs = max(inner.peak, size) if inner else size
        if total + needs > peak:
            peak, workspace, at = total + needs, needs - size, operation.name
            kept = sorted([*live.values(), *made.values()], key=lambda b: -b.size)
            largest = tuple((b.name, b.size) for b in kept[:8])
        live |= made
        total += size
        for key, buffer in list(live.items()):
            if buffer.last <= number:
                total -= buffer.size
                del live[key]
    return Costs(peak, at, largest, workspace, flops)


def _needed(graph: tf.Graph, outputs: Iterable[tf.Tensor]) -> list[tf.Operation]:
    """The operations on which the outputs or side effects depend, in the order in which they were made."""
    pending = [t.op for t in outputs]
    pending += [o for o in graph.get_operations() if o.type.startswith(_UPDATES)]
    pending += list(getattr(graph, "control_outputs", ()))
    found: set[tf.Operation] = set()
    while pending:
        operation = pending.pop()
        if operation not in found:
            found.add(operation)
            pending += [t.op for t in operation.inputs] + list(operation.control_inputs)
    return _as_ready([o for o in graph.get_operations() if o in found])


def _as_ready(operations: Sequence[tf.Operation]) -> list[tf.Operation]:
    """Operations in their order, except that those that update a variable come as soon as their inputs are ready.
    TensorFlow does not wait either: it does not keep the gradient of a weight until all other gradients are computed.
    """
    updating: set[tf.Operation] = set()
    for operation in reversed(operations):
        if operation.type.startswith(_UPDATES):
            updating.add(operation)
        elif operation.type in _CHEAP:
            followers = [c for t in operation.outputs for c in t.consumers()]
            if followers and all(c in updating for c in followers):
                updating.add(operation)
    place: dict[tf.Operation, int] = {}
    for number, operation in enumerate(operations):
        before = [place[o] for o in (*(t.op for t in operation.inputs), *operation.control_inputs) if o in place]
        place[operation] = max(before, default=number) if operation in updating else number
    return sorted(operations, key=place.__getitem__)


def _buffers(operations: Sequence[tf.Operation], outputs: Iterable[tf.Tensor]) -> Mapping:
    """The buffer of each tensor, with the number of the last operation that uses it."""
    last: dict = {}
    for number, operation in enumerate(operations):
        for t in (*operation.inputs, *operation.outputs):
            last[t.ref()] = number
    for t in outputs:
        last[t.ref()] = len(operations)
    buffers: dict = {}
    remaining: dict[int, int] = {}
    for number, operation in enumerate(operations):
        for t in operation.outputs:
            buffer = _shared(operation, t, number, buffers, remaining)
            if buffer is None:
                owned = operation.type not in ("Placeholder", "Const", "VarHandleOp")
                buffer = _Buffer(t.name, byte_size(t) if owned and t.shape.is_fully_defined() else 0, owned)
            buffers[t.ref()] = buffer
            buffer.last = max(buffer.last, last[t.ref()])
            remaining[id(buffer)] = buffer.last
    return buffers


def _shared(operation: tf.Operation, output: tf.Tensor, number: int, buffers, remaining) -> _Buffer | None:
    """The buffer of the input over which an output is written, or which the output is, if there is one."""
    if operation.type in _ALIASES and not operation.name.split("/")[-1].startswith(RECEIVED) and operation.inputs:
        return buffers[operation.inputs[0].ref()]
    if operation.type == "IdentityN":
        return buffers[operation.inputs[output.value_index].ref()]
    if operation.type in _IN_PLACE and output.shape.is_fully_defined():
        for t in operation.inputs:
            buffer = buffers[t.ref()]
            if buffer.owned and buffer.size == byte_size(output) and remaining[id(buffer)] <= number:
                return buffer
    return None


def _flops(operation: tf.Operation) -> int:
    if not operation.outputs or not operation.outputs[0].shape.is_fully_defined():
        return 0
    elements = math.prod(static_sizes(operation.outputs[0].shape))
    if operation.type in _CONVOLUTIONS:
        image, kernel = (
            operation.outputs[0] if i is None else operation.inputs[i] for i in _CONVOLUTIONS[operation.type]
        )
        *window, channels, _ = static_sizes(kernel.shape)
        taps = math.prod(window) * (1 if operation.type.startswith("Depthwise") else channels)
        return 2 * taps * math.prod(static_sizes(image.shape))
    if operation.type in ("MatMul", "BatchMatMulV2"):
        attribute = "transpose_a" if operation.type == "MatMul" else "adj_x"
        shape = static_sizes(operation.inputs[0].shape)
        return 2 * elements * shape[-2 if operation.get_attr(attribute) else -1]
    if operation.type in _ALIASES or operation.type in ("Const", "Placeholder", "Fill", "Slice", "ConcatV2", "Pad"):
        return 0
    return elements
