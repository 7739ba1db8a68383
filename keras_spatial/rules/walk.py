"""The walk over a Keras model, which lowers each layer by its rule."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf
from keras import tree

from keras_spatial import keras_private
from keras_spatial.engine.tensors import SpatialTensor
from keras_spatial.engine.trace import Trace
from keras_spatial.layout import ShardsTooShort
from keras_spatial.rules import masks
from keras_spatial.rules.composite import composite_graph, is_tensor, trace_call
from keras_spatial.rules.padding import folded_paddings
from keras_spatial.rules.regularization import add_activity_loss, check_activity_regularizer
from keras_spatial.rules.replication import replicated
from keras_spatial.rules.table import UnsupportedLayer, find_lowering, overridden, registered_class
from keras_spatial.rules.weights import variable_tensor

# The errors with which a rule refuses a layer.
_REFUSALS = (ValueError, NotImplementedError, TypeError, AttributeError, IndexError)


@dataclass(frozen=True)
class Unsupported:
    """A layer or operation that cannot be partitioned, and why."""

    operation: keras.Operation
    reason: str

    def __str__(self) -> str:
        name = keras_private.name_of(self.operation)
        return f"'{name}' ({type(self.operation).__name__}): {self.reason}"


def lower_operation(operation: keras.Operation, trace: Trace, *args: Any, **kwargs: Any) -> Any:
    """Lower one layer or operation, given its inputs as `SpatialTensor`s.

    If it has no rule, or its rule refuses it, it runs on whole tensors, provided that `trace.replicate` is set.

    Raises:
        UnsupportedLayer: if it has no rule.
        ValueError: if its rule refuses it.
    """
    return _lower_by(find_lowering(operation), operation, trace, args, kwargs)


def _lower_by(
    rule: Callable | None, operation: keras.Operation, trace: Trace, args: tuple, kwargs: dict[str, Any]
) -> Any:
    kwargs = {k: v for k, v in kwargs.items() if k != "training" and not (k == "mask" and _is_none(v))}
    if not isinstance(operation, keras.Layer):
        return _lowered(rule, operation, trace, args, kwargs)
    masks.refuse_use(operation, args, kwargs)
    with trace.casting_for(operation):
        outputs = _lowered(rule, operation, trace, *_autocast(operation, trace, args, kwargs))
    return masks.marked(operation, args, kwargs, outputs)


def _is_none(mask: Any) -> bool:
    return all(m is None for m in tree.flatten(mask))


def _lowered(
    rule: Callable | None, operation: keras.Operation, trace: Trace, args: tuple, kwargs: dict[str, Any]
) -> Any:
    if trace.replicate and masks.makes_masks_inside(operation):
        masks.refuse_inside(operation, args, kwargs)
        return replicated(operation, trace, args, kwargs, reason="layers inside it make masks")
    try:
        outputs = _by_rule(rule, operation, trace, args, kwargs)
    except _REFUSALS as error:
        # In a functional model, the layers inside are replicated one by one; any other model is treated as a layer.
        if not trace.replicate or (
            isinstance(operation, keras.Model)
            and keras_private.functional_part(operation) is not None
            and keras_private.calls_otherwise(operation) is None
        ):
            raise
        masks.refuse_inside(operation, args, kwargs)
        return replicated(operation, trace, args, kwargs, reason=_first_line(error))
    if getattr(operation, "activity_regularizer", None) is not None:
        for output in tree.flatten(outputs):
            add_activity_loss(operation, trace, output)
    return outputs


def _by_rule(
    rule: Callable | None, operation: keras.Operation, trace: Trace, args: tuple, kwargs: dict[str, Any]
) -> Any:
    if getattr(operation, "activity_regularizer", None) is not None:
        check_activity_regularizer(operation)
    if rule is not None:
        if "mask" in kwargs and "mask" not in inspect.signature(rule).parameters:
            raise ValueError(f"{type(operation).__name__} is not partitioned where it is called with a mask")
        return rule(operation, trace, *args, **kwargs)
    if (cls := keras_private.calls_otherwise(operation)) is not None:
        raise UnsupportedLayer(f"{cls} overrides `__call__`, which does not appear in a graph of layers")
    if isinstance(operation, keras.Model) and (graph := keras_private.functional_part(operation)) is not None:
        return lower_graph(graph, trace, args[0])
    try:
        found = composite_graph(operation, args, kwargs, trace.training)
    except UnsupportedLayer as error:
        raise UnsupportedLayer(f"{_own_way(operation)}{error}") from error
    inputs = [t for t in tree.flatten((args, kwargs)) if is_tensor(t)]
    inputs += [variable_tensor(trace, variable) for variable in found.variables]
    outputs = lower_graph(found.graph, trace, inputs, own_modes=True)
    made = [keras_private.mask_of(t) for t in tree.flatten(keras_private.output_structure(found.graph))]
    pairs = zip(tree.flatten(outputs), made, strict=True)
    return tree.pack_sequence_as(outputs, [y if m is None else masks.with_mask(y, operation) for y, m in pairs])


def _own_way(operation: keras.Operation) -> str:
    """Why a layer has no rule although its parent has one."""
    names = ", ".join(f"`{name}`" for name in overridden(operation))
    cls = registered_class(operation)
    return f"it overrides {names} of {cls.__name__}, so it is traced, but " if names and cls is not None else ""


def _autocast(layer: keras.Layer, trace: Trace, args: Any, kwargs: Any) -> Any:
    """Cast floating-point inputs to the layer's dtype, as Keras does before every call."""
    if not layer.autocast:
        return args, kwargs

    def cast(value: Any):
        floating = isinstance(value, SpatialTensor) and value.dtype.is_floating
        if not (floating and layer.input_dtype):
            return value
        return trace.cast(value, layer.input_dtype).masked(value.mask_source)

    return tree.map_structure(cast, (args, kwargs))


