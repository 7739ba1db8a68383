"""Operations that follow one another, made one: fewer functions to call, and less kept for the backward pass."""

from collections import Counter
from collections.abc import Iterable, Sequence

from keras_spatial.engine.local import LocalOperation
from keras_spatial.mesh_tensorflow import mtf


def fuse(graph: mtf.Graph, mesh_impl: mtf.MeshImpl, kept: Iterable[mtf.Tensor]) -> None:
    """Make elementwise operations part of the operation before them, where that one accepts it.

    A bias joins its convolution, a `relu` its convolution or normalization. What passed between the two is then
    neither stored nor seen by anything else. Local operations whose results nothing uses are left out.

    Args:
        graph: a graph that is not differentiated or lowered yet.
        mesh_impl: the mesh implementation that it will be lowered on.
        kept: tensors that must stay, since they are read from outside the graph.
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
                # It takes the later place: what its new inputs are made of stands before that.
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
    """What an elementwise operation's first input comes from, if that may accept it."""
    if not (isinstance(operation, LocalOperation) and operation.elementwise and len(operation.outputs) == 1):
        return None
    before = operation.inputs[0].operation
    return before if hasattr(before, "accepts") else None
