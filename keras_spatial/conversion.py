"""From a plain Keras model, or its file, to a partitioned one."""

from typing import Any

import keras

from keras_spatial.compiled import copy_compilation
from keras_spatial.distribution import SpatialParallel
from keras_spatial.lowering.walk import functional_graph
from keras_spatial.model import FunctionalModel, Model, check_distribution, current_distribution


def partition(model: keras.Model, distribution: SpatialParallel, input_shape: Any = None) -> Model:
    """Split any Keras model's images over a mesh of devices. Layers and variables are shared, not copied.

    Args:
        model: a functional, sequential or subclassed Keras model. If it is compiled, so is the result, with the same
            optimizer, losses and metrics.
        distribution: the mesh and layout.
        input_shape: shape of one input without the batch, or a structure of such shapes; needed for models that do
            not know it yet.

    Returns:
        A `ks.Model`.

    Raises:
        UnsupportedLayer: a `ValueError` that names all layers that cannot be partitioned.

    Example:

    ```python
    spatial = ks.partition(keras.applications.ResNet50(weights=None), distribution)
    ```
    """
    if not isinstance(model, keras.Model):
        raise ValueError(f"model must be a keras.Model. Received: {model!r}")
    inputs = None if input_shape is None else keras.KerasTensor((None, *input_shape), dtype=model.input_dtype)
    graph = functional_graph(model, inputs)
    result = FunctionalModel(
        graph._inputs_struct,
        graph._outputs_struct,
        name=model.name,
        trainable=model.trainable,
        distribution=check_distribution(distribution),
    )
    copy_compilation(model, result)
    return result


def load_model(filepath: Any, distribution: SpatialParallel | None = None, **kwargs: Any) -> keras.Model:
    """As `keras.saving.load_model`, onto a mesh.

    Args:
        filepath: a `.keras` file, saved by a plain or a partitioned model on any mesh.
        distribution: the mesh and layout; by default those in force. Without either the model is a plain Keras model.
        **kwargs: passed on to `keras.saving.load_model`.
    """
    distribution = current_distribution() if distribution is None else distribution
    model = keras.saving.load_model(filepath, **kwargs)
    return model if distribution is None else partition(model, distribution)
