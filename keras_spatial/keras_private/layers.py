"""Private parts of layers: kernels, masks, dtypes, calls."""

import inspect
from collections.abc import Callable
from typing import Any

import keras
from keras import tree

from keras_spatial.keras_private.classes import defining_class, defining_method


def autocast_dtype(operation: keras.Operation, current: str | None) -> str | None:
    """The dtype in which `operation` reads floating-point variables, as Keras decides it before every call.

    Args:
        operation: a layer, or an operation, which reads variables as its caller does.
        current: the dtype in force; None for the variables' own.
    """
    if not isinstance(operation, keras.Layer):
        return current
    if current is None:
        return operation.compute_dtype if operation.compute_dtype != operation.variable_dtype else None
    floating = keras.backend.is_float_dtype(operation.compute_dtype)
    return operation.compute_dtype if operation.autocast and floating else None


def is_autocast(variable: keras.Variable) -> bool:
    """Whether a variable is read in another dtype when Keras casts variables automatically."""
    return variable._autocast and keras.backend.is_float_dtype(variable._dtype)


def takes_training(layer: keras.Layer) -> bool:
    """Whether a layer's `call` takes `training`. Keras's own record of this is wrong for some subclasses."""
    return "training" in inspect.signature(layer.call).parameters


def all_layers(model: keras.Model, include_self: bool = True) -> list[keras.Layer]:
    """A model's layers, including those inside other layers."""
    return list(model._flatten_layers(include_self=include_self))


def raw_kernel(layer: keras.Layer) -> keras.Variable:
    """A layer's kernel without low-rank adaptation."""
    return layer._kernel if hasattr(layer, "_kernel") else layer.kernel


def merge_function(layer: keras.Layer) -> Callable:
    """The function that a merging layer, such as `keras.layers.Add`, applies to a list of tensors."""
    return layer._merge_function


def to_value_range(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
    """Change the value range of an image as Keras's preprocessing layers do."""
    return layer._transform_value_range(*args, **kwargs)


def mask_of(x: Any) -> Any:
    """The mask that Keras has attached to a tensor, or None."""
    return getattr(x, "_keras_mask", None)


def set_mask(x: Any, *mask: Any) -> None:
    """Attach a mask to a tensor, as Keras does, if there is one."""
    for value in mask:
        x._keras_mask = value


def computes_no_mask(layer: keras.Layer) -> bool:
    """Whether a layer's outputs carry only the masks that its inputs carry, or that it sets itself."""
    return getattr(layer.compute_mask, "_is_default", False)


def computes_own_mask(layer: keras.Layer) -> bool:
    """Whether a class outside Keras defines the layer's `compute_mask`."""
    return not defining_method(layer, "compute_mask").__module__.startswith("keras.src.")


# Classes of other libraries whose `__call__` only checks its arguments and passes them on.
_HANDING_ON = {("keras_hub.src.utils.pipeline_model", "PipelineModel")}


def calls_otherwise(operation: keras.Operation) -> str | None:
    """The class outside Keras and this package that overrides an operation's `__call__`, or None."""
    cls = defining_class(operation, "__call__")
    handing_on = cls.__module__.startswith("keras.src.") or (cls.__module__, cls.__name__) in _HANDING_ON
    return None if handing_on else cls.__name__


def changed_in(scope: keras.StatelessScope, layer: keras.Layer) -> list[str]:
    """The paths of the variables that were assigned in the scope in which a layer ran."""
    names = {id(v): v.path for v in layer.variables}
    return [names.get(key, "of another layer") for key in scope.state_mapping]


def called_with(model: keras.Model) -> Any:
    """The inputs with which a model that is not functional was built, as symbolic tensors.

    The result is None if they are unknown or there are several arguments.
    """
    shapes = getattr(model, "_build_shapes_dict", None)
    if not shapes or len(shapes) != 1:
        return None
    (shape,) = shapes.values()
    if shape is None:
        return None
    return tree.map_shape_structure(lambda s: keras.KerasTensor((None, *s[1:]), model.input_dtype), shape)
