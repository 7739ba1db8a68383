"""Which class a method comes from."""

from typing import Any

import keras


def defining_class(model: keras.Operation, method: str) -> type:
    """The class that a model's or layer's method comes from, this package's own left out."""
    return next(
        cls for cls in type(model).__mro__ if method in vars(cls) and not cls.__module__.startswith("keras_spatial.")
    )


def defining_method(value: Any, method: str) -> type:
    return next(cls for cls in type(value).__mro__ if method in vars(cls))


def overrides(model: keras.Model, *methods: str) -> list[str]:
    """Those of the given methods that a model's class, or one of its bases outside Keras, defines itself."""
    return [m for m in methods if not defining_class(model, m).__module__.startswith("keras.src.")]
