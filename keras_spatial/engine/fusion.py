"""A pass that fuses successive operations: fewer functions are called, and less is kept for the backward pass."""

from collections import Counter
from collections.abc import Iterable, Sequence

from keras_spatial.engine.local import LocalOperation
from keras_spatial.mesh_tensorflow import mtf


def fuse(graph: mtf.Graph, mesh_impl: mtf.MeshImpl, kept: Iterable[mtf.Tensor]) -> None:
    """Make elementwise operations part of the operation before them, if that operation accepts them.

    A bias joins its convolution, and a `relu` its convolution or normalization. The tensor between the two is then no
    longer stored. Local operations whose results are not used are removed.

    Args:
        graph: a graph that has not been differentiated or lowered yet.
        mesh_impl: the mesh implementation on which it will be lowered.
        kept: tensors that must stay because they are read from outside the graph.
    """
    kept = set(kept)
    graph.operations[:] = _used(graph.operations, kept)
    uses = Counter(t for operation in graph.operations for t in operation.inputs)
    operations: list[mtf.Operation] = []
    for operation in graph.operations:
        before = _before(operation)
        if before is not None:
            passed = operation.inputs[0]
            alone = uses[passed] == 1 and passed not in kept and passed.shape == operation.outputs[0].shape
            if alone and before.accepts(operation, mesh_impl):
                before.absorb(operation)
                (result,) = operation.outputs
                before._outputs[before.outputs.index(passed)] = result
                result._operation = before
                if len(operation.inputs) == 1:
                    continue
                # The fused operation takes the later place, because only there are all of its inputs computed.
                operations.remove(before)
                operation = before
        operations.append(operation)
    graph.operations[:] = operations


def _used(operations: Sequence[mtf.Operation], kept: set[mtf.Tensor]) -> list[mtf.Operation]:
    used, found = set(kept), []
    for operation in reversed(operations):
        if not isinstance(operation, LocalOperation) or used.intersection(operation.outputs):
            used.update(operation.inputs)
            found.append(operation)
    return found[::-1]


def _before(operation: mtf.Operation) -> mtf.Operation | None:
    """The operation that computes an elementwise operation's first input, if it can accept others."""
    if not (isinstance(operation, LocalOperation) and operation.elementwise and len(operation.outputs) == 1):
        return None
    before = operation.inputs[0].operation
    return before if hasattr(before, "accepts") else None
