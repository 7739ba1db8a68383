"""Find out which names a loss or metric overrides in the class of Keras, or of this package, that it extends."""

from typing import Any

import keras

# Every class has these names, or they are used only outside a step.
_HARMLESS = {*dir(type("", (), {})), "get_config", "from_config", "__annotations__", "__static_attributes__"}
_OF_STEPS = {"__call__", "__getattribute__", "__getattr__"}


def known_class(value: Any) -> type:
    """The first class of Keras's or this package's own among the bases of an object's class."""
    return next(cls for cls in type(value).__mro__ if cls.__module__.split(".")[0] in ("keras", "keras_spatial"))


def overridden(value: Any, *allowed: str) -> set[str]:
    """The names of `known_class` that a subclass of it or the object itself overrides, without those in `allowed`."""
    known = known_class(value)
    mro = type(value).__mro__
    names = {name for cls in mro[: mro.index(known)] for name in vars(cls)}
    names |= {name for name, own in vars(value).items() if callable(own)}
    return {name for name in names if hasattr(known, name)} - (_HARMLESS - _OF_STEPS) - set(allowed)


def is_of_keras(function: Any) -> bool:
    """Whether a function or an object's class is Keras's own."""
    module = getattr(function, "__module__", None) or type(function).__module__
    return module.split(".")[0] == "keras"


def keeps_loss_call(loss: keras.losses.Loss) -> bool:
    """Whether a loss overrides at most `call`, so that weights and reduction are applied as in Keras."""
    return not overridden(loss, "call")


def keeps_update(metric: keras.metrics.Metric) -> bool:
    """Whether a metric updates its state exactly as the Keras class that it extends."""
    return known_class(metric) is not keras.metrics.Metric and not overridden(metric, "result", "reset_state")
