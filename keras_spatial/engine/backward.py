"""Gradients that compute segments of the forward pass again instead of keeping their results."""

import copy
from collections.abc import Mapping, Sequence

import tensorflow as tf

from keras_spatial.engine.local import leads_to_differentiable_source
from keras_spatial.mesh_tensorflow import mtf


class After(mtf.Operation):
    """A tensor that is available only after another one is computed, so that operations that read it run late too."""

    def __init__(self, x: mtf.Tensor, condition: mtf.Tensor):
        super().__init__([x, condition], name="after")
        self._outputs = [mtf.Tensor(self, x.shape, x.dtype)]
        leads_to_differentiable_source(self._outputs[0])

    def lower(self, lowering: mtf.Lowering) -> None:
        def wait(x: tf.Tensor, condition: tf.Tensor) -> tf.Tensor:
            with tf.control_dependencies([condition]):
                return tf.identity(x)

        tensors = [lowering.tensors[t].to_laid_out_tensor() for t in self.inputs]
        lowering.set_tensor_lowering(self.outputs[0], lowering.mesh_impl(self).slicewise(wait, *tensors))


def gradients(
    ys: Sequence[mtf.Tensor],
    xs: Sequence[mtf.Tensor],
    grad_ys: Sequence[mtf.Tensor | None],
    segment_of: Mapping[mtf.Operation, int],
) -> list[mtf.Tensor | None]:
    """As `mtf.gradients`, but a recomputation segment keeps only those of its results that other operations read.

    When the backward pass reaches a segment, the segment's operations are repeated on its inputs, and their gradients
    read the repeated results. Random numbers are the same as the first time, because they are computed from seeds.

    Args:
        ys: the tensors to differentiate.
        xs: the tensors with respect to which to differentiate.
        grad_ys: the gradients with respect to `ys`.
        segment_of: the number of its segment, for each operation that is repeated.
    """
    if not segment_of:
        return mtf.gradients(ys, xs, grad_ys=grad_ys)
    operations = list(ys[0].graph.operations)
    downstream = set(xs)
    for operation in operations:
        if operation.has_gradient and downstream.intersection(operation.inputs):
            downstream.update(operation.outputs)
    found = {y: dy for y, dy in zip(ys, grad_ys, strict=True) if dy is not None}
    repeated: dict[mtf.Operation, mtf.Operation] = {}
    for operation in reversed(operations):
        known = [found.get(t) for t in operation.outputs]
        given = [dy for dy in known if dy is not None]
        if not (operation.has_gradient and given and downstream.intersection(operation.inputs)):
            continue
        if operation in segment_of and operation not in repeated:
            segment = [o for o in operations if segment_of.get(o) == segment_of[operation]]
            repeated |= _repeat(segment, given[0])
        for t, dy in zip(operation.inputs, repeated.get(operation, operation).gradient(known), strict=True):
            if t in downstream and dy is not None:
                found[t] = found[t] + dy if t in found else dy
    return [found.get(x) for x in xs]


def _repeat(segment: Sequence[mtf.Operation], condition: mtf.Tensor) -> dict[mtf.Operation, mtf.Operation]:
    """Repeat the operations of a segment, and return the repetition of each operation."""
    inside = {t for operation in segment for t in operation.outputs}
    mapping: dict[mtf.Tensor, mtf.Tensor] = {}
    repeated = {}
    for operation in segment:
        # One late input is enough to make the operation late; the first one also delays the halo exchange.
        first = operation.inputs[0]
        if first not in inside and first not in mapping:
            mapping[first] = After(first, condition).outputs[0]
        again = copy.copy(operation)
        again._inputs = [mapping.get(t, t) for t in operation.inputs]
        again._outputs = [mtf.Tensor(again, t.shape, t.dtype) for t in operation.outputs]
        mapping |= dict(zip(operation.outputs, again.outputs, strict=True))
        operation.graph.operations.append(again)
        repeated[operation] = again
    return repeated
