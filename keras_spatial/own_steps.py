"""Steps that a model's class defines itself. They get whole outputs, and a warning says what that costs."""

import math
import warnings
from typing import TYPE_CHECKING

import tensorflow as tf
from keras import tree

from keras_spatial import keras_private

if TYPE_CHECKING:
    from keras_spatial.model import Model

# The methods that change each of Keras's steps if a class overrides them.
_OVERRIDES = {
    "train_step": ("train_step", "compute_loss", "compute_metrics"),
    "test_step": ("test_step", "compute_loss", "compute_metrics"),
    "predict_step": ("predict_step",),
}


def computed_whole(model: "Model", *steps: str) -> bool:
    """Whether the model's class overrides one of these steps, or a method that Keras's step calls; warns once if so."""
    found = list(dict.fromkeys(m for step in steps for m in keras_private.overrides(model, *_OVERRIDES[step])))
    new = [method for method in found if method not in model._partition.warned]
    if new:
        model._partition.warned.update(new)
        methods = ", ".join(f"{keras_private.defining_class(model, m).__name__}.{m}" for m in new)
        warnings.warn(
            f"Model '{model.name}': {methods} is not Keras's own, so it runs unchanged, on the model's whole "
            f"outputs{_cost(model)} on every device. The layers stay sharded.",
            stacklevel=4,
        )
    return bool(found)


def _cost(model: "Model") -> str:
    specs = model._network.output_specs
    if specs is None:
        return ""
    size = sum(math.prod(x.shape[1:]) * tf.as_dtype(x.dtype).size for x in tree.flatten(specs))
    return f" ({size / 1e6:.3g} MB for each case)"
