"""The network of a training: by name, by the user's code, or from a file; and the model for inference inside it."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import keras_spatial as ks  # First: it turns oneDNN on before TensorFlow starts.

# isort: split
import keras

from components import storage
from components.train.settings import NETWORKS, TrainingError, TrainingSettings
from keras_spatial._paths import regular


def make(settings: TrainingSettings, input_shape: tuple[int | None, ...], classes: int) -> keras.Model:
    """The network that the settings name, with new weights or those of its file.

    Args:
        settings: The settings of the training.
        input_shape: `(x, y, z, channels)` of the data set's images.
        classes: that the data set's labels have.

    Returns:
        A Keras model, partitioned if a distribution is in force and it is one by name. Where it has several outputs the
        first is the segmentation, and the others are compared with the same labels.

    Raises:
        TrainingError: if the code cannot be imported, makes no Keras model, or the model does not fit the data set.
    """
    if settings.network_source == "file":
        try:
            file = regular(storage.local(settings.network))
        except OSError as error:
            raise TrainingError(f"network: expected a .keras file. Received: {error}") from error
        model = keras.saving.load_model(file, compile=False)
        return _checked(model, settings.network, input_shape, classes)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(settings.precision)
    try:
        if settings.network_source == "name":
            function = getattr(ks.models, NETWORKS[settings.network])
            given = {"filters": settings.filters, "levels": settings.levels, "dropout": settings.dropout}
        else:
            function, given = code(settings.network, "network"), {}
        options: Mapping[str, Any] = {**given, **settings.network_options}
        try:
            inspect.signature(function).bind(input_shape=input_shape, classes=classes, **options)
        except TypeError as error:
            raise TrainingError(
                f"network: {settings.network} does not take input_shape, classes and {sorted(options)} as keyword "
                f"arguments ({error}). Change network_options, or write a function that does."
            ) from error
        model = function(input_shape=input_shape, classes=classes, **options)
    finally:
        keras.config.set_dtype_policy(before)
    return _checked(model, settings.network, input_shape, classes)


def code(reference: str, setting: str) -> Any:
    """The function that `module:function` names.

    Raises:
        TrainingError: if there is none.
    """
    module, _, name = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise TrainingError(
            f"{setting}: {reference} cannot be imported ({type(error).__name__}: {error}). Expected module:function, "
            "where Python finds the module in PYTHONPATH and, on a cluster, in the image."
        ) from error


def inference_model(model: keras.Model) -> keras.Model:
    """The model without the outputs of deep supervision, with the same variables. Call it before `ks.partition`."""
    if len(model.outputs) == 1:
        return model
    return keras.Model(model.inputs, model.outputs[0], name=model.name)


def _checked(model: Any, network: str, input_shape: tuple[int | None, ...], classes: int) -> keras.Model:
    if not isinstance(model, keras.Model):
        raise TrainingError(f"network: expected {network} to make a keras.Model. Received: {type(model).__name__}")
    if not model.built or len(model.inputs) != 1:
        raise TrainingError(f"network: expected {network} to be a built model of one input. Received: {model.inputs}")
    expected = [(None, *input_shape), *[(None, *input_shape[:-1], classes)] * len(model.outputs)]
    for found, wanted in zip([model.inputs[0], *model.outputs], expected, strict=True):
        sizes = zip(found.shape, wanted, strict=False)
        if len(found.shape) != len(wanted) or any(a not in (None, b) for a, b in sizes if b is not None):
            raise TrainingError(
                f"network: {network} does not fit the data set: expected input {expected[0]} and outputs "
                f"{expected[-1]}. Received: {tuple(found.shape)}"
            )
    return model