def lower_graph(graph: keras.Model, trace: Trace, inputs: Any, *, own_modes: bool = False) -> Any:
    """Lower a functional model, given its inputs as `SpatialTensor`s in the model's own structure.

    Args:
        graph: the model.
        trace: the trace of the step.
        inputs: the model's inputs.
        own_modes: whether a layer that was called with `training` keeps that mode, as inside a `call` that passes it.
            The layers of a functional model follow the model's mode, whatever they were called with when it was made.
    """

    folded = folded_paddings(graph)

    def run(operation: keras.Operation):
        rule = folded.get(operation) or find_lowering(operation)

        def call(*args: Any, **kwargs: Any) -> Any:
            mode = kwargs.get("training") if own_modes else None
            with trace.in_mode(trace.training if mode is None else bool(mode)):
                return _named(rule, operation, trace, args, kwargs)

        return call

    return keras_private.run_graph(graph, tree.flatten(inputs), operation_fn=run)


def _named(rule: Callable | None, operation: keras.Operation, trace: Trace, args: tuple, kwargs: dict[str, Any]) -> Any:
    name, first = keras_private.name_of(operation), len(trace.graph.operations)
    try:
        outputs = _lower_by(rule, operation, trace, args, kwargs)
    except ShardsTooShort:
        raise
    except _REFUSALS as error:
        if trace.problems is not None:
            trace.problems.extend(_problems_of(operation, error))
            return _stand_in(operation, trace, args, kwargs)
        if name not in str(error):
            error.add_note(f"While partitioning layer '{name}' ({type(operation).__name__}).")
        raise
    for lowered in trace.graph.operations[first:]:
        # The outermost of nested layers comes first.
        trace.layers[lowered] = (name, *trace.layers.get(lowered, ()))
    return outputs


def _problems_of(operation: keras.Operation, error: Exception) -> list[Unsupported]:
    return [Unsupported(operation, _first_line(error))]


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300] or type(error).__name__


def _stand_in(operation: keras.Operation, trace: Trace, args: Any, kwargs: Any) -> Any:
    """Tensors in the shapes of an operation's results, so that the walk can continue and find further problems."""

    def symbolic(value: Any) -> Any:
        return keras.KerasTensor(value.shape, dtype=value.dtype.name) if isinstance(value, SpatialTensor) else value

    args, kwargs = tree.map_structure(symbolic, (args, {k: v for k, v in kwargs.items() if k != "training"}))
    with tf.init_scope():
        spec = operation.compute_output_spec(*args, **kwargs)
    # The sizes of some results depend on values; any size will do here.
    return tree.map_structure(
        lambda x: trace.input(tf.TensorSpec([1 if n is None else n for n in x.shape], x.dtype)), spec
    )


def functional_graph(model: keras.Model, inputs: Any = None, training: bool | None = None) -> keras.Model:
    """A model as a graph of layers: the model itself if it is functional, otherwise its `call` traced symbolically.

    Args:
        model: a functional, sequential or subclassed model.
        inputs: anything with `shape` and `dtype` in the structure of the model's inputs; needed for subclassed models.
        training: the mode that is passed to a `call` that takes `training`.
    """
    graph = keras_private.functional_part(model)
    return trace_call(model, inputs, training) if graph is None else graph


def explain(unsupported: list[Unsupported]) -> str:
    """The message of the error for layers that cannot be partitioned."""
    lines = "\n".join(dict.fromkeys(f"  - {problem}" for problem in unsupported))
    return (
        f"These layers cannot be partitioned:\n{lines}\n"
        "Replace them, register lowering rules for them with ks.register_lowering, or let them run on whole tensors "
        'on every device with ks.partition(..., unsupported="replicate").'
    )


def refuse_masked(trace: Trace, outputs: Any) -> None:
    """Refuse a model whose outputs carry masks in Keras, because losses and metrics would use them.

    Raises:
        UnsupportedLayer: if an output carries a mask, unless the trace collects problems.
    """
    sources = {id(y.mask_source): y.mask_source for y in tree.flatten(outputs) if y.mask_source is not None}
    found = [Unsupported(source, masks.reason_of_output(source)) for source in sources.values()]
    if trace.problems is not None:
        trace.problems.extend(found)
    elif found:
        raise UnsupportedLayer(explain(found))


def uses_channels_first(graph: keras.Model) -> bool:
    """Whether a model's images have their channels before the image axes, judging by its layers."""
    for operation in graph.operations:
        if getattr(operation, "data_format", None) == "channels_first":
            return True
        if hasattr(operation, "operations") and uses_channels_first(operation):
            return True
    return False


__all__ = [
    "UnsupportedLayer",
    "explain",
    "functional_graph",
    "lower_graph",
    "lower_operation",
    "refuse_masked",
    "uses_channels_first",
]
