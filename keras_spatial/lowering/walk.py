"""The walk over a Keras model, layer by layer."""

import inspect
from dataclasses import dataclass
from typing import Any

import keras
from keras import tree

from keras_spatial.lowering.composite import composite_graph, is_tensor
from keras_spatial.lowering.regularization import add_activity_loss
from keras_spatial.lowering.table import UnsupportedLayer, find_lowering
from keras_spatial.lowering.tensors import SpatialTensor
from keras_spatial.lowering.trace import Trace


def lower_operation(operation: keras.Operation, trace: Trace, *args: Any, **kwargs: Any) -> Any:
    """Lower one layer or operation, given its inputs as `SpatialTensor`s.

    Raises:
        UnsupportedLayer: if it has no lowering.
    """
    kwargs = {k: v for k, v in kwargs.items() if k != "training" and not (k == "mask" and v is None)}
    if isinstance(operation, keras.Layer):
        args, kwargs = _autocast(operation, trace, args, kwargs)
    if isinstance(operation, keras.Model):
        outputs = lower_graph(functional_graph(operation, args[0]), trace, args[0])
    elif (lower := find_lowering(operation)) is not None:
        outputs = lower(operation, trace, *args, **kwargs)
    else:
        try:
            graph = composite_graph(operation, args, kwargs, trace.training)
        except UnsupportedLayer as error:
            raise UnsupportedLayer(explain([Unsupported(operation, str(error))])) from error
        outputs = lower_graph(graph, trace, [t for t in tree.flatten((args, kwargs)) if is_tensor(t)])
    if getattr(operation, "activity_regularizer", None) is not None:
        for output in tree.flatten(outputs):
            add_activity_loss(operation, trace, output)
    return outputs


def _autocast(layer: keras.Layer, trace: Trace, args: Any, kwargs: Any) -> Any:
    """Floating-point inputs in the layer's dtype, as Keras casts them before every call."""
    if not layer.autocast:
        return args, kwargs

    def cast(value: Any):
        floating = isinstance(value, SpatialTensor) and value.dtype.is_floating
        return trace.cast(value, layer.input_dtype) if floating and layer.input_dtype else value

    return tree.map_structure(cast, (args, kwargs))


def lower_graph(graph: keras.Model, trace: Trace, inputs: Any) -> Any:
    """Lower a functional model, given its inputs as `SpatialTensor`s in the model's own structure."""

    def run(operation: keras.Operation):
        return lambda *args, **kwargs: _named(operation, trace, *args, **kwargs)

    # Keras keeps this method to itself; it is used nowhere else, and tests/lowering/test_walk.py tells if it changes.
    return graph._run_through_graph(tree.flatten(inputs), operation_fn=run)


def _named(operation: keras.Operation, trace: Trace, *args: Any, **kwargs: Any) -> Any:
    first = len(trace.graph.operations)
    try:
        outputs = lower_operation(operation, trace, *args, **kwargs)
        for lowered in trace.graph.operations[first:]:
            # Of nested layers the outermost stands first.
            trace.layers[lowered] = (operation.name, *trace.layers.get(lowered, ()))
        return outputs
    except (ValueError, NotImplementedError, TypeError) as error:
        if operation.name not in str(error):
            error.add_note(f"While partitioning layer '{operation.name}' ({type(operation).__name__}).")
        raise


def functional_graph(model: keras.Model, inputs: Any = None) -> keras.Model:
    """A model as a graph of layers: itself if it is functional, or what its `call` does with symbolic inputs.

    Args:
        model: a functional, sequential or subclassed model.
        inputs: anything with `shape` and `dtype` in the structure of the model's inputs; needed for subclassed models.
    """
    if isinstance(model, keras.Sequential) and model.built:
        return model._functional
    if hasattr(model, "_nodes_by_depth"):
        return model
    return trace_call(model, inputs)


def trace_call(layer: keras.Layer, inputs: Any, training: bool | None = None) -> keras.Model:
    """What a layer's or model's `call` does, as a functional model that shares its layers and variables.

    Args:
        layer: a model, or a layer made of other layers and `keras.ops`.
        inputs: anything with `shape` and `dtype`, in the structure of the layer's first argument.
        training: passed on if `call` takes it.

    Raises:
        ValueError: if `inputs` is None.
    """
    if inputs is None:
        raise ValueError(
            f"Model '{layer.name}' of class {type(layer).__name__} must know its input shape to be partitioned: "
            "ks.partition(model, distribution, input_shape=...)."
        )

    def symbolic(x: Any):
        return keras.Input(batch_shape=tuple(x.shape), dtype=keras.backend.standardize_dtype(x.dtype))

    symbols = tree.map_structure(symbolic, inputs)
    arguments = {"training": training} if "training" in inspect.signature(layer.call).parameters else {}
    return keras.Model(symbols, layer.call(symbols, **arguments), name=layer.name)


@dataclass(frozen=True)
class Unsupported:
    """A layer or operation that cannot be partitioned, and why."""

    operation: keras.Operation
    reason: str = "it has no lowering"


def unsupported_operations(graph: keras.Model) -> list[Unsupported]:
    """All operations of a functional model that have no lowering, those of nested models and layers included."""
    found = []
    for nodes in graph._nodes_by_depth.values():
        for node in nodes:
            operation = node.operation
            if isinstance(operation, keras.Model):
                found += unsupported_operations(functional_graph(operation, _argument(node)))
            elif find_lowering(operation) is None:
                found += _inside(operation, node)
            elif isinstance(operation, keras.layers.Wrapper) and find_lowering(operation.layer) is None:
                found.append(Unsupported(operation.layer, f"inside '{operation.name}', it has no lowering"))
    return list({id(u.operation): u for u in found}.values())


def _argument(node) -> Any:
    return node.arguments.args[0] if node.arguments.args else next(iter(node.arguments.kwargs.values()))


def _inside(operation: keras.Operation, node) -> list[Unsupported]:
    """What cannot be partitioned of a layer that is made of others."""
    try:
        graph = composite_graph(operation, node.arguments.args, node.arguments.kwargs, training=False)
    except UnsupportedLayer as error:
        return [Unsupported(operation, str(error))]
    inner = unsupported_operations(graph)
    return [Unsupported(operation, f"{type(u.operation).__name__} in its call: {u.reason}") for u in inner]


def explain(unsupported: list[Unsupported]) -> str:
    lines = "\n".join(f"  - '{u.operation.name}' ({type(u.operation).__name__}): {u.reason}" for u in unsupported)
    return (
        f"These layers cannot be partitioned:\n{lines}\n"
        "Replace them, or teach keras_spatial how with ks.register_lowering."
    )


def uses_channels_first(graph: keras.Model) -> bool:
    """Whether a model's images have their channels before the image axes, as its layers say."""
    for operation in graph.operations:
        if getattr(operation, "data_format", None) == "channels_first":
            return True
        if hasattr(operation, "operations") and uses_channels_first(operation):
            return True
    return False
