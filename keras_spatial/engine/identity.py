"""What a Python function computes, as a value that can be compared: its code and what it closes over.

A rule makes a new function for each layer, and layers repeat. Two functions that were made by the same code of this
package from the same values compute the same, so that only the first of them has to be traced.
"""

import functools
import json
import types
from collections.abc import Hashable
from dataclasses import fields, is_dataclass
from fractions import Fraction
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

_PACKAGE = __name__.split(".")[0]
_LIBRARIES = ("keras", "tensorflow")
# Closures nest a few levels; only those that contain themselves nest deeper.
_DEEPEST = 20


class _Unknown(Exception):
    """A value that may be different when it is looked at again."""


class _Same:
    """An object that equals only itself. It is kept alive so that no other object can take its address."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


def identity_of(value: Any) -> Hashable | None:
    """A value that is equal for two functions, numbers, tuples and the like exactly if they are known to be the same.

    Args:
        value: a function, or what such functions close over.

    Returns:
        The value; None if it is not known, as for functions that close over tensors, variables or objects that may
        change.
    """
    try:
        return _identity(value, 0)
    except _Unknown:
        return None


def _identity(value: Any, depth: int) -> Hashable:
    if depth > _DEEPEST:
        raise _Unknown

    def inner(*values: Any) -> tuple[Hashable, ...]:
        return tuple(_identity(v, depth + 1) for v in values)

    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, Fraction)):
        return type(value), repr(value)  # Unlike 1, 1.0 and True, or 0.0 and -0.0, these differ.
    if isinstance(value, (tf.DType, np.dtype, type)):
        return value
    if isinstance(value, (tuple, list)):
        return type(value), inner(*value)
    if isinstance(value, dict):
        return dict, inner(*value), inner(*value.values())
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return np.ndarray, value.shape, value.dtype.str, value.tobytes()
    if isinstance(value, functools.partial):
        return functools.partial, inner(value.func, value.args, value.keywords)
    if isinstance(value, types.FunctionType):
        return _identity_of_function(value, inner)
    if isinstance(value, types.BuiltinFunctionType) and isinstance(value.__self__, (types.ModuleType, type(None))):
        return _Same(value)
    if isinstance(value, types.MethodType) and isinstance(value.__self__, keras.Layer):
        return types.MethodType, value.__func__.__name__, _identity_of_layer(value.__self__)
    if isinstance(value, keras.Layer):
        return _identity_of_layer(value)
    if is_dataclass(value) and type(value).__dataclass_params__.frozen:  # pyright: ignore[reportAttributeAccessIssue]
        return type(value), inner(*(getattr(value, field.name) for field in fields(value)))
    raise _Unknown


def _identity_of_function(function: types.FunctionType, inner: Any) -> Hashable:
    """Identify functions of this package by their code and what they close over, and those of libraries by the object.

    A user's function may read anything, which may have changed when it is called again.
    """
    origin = (function.__module__ or "").split(".")[0]
    if origin in _LIBRARIES:
        return _Same(function)
    if origin != _PACKAGE:
        raise _Unknown
    try:
        cells = [cell.cell_contents for cell in function.__closure__ or ()]
    except ValueError as error:  # A cell that is still empty.
        raise _Unknown from error
    return _Same(function.__code__), inner(cells, function.__defaults__, function.__kwdefaults__)


def _is_of_libraries(value: Any) -> bool:
    named = value if isinstance(value, (types.FunctionType, type)) else type(value)
    return (named.__module__ or "").split(".")[0] in (*_LIBRARIES, "builtins")


def _identity_of_layer(layer: keras.Layer) -> Hashable:
    """Identify a layer of Keras by its settings. Its variables do not matter: a function that reads them captures
    tensors.
    """
    # A function or object of the user that it calls appears in its settings only by name.
    called = [value for value in tree.flatten(list(vars(layer).values())) if callable(value)]
    if not all(_is_of_libraries(value) for value in (layer, *called)):
        raise _Unknown
    settings = {name: value for name, value in layer.get_config().items() if name != "name"}
    try:
        return type(layer), json.dumps(settings, sort_keys=True)
    except TypeError as error:
        raise _Unknown from error
