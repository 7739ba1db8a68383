"""Layers without a rule, if the user allows it: every device runs them unchanged, on whole tensors."""

import math
from typing import Any

import keras
import tensorflow as tf
from keras import tree

from keras_spatial import keras_private
from keras_spatial.engine.tensors import SpatialTensor, axis_names
from keras_spatial.engine.trace import Trace
from keras_spatial.layout import Axis


def replicated(operation: keras.Operation, trace: Trace, args: tuple, kwargs: dict[str, Any], *, reason: str) -> Any:
    """Gather the inputs on every device, run the layer there unchanged, and shard its results again.

    Args:
        operation: a layer or operation.
        trace: the trace of the step. Its `replicated` records how much memory this takes.
        args, kwargs: the arguments of the layer.
        reason: why it has no rule.
    """
    tensors = [t for t in tree.flatten((args, kwargs)) if isinstance(t, SpatialTensor)]
    whole = [trace.whole(t, range(t.ndim)) for t in tensors]
    layer = operation if isinstance(operation, keras.Layer) else None
    variables = [] if layer is None else [*layer.trainable_variables, *layer.non_trainable_variables]
    changing = [] if layer is None else list(layer.non_trainable_variables)
    mode = {"training": trace.training} if layer is not None and keras_private.takes_training(layer) else {}
    structure: list[Any] = []

    def run(*values: tf.Tensor) -> tuple[tf.Tensor, ...]:
        given, weights = iter(values[: len(tensors)]), values[len(tensors) :]
        local_args, local_kwargs = tree.map_structure(
            lambda t: next(given) if isinstance(t, SpatialTensor) else t, (args, kwargs)
        )
        if layer is None:
            outputs, state, losses = operation.call(*local_args, **local_kwargs), [], []
        else:
            mapping = list(zip(variables, weights, strict=True))
            with keras.StatelessScope(state_mapping=mapping, collect_losses=True) as scope:
                outputs = layer(*local_args, **local_kwargs, **mode)
            state = [tf.convert_to_tensor(scope.get_current_value(v)) for v in changing]
            losses = [tf.reduce_sum(loss) for loss in scope.losses]
        carry_masks = [keras_private.mask_of(t) is not None for t in tree.flatten(outputs)]
        outputs = tree.map_structure(tf.convert_to_tensor, outputs)
        structure[:] = [outputs, len(losses), carry_masks]
        return (*tree.flatten(outputs), *state, *losses)

    specs = [tf.TensorSpec(t.shape, t.dtype) for t in tensors]
    specs += [tf.TensorSpec(v.shape, v.dtype) for v in variables]
    with tf.init_scope():
        found = tf.function(run, autograph=False).get_concrete_function(*specs).outputs
    outputs, losses, carry_masks = structure
    axes = [tuple(Axis(f"axis{i}", size) for i, size in enumerate(t.shape.as_list())) for t in found]
    results = trace.local(
        run,
        whole,
        [(a, t.dtype) for a, t in zip(axes, found, strict=True)],
        weights=variables,
        name=keras_private.name_of(operation),
    )
    count = len(tree.flatten(outputs))
    for variable, value in zip(changing, results[count : count + len(changing)], strict=True):
        trace.update(variable, value)
    trace.losses.extend(results[len(results) - losses :] if losses else [])
    size = sum(_bytes(t) for t in whole) + sum(_bytes(t) for t in results[:count])
    trace.replicated.append((keras_private.name_of(operation), type(operation).__name__, size, reason))
    flat = [_sharded(trace, y, tensors) for y in results[:count]]
    flat = [y.masked(operation) if carries else y for y, carries in zip(flat, carry_masks, strict=True)]
    return tree.pack_sequence_as(outputs, flat)


def _sharded(trace: Trace, y: SpatialTensor, inputs: list[SpatialTensor]) -> SpatialTensor:
    """Shard a whole tensor like the inputs along axes of the same size, and otherwise like an image of its size."""
    names = axis_names(y.ndim)
    axes = []
    for i, (name, size) in enumerate(zip(names, y.shape, strict=True)):
        like = [t.axes[i] for t in inputs if t.ndim == y.ndim and t.axes[i].size == size and t.axes[i].sharded]
        taken = {axis.name for axis in axes if axis.sharded}
        if like and like[0].name not in taken:
            axes.append(like[0])
        elif y.ndim > 2 and name not in taken:
            axes.append(trace.new_axis(name, size))
        else:
            axes.append(Axis(f"axis{i}", size))
    return trace.reshard(y, axes)


def _bytes(x: SpatialTensor) -> int:
    return math.prod(x.shape) * x.dtype.size
