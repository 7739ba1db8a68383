"""The walk over a Keras model, layer by layer."""

import inspect
from typing import Any

import keras
from keras import tree

from keras_spatial.lowering.table import UnsupportedLayer, find_lowering
from keras_spatial.lowering.trace import Trace


def lower_operation(operation: keras.Operation, trace: Trace, *args: Any, **kwargs: Any) -> Any:
    """Lower one layer or operation, given its inputs as `SpatialTensor`s.

    Raises:
        UnsupportedLayer: if it has no lowering.
    """
    if isinstance(operation, keras.Model):
        return lower_graph(functional_graph(operation, args[0]), trace, args[0])
    lower = find_lowering(operation)
    if lower is None:
        raise UnsupportedLayer(explain([operation]))
    kwargs.pop("training", None)
    return lower(operation, trace, *args, **kwargs)


def lower_graph(graph: keras.Model, trace: Trace, inputs: Any) -> Any:
    """Lower a functional model, given its inputs as `SpatialTensor`s in the model's own structure."""

    def run(operation: keras.Operation):
        return lambda *args, **kwargs: _named(operation, trace, *args, **kwargs)

    # Keras keeps this method to itself; it is used nowhere else, and tests/lowering/test_walk.py tells if it changes.
    return graph._run_through_graph(tree.flatten(inputs), operation_fn=run)


def _named(operation: keras.Operation, trace: Trace, *args: Any, **kwargs: Any) -> Any:
    try:
        return lower_operation(operation, trace, *args, **kwargs)
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


def unsupported_operations(graph: keras.Model) -> list[keras.Operation]:
    """All operations of a functional model, nested models included, that have no lowering."""
    found = []
    for operation in graph.operations:
        if isinstance(operation, keras.Model):
            found += unsupported_operations(functional_graph(operation))
        elif find_lowering(operation) is None:
            found.append(operation)
    return found


def explain(operations: list[keras.Operation]) -> str:
    lines = "\n".join(f"  - '{operation.name}' ({type(operation).__name__})" for operation in operations)
    return (
        f"These layers cannot be partitioned:\n{lines}\n"
        "Replace them, or teach keras_spatial how with ks.register_lowering."
    )
