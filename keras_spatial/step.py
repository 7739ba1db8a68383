"""One step of a partitioned model, from its inputs to the results that are read from it."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import tree

from keras_spatial.engine.backward import gradients as recomputing_gradients
from keras_spatial.engine.concatenation import split_concatenations
from keras_spatial.engine.fusion import fuse
from keras_spatial.engine.local import Source
from keras_spatial.engine.tensors import SpatialTensor, mesh_shape_of
from keras_spatial.mesh_tensorflow import lowering_of, mtf
from keras_spatial.network import Network
from keras_spatial.objective import Objective, lower_objective


class Step:
    """A forward pass, its losses and metrics, its backward pass, and their lowering to TensorFlow operations.

    The constructor makes the forward pass. Then call, in this order: `objective`, if losses and metrics are wanted;
    `backward`, if gradients are wanted; `lower`; and then `whole`, `gradients` and the other methods that read results.
    To differentiate outputs that must be read first, call `lower`, `backward` and `lower` again.

    A step runs while a `tf.function` is traced, or eagerly.

    Args:
        network: the model on its mesh.
        inputs: `tf.Tensor`s of static shape or `LocalBlocks`, in the structure of the model's inputs.
        training: whether layers run in training mode.
        differentiable_inputs: whether gradients with respect to the inputs will be asked for.
        weight_values: tensors to use in place of variables, keyed by the variables' `id`.
        recompute: for each layer that is computed again in the backward pass, the number of its recomputation segment.

    Attributes:
        inputs, outputs: `SpatialTensor`s, in the model's structures.
    """

    def __init__(
        self,
        network: Network,
        inputs: Any,
        *,
        training: bool,
        differentiable_inputs: bool = False,
        weight_values: Mapping[int, tf.Tensor] | None = None,
        recompute: Mapping[str, int] | None = None,
    ):
        lengths = network.shard_lengths(inputs, training)
        self.trace = network.trace(inputs, training, shard_lengths=lengths, weight_values=weight_values or {})
        self.inputs = tree.map_structure(
            lambda x: self.trace.input(x, differentiable=differentiable_inputs and x.dtype.is_floating), inputs
        )
        self.outputs = network.forward(self.trace, inputs, self.inputs)
        self._recompute = dict(recompute or {})
        self._read: list[SpatialTensor] = [*self.flat_outputs, *self.trace.losses]
        self._fused = False
        self._lowering: mtf.Lowering | None = None
        self._lowered = 0
        self._weight_gradients: list[mtf.Tensor | None] = []
        self._input_gradients: list[mtf.Tensor | None] = []

    @property
    def flat_outputs(self) -> list[SpatialTensor]:
        return tree.flatten(self.outputs)

    def objective(self, model: keras.Model, labels: Any, sample_weight: Any) -> Objective:
        """Add a compiled model's losses and metrics; only they can be read from the step afterwards."""
        self._check(not self._fused, "objective")
        objective = lower_objective(self.trace, model, self.outputs, labels, sample_weight)
        self._read = objective.read
        return objective

    def backward(
        self, ys: Sequence[SpatialTensor], dys: Sequence[tf.Tensor], variables: Sequence[keras.Variable]
    ) -> None:
        """Differentiate tensors with respect to variables and differentiable inputs, with `mtf.gradients`.

        Args:
            ys: the tensors to differentiate.
            dys: the gradients with respect to `ys`, in their logical shapes.
            variables: the Keras variables whose gradients are wanted.
        """
        self._fuse()
        trace = self.trace
        # Several outputs may be the same tensor, for which `mtf.gradients` would use only one of the seeds.
        given: dict[mtf.Tensor, tuple[SpatialTensor, tf.Tensor]] = {}
        for y, dy in zip(ys, dys, strict=True):
            dy = tf.cast(dy, y.dtype)
            given[y.value] = (y, given[y.value][1] + dy if y.value in given else dy)
        seeds = []
        for y, dy in given.values():
            padding = [(0, axis.shards * axis.length - axis.size) for axis in y.axes]
            dy = tf.pad(dy, padding) if y.padded_axes else dy
            seeds.append(Source(trace.mesh, dy, mesh_shape_of(y.axes), differentiable=False, name="seed").outputs[0])
        weights = [trace.known_weight(v) for v in variables]
        sources = [w for w in weights if w is not None] + [x.value for x in tree.flatten(self.inputs)]
        found = iter(recomputing_gradients(list(given), sources, seeds, self._segments()))
        self._weight_gradients = [None if w is None else next(found) for w in weights]
        self._input_gradients = list(found)

    def _segments(self) -> dict[mtf.Operation, int]:
        """The operations that are computed again, each with the number of its recomputation segment."""
        found = {}
        for operation in self.trace.graph.operations:
            segments = [self._recompute[n] for n in self.trace.layers.get(operation, ()) if n in self._recompute]
            if segments and not isinstance(operation, Source):
                found[operation] = segments[0]
        return found

    def lower(self) -> None:
        """Lower the operations that have not been lowered yet, each shard's on its own device."""
        self._fuse()
        trace = self.trace
        operations = trace.graph.operations
        if self._lowering is None:
            self._lowering = lowering_of(trace.graph, {trace.mesh: trace.impl})
        else:
            for operation in operations[self._lowered :]:
                operation.lower(self._lowering)
        self._lowered = len(operations)

    def _fuse(self) -> None:
        """Run the passes over the graph, before any operation is differentiated or lowered."""
        if not self._fused:
            trace = self.trace
            for part, of in split_concatenations(trace.graph, trace.impl).items():
                trace.layers[part] = trace.layers.get(of, ())
            fuse(trace.graph, trace.impl, [x.value for x in self._read] + [value for _, value, _ in trace.updates])
            self._fused = True

    def _check(self, holds: bool, what: str) -> None:
        if not holds:
            raise RuntimeError(f"Call Step.{what} before backward and lower, and only once.")

    # Reading results.

    def whole(self, x: SpatialTensor) -> tf.Tensor:
        """The whole tensor in its logical shape, gathered. Use it for small tensors and for what the user asked for."""
        return self._export(x.value, x.shape)

    def _export(self, value: mtf.Tensor, shape: Sequence[int]) -> tf.Tensor:
        assert self._lowering is not None
        whole = self._lowering.export_to_tf_tensor(value)
        if whole.shape != tuple(shape):
            whole = tf.slice(whole, [0] * len(shape), list(shape))
        return whole

    def gradients(self, variables: Sequence[keras.Variable]) -> list[tf.Tensor | None]:
        """The gradients of the variables that `backward` was given; None if the outputs do not depend on a variable."""
        assert self._lowering is not None
        known = [self._lowering.tensors[g] for g in self._weight_gradients if g is not None]
        self.trace.impl.reduce_together(known)
        pairs = zip(self._weight_gradients, variables, strict=True)
        return [None if g is None else self._export(g, v.shape) for g, v in pairs]

    def input_gradients(self) -> list[tf.Tensor | None]:
        """The gradients of the differentiable inputs, flattened."""
        pairs = zip(self._input_gradients, tree.flatten(self.inputs), strict=True)
        return [None if g is None else self._export(g, x.shape) for g, x in pairs]

    def local_blocks(self, x: SpatialTensor) -> tuple[list[tuple[int, tuple[slice, ...]]], list[tf.Tensor]]:
        """The shards of a tensor on the devices of this process: for each, which device holds it and where it lies in
        the tensor; and the values from which `Runtime.handed_out` reads them.

        Elements beyond the logical size are left out. A shard that several devices hold comes from the first of them.
        """
        assert self._lowering is not None
        impl = self.trace.impl
        shape = x.value.shape
        lengths = impl.slice_shape(shape)
        begins = [tuple(impl.slice_begin(shape, pnum)) for pnum in range(impl.shape.size)]
        first: dict[tuple[int, ...], int] = {}
        for pnum, begin in enumerate(begins):
            first.setdefault(begin, pnum)
        places = []
        for position, pnum in enumerate(impl.own_numbers()):
            begin = begins[pnum]
            ends = [min(b + n, size) for b, n, size in zip(begin, lengths, x.shape, strict=True)]
            if first[begin] == pnum and all(b < end for b, end in zip(begin, ends, strict=True)):
                places.append((position, tuple(slice(b, end) for b, end in zip(begin, ends, strict=True))))
        shards = self._lowering.tensors[x.value].to_laid_out_tensor().tensor_list
        return places, impl.hand_out(shards, places)

    def apply_assignments(self) -> None:
        """Assign the variables that must be assigned before the optimizer changes them."""
        for variable, value in self.trace.assignments:
            variable.assign(value)
        self.trace.assignments.clear()

    def apply_updates(self) -> None:
        """Assign the moving averages."""
        self.apply_assignments()
        for variable, value, blend in self.trace.updates:
            new = blend(self.trace.value_of(variable), self._export(value, variable.shape))
            variable.assign(tf.cast(new, variable.dtype))
