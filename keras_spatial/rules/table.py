"""The table that maps the class of a Keras layer or operation to its lowering rule."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import keras

_TABLE: dict[type, Callable] = {}

# What a subclass may define while it still computes the same as the layer whose rule it uses. The walk handles masks.
_HARMLESS = frozenset(
    {
        "build",
        "build_from_config",
        "compute_mask",
        "compute_output_shape",
        "compute_output_spec",
        "count_params",
        "from_config",
        "get_build_config",
        "get_config",
        "load_assets",
        "load_own_variables",
        "quantize",
        "save_assets",
        "save_own_variables",
        "supports_masking",
        "_abc_impl",
    }
)
_DECISIVE = frozenset({"__call__", "__getattr__", "__getattribute__", "__setattr__"})


class UnsupportedLayer(ValueError):
    """A model has layers that cannot be partitioned. The message names all of them."""


def register_lowering(*layer_classes: type) -> Callable[[Callable], Callable]:
    """Register the lowering rule of a layer, which says how to partition it.

    Decorates a function `lower(layer, trace, *inputs, **call_arguments)` that receives the layer, the `ks.rules.Trace`
    under way and the layer's inputs as `ks.rules.SpatialTensor`s, and returns its outputs as such. It is built from the
    four kinds, `trace.pointwise`, `trace.windowed`, `trace.reduced` and `trace.reshard`; the built-in layers are
    registered in the same way. A subclass of a registered layer is lowered as that layer unless it overrides something
    that the layer computes with, such as `call` or a convolution's `convolution_op`.

    Args:
        *layer_classes: subclasses of `keras.Layer` or `keras.Operation`.

    Returns:
        A decorator that registers the function and returns it unchanged.

    Raises:
        TypeError: if one of the classes is not such a subclass.

    Example:

    ```python
    class Scale(keras.layers.Layer):
        def build(self, shape):
            self.gain = self.add_weight(shape=(shape[-1],), initializer="ones")

        def call(self, x):
            return x * self.gain

    @ks.register_lowering(Scale)
    def lower_scale(layer, trace, x):
        return trace.pointwise(lambda x, gain: x * gain, [x], weights=[layer.gain])
    ```
    """
    for cls in layer_classes:
        if not (isinstance(cls, type) and issubclass(cls, keras.Operation)):
            raise TypeError(f"Only Keras layers and operations have lowerings. Received: {cls!r}")

    def register(lower: Callable) -> Callable:
        for cls in layer_classes:
            _TABLE[cls] = lower
        return lower

    return register


def find_lowering(operation: Any) -> Callable | None:
    """The function that lowers a layer, or None. One that overrides part of its parent's computation has none.

    Example:

    ```python
    assert ks.rules.find_lowering(keras.layers.Conv2D(3, 3)) is not None
    assert ks.rules.find_lowering(keras.layers.LSTM(8)) is None
    ```
    """
    cls = registered_class(operation)
    return None if cls is None or overridden(operation) else _TABLE[cls]


def registered_class(operation: Any) -> type | None:
    """The first class of an operation's bases, itself included, that has a lowering."""
    return next((cls for cls in type(operation).__mro__ if cls in _TABLE), None)


def overridden(operation: Any) -> list[str]:
    """The names that an operation or its class overrides in the class whose lowering it would use.

    Names on which no computation depends are left out, and so are new names, which nothing in that class reads.
    """
    cls = registered_class(operation)
    if cls is None:
        return []
    own = vars(operation).keys() & _methods(type(operation))
    return sorted({*_overridden(type(operation), cls), *own})


@functools.cache
def _overridden(cls: type, registered: type) -> frozenset[str]:
    if cls is registered:
        return frozenset()
    missing = object()
    return frozenset(
        name
        for name in {*dir(cls), *dir(registered)}
        if not _is_harmless(name)
        and (found := inspect.getattr_static(cls, name, missing))
        is not (known := inspect.getattr_static(registered, name, missing))
        and (known is not missing or name in _DECISIVE or _sets(found))
    )


def _is_harmless(name: str) -> bool:
    return name in _HARMLESS or (name.startswith("__") and name.endswith("__") and name not in _DECISIVE)


def _sets(attribute: Any) -> bool:
    """Whether a class's attribute takes precedence over an instance's attribute of the same name."""
    return attribute.fset is not None if isinstance(attribute, property) else hasattr(type(attribute), "__set__")


@functools.cache
def _methods(cls: type) -> frozenset[str]:
    return frozenset(
        name for name in dir(cls) if not _is_harmless(name) and inspect.isroutine(inspect.getattr_static(cls, name))
    )
