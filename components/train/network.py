"""Make the network of a training by its name, by the user's code or from a file, and its part for inference."""

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

# The factors to try for the size of images if it is not known how often a network halves them.
_FACTORS = (8, 16, 32, 64, 128)


def make(settings: TrainingSettings, input_shape: tuple[int | None, ...], classes: int) -> keras.Model:
    """Make the network that the settings name, with new weights or those of its file.

    Args:
        settings: the settings of the training.
        input_shape: `(x, y, z, channels)` of the data set's images.
        classes: the number of classes of the labels.

    Returns:
        A Keras model. A network by name is partitioned if a distribution is in force. If it has several outputs, the
        first one is the segmentation, and the others are compared with the same labels.

    Raises:
        TrainingError: if the file cannot be read, the code cannot be imported or does not make a Keras model, or the
            model does not fit the data set.
    """
    if settings.network_source == "file":
        return _fixed(_checked(_loaded(settings.network), settings.network, input_shape, classes), input_shape)
    function, options = _function(settings)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(settings.precision)
    try:
        model = _called(function, settings.network, input_shape, classes, options)
    finally:
        keras.config.set_dtype_policy(before)
    return _fixed(_checked(model, settings.network, input_shape, classes), input_shape)


def image_size(
    settings: TrainingSettings, largest: tuple[int, int, int], channels: int, classes: int
) -> tuple[int, int, int]:
    """The common size to which images of different sizes are padded.

    It is the size of a file's input, or else the smallest one that holds the largest image and that the network can
    halve as often as it does.

    Args:
        settings: the settings of the training.
        largest: the number of voxels along each axis of the smallest box that holds every image.
        channels: the number of channels of an image.
        classes: the number of classes of the labels.

    Raises:
        TrainingError: as for `make`, or if the input of a file is smaller than an image.
    """
    if settings.network_source == "name":
        return _multiple(largest, 2 ** (settings.levels - 1))
    if settings.network_source == "file":
        x, y, z = _loaded(settings.network).input_shape[1:4]
        if None not in (x, y, z):
            if any(n > m for n, m in zip(largest, (x, y, z), strict=True)):
                raise TrainingError(
                    f"network: expected a file whose input holds the largest image, of up to {largest} voxels. "
                    f"Received: {settings.network} with an input of {(x, y, z)}. Set a coarser grid, or make a network "
                    "with a larger input and these weights: see docs/guides/fine_tune.md."
                )
            return x, y, z
    # How often the network halves an image is not known, so sizes are tried.
    for factor in _FACTORS:
        size = _multiple(largest, factor)
        try:
            make(settings, (*size, channels), classes)
        except TrainingError:
            if factor == _FACTORS[-1]:
                raise
        else:
            return size
    raise AssertionError("one of the factors is the last")


def check_arguments(settings: TrainingSettings) -> None:
    """Check the network as far as that is possible without the data set.

    Raises:
        TrainingError: if the file cannot be read, or the function does not exist or does not take the options.
    """
    if settings.network_source == "file":
        _loaded(settings.network)
        return
    function, options = _function(settings)
    _check_signature(function, settings.network, options)


def code(reference: str, setting: str) -> Any:
    """Import the function to which `module:function` refers.

    Raises:
        TrainingError: if it does not exist, or its module cannot be imported.
    """
    module, _, name = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    # The module's own code may raise anything.
    except Exception as error:
        raise TrainingError(
            f"{setting}: {reference} cannot be imported ({type(error).__name__}: {error}). Expected module:function, "
            "where Python finds the module in PYTHONPATH and, on a cluster, in the image."
        ) from error


def inference_model(model: keras.Model) -> keras.Model:
    """The model without the outputs of deep supervision, with the same variables. Call it before `ks.partition`."""
    if len(model.outputs) == 1:
        return model
    return keras.Model(model.inputs, model.outputs[0], name=model.name)


def _multiple(sizes: tuple[int, int, int], factor: int) -> tuple[int, int, int]:
    x, y, z = (-(-n // factor) * factor for n in sizes)
    return x, y, z


def _function(settings: TrainingSettings) -> tuple[Any, Mapping[str, Any]]:
    """The function that makes the network, and its arguments besides the shape and the classes."""
    if settings.network_source == "code":
        return code(settings.network, "network"), settings.network_options
    given = {"filters": settings.filters, "levels": settings.levels, "dropout": settings.dropout}
    return getattr(ks.models, NETWORKS[settings.network]), {**given, **settings.network_options}


def _check_signature(function: Any, network: str, options: Mapping[str, Any]) -> None:
    try:
        inspect.signature(function).bind(input_shape=(), classes=0, **options)
    except TypeError as error:
        raise TrainingError(
            f"network: {network} does not take input_shape, classes and {sorted(options)} as keyword "
            f"arguments ({error}). Change network_options, or write a function that does."
        ) from error


def _called(
    function: Any, network: str, input_shape: tuple[int | None, ...], classes: int, options: Mapping[str, Any]
) -> Any:
    _check_signature(function, network, options)
    try:
        return function(input_shape=input_shape, classes=classes, **options)
    # The user's code may raise anything, and so may a network by name with wrong options.
    except Exception as error:
        raise TrainingError(
            f"network: expected {network} to make a model of input_shape={input_shape}, classes={classes} and "
            f"network_options {dict(options)}. Received: {type(error).__name__}: {error}"
        ) from error


def _loaded(file: str) -> Any:
    try:
        return keras.saving.load_model(regular(storage.local(file)), compile=False)
    # For a damaged file, Keras passes on the errors of zip, JSON and HDF5.
    except Exception as error:
        raise TrainingError(
            f"network: expected a .keras file that can be read. Received: {file!r} ({type(error).__name__}: {error})"
        ) from error


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


def _fixed(model: keras.Model, input_shape: tuple[int | None, ...]) -> keras.Model:
    """The same model with a fixed image size, if its size is open, because predictions need to know the size.

    Raises:
        TrainingError: if the model cannot be made for this size.
    """
    if None not in model.input_shape[1:] or None in input_shape:
        return model
    try:
        fixed = keras.models.clone_model(model, input_tensors=keras.Input(input_shape))
        sizes = [tuple(output.shape[1:-1]) for output in fixed.outputs]
    except ValueError as error:
        raise TrainingError(f"network: {model.name} cannot take images of {input_shape} ({error})") from error
    if any(size != tuple(input_shape[:-1]) for size in sizes):
        raise TrainingError(
            f"network: expected {model.name} to have outputs of the image's size, {input_shape[:-1]}. Received: {sizes}"
        )
    fixed.set_weights(model.get_weights())
    return fixed
