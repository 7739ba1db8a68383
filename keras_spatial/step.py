"""One step of a partitioned model: build the Mesh-TF graph, differentiate it, lower it to TensorFlow.

The functions here run while a `tf.function` is traced, or eagerly. They see whole inputs, and give back scalars,
gradients of the weights, and the outputs that the caller asked for.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf
from keras import tree

from keras_spatial.distribution import SpatialParallel
from keras_spatial.lowering.objective import lower_loss, lower_metric
from keras_spatial.lowering.tensors import Blocks, BlocksTooShort, SpatialTensor, mesh_shape_of
from keras_spatial.lowering.trace import Trace
from keras_spatial.lowering.walk import lower_graph, uses_channels_first
from keras_spatial.mtf.compatibility import mtf
from keras_spatial.mtf.fusion import fuse
from keras_spatial.mtf.local import Source
from keras_spatial.mtf.recompute import gradients as recomputing_gradients
from keras_spatial.runtimes.blocks import as_tensor
from keras_spatial.runtimes.reduction import reduce_together

# Each failed attempt makes the blocks of one axis longer; a network has a handful of scales at most.
_MOST_ATTEMPTS = 100


@dataclass(frozen=True)
class Target:
    """What one output is compared with.

    Attributes:
        output: the output's number among the model's flattened outputs.
        loss: the loss, or None.
        weight: the loss's factor.
        metrics: metrics that ignore sample weights.
        weighted_metrics: metrics that use them.
    """

    output: int
    loss: keras.losses.Loss | None = None
    weight: float | None = None
    metrics: tuple[keras.metrics.Metric, ...] = ()
    weighted_metrics: tuple[keras.metrics.Metric, ...] = ()


def plan_blocks(graph: keras.Model, distribution: SpatialParallel, inputs: Any, training: bool) -> dict[str, Blocks]:
    """Cut the input so that every layer's output falls into equal blocks.

    It walks the model with ever longer blocks until all of its strides divide them; the walk makes no TensorFlow
    operation of consequence.

    Returns:
        How to cut each image axis.
    """
    blocks: dict[str, Blocks] = {}
    for _ in range(_MOST_ATTEMPTS):
        trace = Trace(distribution, training, blocks, planning=True, channels_first=uses_channels_first(graph))
        try:
            lower_graph(graph, trace, tree.map_structure(trace.input, inputs))
            return blocks
        except BlocksTooShort as needed:
            longer = blocks.get(needed.axis, Blocks()).including(needed)
            if longer == blocks.get(needed.axis):
                name = needed.axis.split("#")[0]
                raise ValueError(
                    f"Axis '{name}' cannot be cut into {distribution.blocks(name)} equal blocks for model "
                    f"'{graph.name}': its layers change the size in ways that no block length fits. Leave that axis "
                    f"whole in the layout. Received: inputs of shape {tree.map_structure(lambda x: x.shape, inputs)}"
                ) from needed
            blocks = {**blocks, needed.axis: longer}
    raise ValueError(f"No blocks were found that fit model '{graph.name}' after {_MOST_ATTEMPTS} attempts: {blocks}")


class Forward:
    """The forward pass of a model on a mesh.

    Args:
        graph: a functional model.
        distribution: the mesh and layout.
        inputs: `tf.Tensor`s of static shape, in the structure of the model's inputs.
        training: whether layers run in training mode.
        blocks: what `plan_blocks` found for inputs of these shapes.
        differentiable_inputs: whether gradients with respect to the inputs will be asked for.
        weight_values: tensors to use in place of variables, by the variables' `id`.

    Attributes:
        trace: the Mesh-TF graph under way.
        inputs, outputs: `SpatialTensor`s, in the model's structures.
    """

    def __init__(
        self,
        graph: keras.Model,
        distribution: SpatialParallel,
        inputs: Any,
        *,
        training: bool,
        blocks: Mapping[str, Blocks],
        differentiable_inputs: bool = False,
        weight_values: Mapping[int, tf.Tensor] | None = None,
    ):
        self.trace = Trace(
            distribution,
            training,
            blocks,
            weight_values=weight_values or {},
            channels_first=uses_channels_first(graph),
        )
        self.inputs = tree.map_structure(
            lambda x: self.trace.input(x, differentiable=differentiable_inputs and x.dtype.is_floating), inputs
        )
        self.outputs = lower_graph(graph, self.trace, self.inputs)

    @property
    def flat_outputs(self) -> list[SpatialTensor]:
        return tree.flatten(self.outputs)


class Lowered:
    """A trace's operations as TensorFlow operations on their devices.

    Operations that are added to the trace later, such as those of the backward pass, are lowered by `lower_rest`.
    """

    def __init__(self, trace: Trace):
        self.trace = trace
        self.lowering = mtf.Lowering(trace.graph, {trace.mesh: trace.impl})
        self._count = len(trace.graph.operations)

    def lower_rest(self) -> None:
        operations = self.trace.graph.operations
        for operation in operations[self._count :]:
            operation.lower(self.lowering)
        self._count = len(operations)

    def whole(self, x: SpatialTensor) -> tf.Tensor:
        """The tensor itself, put together from its blocks: for what the caller asked for, and for small tensors."""
        return self.export(x.value, x.shape)

    def export(self, value: mtf.Tensor, shape: Sequence[int]) -> tf.Tensor:
        """A Mesh-TF tensor as a `tf.Tensor` of the logical shape."""
        whole = self.lowering.export_to_tf_tensor(value)
        if whole.shape != tuple(shape):
            whole = tf.slice(whole, [0] * len(shape), list(shape))
        return whole

    def own_blocks(self, x: SpatialTensor) -> tuple[list[tuple[slice, ...]], list[tf.Tensor]]:
        """What the devices of this process hold of a tensor: where it lies, and the values.

        Elements beyond the logical size are left out, and what several devices of the mesh hold is given by the first.
        """
        impl = self.trace.impl
        shape = x.value.shape
        lengths = impl.slice_shape(shape)
        begins = [tuple(impl.slice_begin(shape, pnum)) for pnum in range(impl.shape.size)]
        numbers = impl.laid_out_pnum().tensor_list
        indices, values = [], []
        for pnum, value in zip(numbers, self.lowering.tensors[x.value].to_laid_out_tensor().tensor_list, strict=True):
            begin = begins[pnum]
            ends = [min(b + n, size) for b, n, size in zip(begin, lengths, x.shape, strict=True)]
            if begins.index(begin) == pnum and all(b < end for b, end in zip(begin, ends, strict=True)):
                indices.append(tuple(slice(b, end) for b, end in zip(begin, ends, strict=True)))
                with tf.device(value.device):
                    values.append(tf.slice(value, [0] * len(ends), [i.stop - i.start for i in indices[-1]]))
        return indices, values

    def export_all(self, values: Sequence[mtf.Tensor], shapes: Sequence[Sequence[int]]) -> list[tf.Tensor]:
        """As `export`, of many small tensors such as weight gradients: between processes they travel together."""
        impl = self.trace.impl
        if getattr(impl, "fuses_allreduces", False):
            reduce_together(impl, [self.lowering.tensors[value] for value in values])
        return [self.export(value, shape) for value, shape in zip(values, shapes, strict=True)]

    def apply_updates(self) -> None:
        """Assign the moving averages."""
        for variable, value in self.trace.updates:
            variable.assign(tf.cast(self.export(value, variable.shape), variable.dtype))


def fuse_for_objective(forward: Forward, objective: "Objective") -> None:
    """Fuse operations (`mtf.fusion`) of a pass of which only losses and metrics are read."""
    read = [objective.loss, *objective.losses, *(t for _, increments in objective.increments for t in increments)]
    _fuse(forward, read)


def fuse_for_outputs(forward: Forward) -> None:
    """Fuse operations (`mtf.fusion`) of a pass whose outputs are read."""
    _fuse(forward, forward.flat_outputs)


def _fuse(forward: Forward, read: Sequence[SpatialTensor]) -> None:
    trace = forward.trace
    fuse(trace.graph, trace.impl, [x.value for x in read] + [value for _, value in trace.updates])


@dataclass(frozen=True)
class Objective:
    """Losses and metrics of a step.

    Attributes:
        loss: their weighted sum, a scalar, without regularization.
        losses: one by one.
        increments: per metric, what it is to be updated with.
    """

    loss: SpatialTensor
    losses: tuple[SpatialTensor, ...]
    increments: tuple[tuple[keras.metrics.Metric, list[SpatialTensor]], ...]


def lower_objective(
    forward: Forward, targets: Sequence[Target], labels: Sequence[Any], weights: Sequence[Any]
) -> Objective:
    """Add losses and metrics to a forward pass.

    Args:
        forward: the forward pass.
        targets: one per loss, and one per output with metrics.
        labels: one per model output, or None.
        weights: sample weights, one per model output, or None.

    Raises:
        ValueError: if labels are missing or no loss is left.
    """
    trace = forward.trace
    total, losses, increments = None, [], []
    for target in targets:
        y_pred = forward.flat_outputs[target.output]
        if labels[target.output] is None:
            raise ValueError(f"Output {target.output} has a loss or metrics, but no labels were given for it.")
        y_true = trace.input(as_tensor(labels[target.output]), like=y_pred)
        weight = weights[target.output]
        weight = None if weight is None else trace.input(as_tensor(weight), like=y_pred)
        if target.loss is not None:
            loss = trace.cast(lower_loss(trace, target.loss, y_true, y_pred, weight), tf.float32)
            losses.append(loss)
            term = loss if target.weight is None else trace.pointwise(_times(target.weight), [loss], name="weighted")
            total = term if total is None else trace.pointwise(tf.add, [total, term], name="total_loss")
        increments += [(m, lower_metric(trace, m, y_true, y_pred, None)) for m in target.metrics]
        increments += [(m, lower_metric(trace, m, y_true, y_pred, weight)) for m in target.weighted_metrics]
    if total is None:
        raise ValueError("The model has no loss: compile it with one.")
    for activity in trace.losses:
        total = trace.pointwise(tf.add, [total, activity], name="total_loss")
    return Objective(total, tuple(losses), tuple(increments))


def _times(factor: float) -> Callable[[tf.Tensor], tf.Tensor]:
    return lambda value: value * factor


def gradients(
    trace: Trace,
    ys: Sequence[SpatialTensor],
    dys: Sequence[tf.Tensor],
    variables: Sequence[keras.Variable],
    inputs: Sequence[SpatialTensor] = (),
    recompute: Mapping[str, int] | None = None,
) -> tuple[list[mtf.Tensor | None], list[mtf.Tensor | None]]:
    """Gradients by `mtf.gradients`, with respect to variables and to inputs; None for what takes no part.

    Args:
        trace: the trace that made the tensors.
        ys: the tensors to differentiate.
        dys: what to differentiate them with, of the logical shapes of `ys`.
        variables: Keras variables.
        inputs: differentiable inputs of the trace.
        recompute: names of layers that are computed again in the backward pass, each with the number of its block.
    """
    seeds = []
    for y, dy in zip(ys, dys, strict=True):
        padding = [(0, axis.blocks * axis.length - axis.size) for axis in y.axes]
        dy = tf.pad(tf.cast(dy, y.dtype), padding) if y.padded_axes else tf.cast(dy, y.dtype)
        seeds.append(Source(trace.mesh, dy, mesh_shape_of(y.axes), differentiable=False, name="seed").outputs[0])
    weights = [trace.known_weight(v) for v in variables]
    sources = [w for w in weights if w is not None] + [x.value for x in inputs]
    found = iter(recomputing_gradients([y.value for y in ys], sources, seeds, _segments(trace, recompute or {})))
    of_weights = [None if w is None else next(found) for w in weights]
    return of_weights, list(found)


def _segments(trace: Trace, recompute: Mapping[str, int]) -> dict[mtf.Operation, int]:
    """The operations that are computed again, each with the number of its block."""
    found = {}
    for operation in trace.graph.operations:
        blocks = [recompute[name] for name in trace.layers.get(operation, ()) if name in recompute]
        if blocks and not isinstance(operation, Source):
            found[operation] = blocks[0]
    return found
