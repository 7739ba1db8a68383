"""The table that maps the class of a Keras layer or operation to its lowering rule."""

from collections.abc import Callable
from typing import Any

import keras

_TABLE: dict[type, Callable] = {}


class UnsupportedLayer(ValueError):
    """A model has layers that cannot be partitioned. The message names all of them."""


def register_lowering(*layer_classes: type) -> Callable[[Callable], Callable]:
    """Register the lowering rule of a layer, which says how to partition it.

    It decorates a function `lower(layer, trace, *inputs, **call_arguments)` that gets the layer, the
    `ks.rules.Trace` of the step and the layer's inputs as `ks.rules.SpatialTensor`s, and returns the layer's outputs as
    `ks.rules.SpatialTensor`s. The function builds them from the four kinds of operation, `trace.pointwise`,
    `trace.windowed`, `trace.reduced` and `trace.reshard`; the built-in layers are registered in the same way. A
    subclass of a registered layer is lowered as that layer unless it overrides `call`.

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
    """The lowering rule of a layer, or None. A subclass with its own `call` does not inherit its parent's rule."""
    for cls in type(operation).__mro__:
        if cls in _TABLE:
            return _TABLE[cls]
        if "call" in vars(cls):
            return None
    return None
