"""What `keras.Model.compile` left behind: which loss and which metrics belong to which output.

Keras keeps what it resolved to itself; it is read here and nowhere else.
"""

from typing import Any

import keras
from keras import tree

from keras_spatial.step import Target


def targets(model: keras.Model, labels: list, outputs: Any) -> list[Target]:
    """Losses and metrics per output, as Keras itself assigns them.

    Args:
        model: a compiled model.
        labels: one tensor or None per output.
        outputs: tensors, or Mesh-TensorFlow's, in the structure of the model's outputs.

    Raises:
        ValueError: if the model has no loss.
    """
    if model._compile_loss is None:
        raise ValueError(f"Model '{model.name}' has no loss: compile it with one.")

    def symbolic(x):
        return None if x is None else keras.KerasTensor(x.shape, dtype=keras.backend.standardize_dtype(x.dtype))

    y_pred = tree.map_structure(symbolic, outputs)
    y_true = tree.pack_sequence_as(y_pred, [symbolic(label) for label in labels])
    found = []
    if not model._compile_loss.built:
        model._compile_loss.build(y_true, y_pred)
    numbers = tree.pack_sequence_as(y_pred, list(range(len(labels))))
    for path, loss, weight, _ in model._compile_loss._flat_losses:
        number = numbers
        for key in path:
            number = number[key]
        found.append(Target(tree.flatten(number)[0], loss, weight))
    if model._compile_metrics is not None:
        if not model._compile_metrics.built:
            model._compile_metrics.build(y_true, y_pred)
        pairs = zip(model._compile_metrics._flat_metrics, model._compile_metrics._flat_weighted_metrics, strict=True)
        for number, (plain, weighted) in enumerate(pairs):
            if plain or weighted:
                plain, weighted = (tuple(m.metrics) if m else () for m in (plain, weighted))
                found.append(Target(number, metrics=plain, weighted_metrics=weighted))
    return found


def copy_compilation(source: keras.Model, target: keras.Model) -> None:
    """Compile `target` as `source` is, with the same optimizer, losses and metrics."""
    if not source.compiled:
        return
    configuration = dict(source._compile_config.config)
    configuration["optimizer"] = source.optimizer
    configuration["jit_compile"] = False
    target.compile(**configuration)
