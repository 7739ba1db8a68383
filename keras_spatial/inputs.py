"""Turn what users pass to a model into tensors of the model's shapes and dtypes."""

import operator
from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf
from keras import tree

from keras_spatial.keras_private import Functional, in_symbolic_scope, input_structure
from keras_spatial.runtimes.blocks import LocalBlocks, as_tensor


def is_concrete(inputs: Any) -> bool:
    """Whether a model is called with values, rather than to find out its structure."""
    return not in_symbolic_scope() and not any(isinstance(x, keras.KerasTensor) for x in tree.flatten(inputs))


def fit_input(value: tf.Tensor | LocalBlocks, reference: keras.KerasTensor, name: str) -> tf.Tensor | LocalBlocks:
    """Cast a value to the dtype of the model's input, and add a missing axis of one channel.

    Raises:
        ValueError: if the shape is not that of the model's input.
    """
    if value.dtype.name != reference.dtype:
        value = cast(value, reference.dtype)
    if value.shape.rank == len(reference.shape) - 1 and reference.shape[-1] == 1:
        value = value.with_channels() if isinstance(value, LocalBlocks) else tf.expand_dims(value, -1)
    shape = value.shape
    fits = shape.rank == len(reference.shape) and all(
        b is None or a == b for a, b in zip(shape[1:], reference.shape[1:], strict=True)
    )
    if not fits:
        raise ValueError(f"Model '{name}' takes inputs of shape {reference.shape}. Received: {tuple(shape)}")
    return value


def cast(value: tf.Tensor | LocalBlocks, dtype: str) -> tf.Tensor | LocalBlocks:
    return value.cast(dtype) if isinstance(value, LocalBlocks) else tf.cast(value, dtype)


def batches_of(x: Any, batch_size: int) -> Iterable:
    """The batches of the data that a user passes to `predict`.

    Raises:
        ValueError: if the arrays do not have the same length, or `batch_size` is not positive.
    """
    if isinstance(x, tf.data.Dataset):
        return x
    flat = tree.flatten(x)
    if any(isinstance(value, LocalBlocks) for value in flat):
        return [(x,)]
    lengths = {len(value) for value in flat}
    if len(lengths) != 1 or batch_size < 1:
        raise ValueError(f"Expected arrays of the same length and batch_size >= 1. Received: {lengths}, {batch_size}")
    starts = range(0, lengths.pop(), batch_size)
    return [(tree.map_structure(operator.itemgetter(slice(i, i + batch_size)), x),) for i in starts]


def as_inputs(model: keras.Model, x: Any) -> Any:
    """The inputs as tensors of static shape and of the model's dtypes, in the structure of the model's inputs.

    Raises:
        ValueError: if there are too many or too few, if their names are not those of the inputs, or if one does not
            have the model's shape.
    """
    tensors = tree.map_structure(as_tensor, x)
    if not isinstance(model, Functional):
        return tree.map_structure(lambda t: cast(t, model.input_dtype) if t.dtype.is_floating else t, tensors)
    structure = input_structure(model)
    flat, references = _in_order(model, tensors, structure), tree.flatten(structure)
    if len(flat) != len(references):
        raise ValueError(f"Model '{model.name}' takes {len(references)} inputs. Received: {len(flat)} tensors")
    flat = [fit_input(value, reference, model.name) for value, reference in zip(flat, references, strict=True)]
    return tree.pack_sequence_as(structure, flat)


def _in_order(model: keras.Model, tensors: Any, structure: Any) -> list:
    """Tensors in the order of a functional model's inputs, found by name where Keras finds them by name.

    Raises:
        ValueError: if an input's name is missing, if Keras would take a tensor of another name for it, or if the order
            of tensors without names is not clear.
    """
    by_name = isinstance(structure, dict)
    if not isinstance(tensors, dict):
        if by_name and list(structure) != sorted(structure):
            raise ValueError(
                f"Model '{model.name}' takes a dictionary of {list(structure)}, in whose order Keras would not read a "
                f"list. Received: {type(tensors).__name__}"
            )
        return tree.flatten(tensors)
    flat = [structure] if isinstance(structure, keras.KerasTensor) else list(structure)
    names: list[Any] = list(structure) if by_name else [getattr(x, "name", None) for x in flat]
    if missing := [name for name in names if name not in tensors]:
        raise ValueError(
            f"Missing data for inputs {missing} of model '{model.name}'. Received: a dictionary of {list(tensors)}"
        )
    if by_name and sorted(tensors)[: len(names)] != sorted(names):
        raise ValueError(
            f"Model '{model.name}' takes a dictionary of {names}. Keras would match other tensors with them, in "
            f"alphabetical order. Received: a dictionary of {list(tensors)}"
        )
    return tree.flatten({name: tensors[name] for name in names}) if by_name else [tensors[name] for name in names]
