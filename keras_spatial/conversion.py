"""From a plain Keras model, or its file, to a partitioned one."""

import functools
import warnings
import weakref
from typing import Any

import keras
from keras import tree

from keras_spatial import keras_private, model_tasks
from keras_spatial.distribution import SpatialParallel, check_distribution, current_distribution
from keras_spatial.keras_private import Functional
from keras_spatial.mesh_state import MeshState
from keras_spatial.model import FunctionalModel, Model
from keras_spatial.network import Network, readable_replicated
from keras_spatial.objective import check_compiled
from keras_spatial.overrides import computed_whole

_WHAT_TO_DO = ("raise", "replicate")


def partition(
    model: keras.Model, distribution: SpatialParallel, input_shape: Any = None, *, unsupported: str = "raise"
) -> Model:
    """Shard any Keras model's images over a mesh of devices. Layers and variables are shared, not copied.

    Args:
        model: a functional, sequential or subclassed Keras model. If it is compiled, so is the result, with the same
            optimizer, losses and metrics.
        distribution: the mesh and layout.
        input_shape: shape of one input without the batch, or a structure of such shapes; needed for models that do
            not know it yet.
        unsupported: what to do with layers, losses and metrics that have no equal on shards: `"raise"` an error that
            names all of them, or `"replicate"`: they get their whole inputs on every device and run as they are, and
            their outputs are sharded again. A warning says what that costs.

    Returns:
        A `ks.Model` that is also of the model's own class, with its attributes, methods and order of weights. A
        `train_step`, `compute_loss` and the like of that class are run as they are, on whole outputs, with a warning.

    Raises:
        UnsupportedLayer: a `ValueError` that names all layers that cannot be partitioned.

    Example:

    ```python
    spatial = ks.partition(keras.applications.ResNet50(weights=None), distribution)
    ```
    """
    if not isinstance(model, keras.Model):
        raise ValueError(f"model must be a keras.Model. Received: {model!r}")
    if unsupported not in _WHAT_TO_DO:
        raise ValueError(f"unsupported must be one of {_WHAT_TO_DO}. Received: unsupported={unsupported!r}")
    check_distribution(distribution)
    if isinstance(model, Model) and model._partition.plain_class is not None:
        cls = model._partition.plain_class
    else:
        cls = Functional if type(model) is FunctionalModel else type(model)
    specs = _input_specs(model, input_shape)
    result = keras_private.shared_copy(model, partitioned_class(cls))
    vars(result)["_partition"] = MeshState(distribution, plain_class=None if issubclass(cls, Model) else cls)
    network = Network(result, distribution, replicate=unsupported == "replicate")
    result._partition.network = network
    replicated = network.check(specs)
    if replicated:
        warnings.warn(readable_replicated(replicated), stacklevel=2)
    _remember(result)
    if result.compiled and not computed_whole(result, "train_step", "test_step"):
        check_compiled(network.outputs_for_planning, result)
    return result


def _input_specs(model: keras.Model, input_shape: Any) -> Any:
    """What a model takes, in its own structure; a model that is not built yet is built with it.

    Raises:
        ValueError: if nothing says it.
    """
    graph = keras_private.functional_part(model)
    if graph is not None and input_shape is None:
        return keras_private.input_structure(graph)
    if input_shape is None:
        known = keras_private.called_with(model)
        if known is None:
            raise ValueError(
                f"Model '{model.name}' of class {type(model).__name__} must know its input shape to be partitioned: "
                "ks.partition(model, distribution, input_shape=...)."
            )
        return known
    if graph is not None:
        structure = keras_private.input_structure(graph)
        if len(tree.flatten(structure)) == 1:
            (reference,) = tree.flatten(structure)
            return tree.pack_sequence_as(structure, [keras.KerasTensor((None, *input_shape), reference.dtype)])
    specs = tree.map_shape_structure(lambda s: keras.KerasTensor((None, *s), model.input_dtype), input_shape)
    if not model.built:
        model(tree.map_structure(lambda x: keras.Input(x.shape[1:], dtype=x.dtype), specs))
    return specs


# The symbolic inputs of models that were partitioned, by their `id`, and the models' names.
_INPUTS: dict[int, tuple[weakref.ref, str]] = {}


def _remember(model: Model) -> None:
    graph = keras_private.functional_part(model)
    for x in [] if graph is None else graph.inputs:
        _INPUTS[id(x)] = weakref.ref(x), model.name


def _warn_of_plain_model(model: keras.Model, inputs: list) -> None:
    """A model made of a partitioned one's tensors has its layers, but not its mesh."""
    names = [_INPUTS[id(x)][1] for x in inputs if id(x) in _INPUTS and _INPUTS[id(x)][0]() is x]
    if names and not isinstance(model, Model):
        warnings.warn(
            f"Model '{model.name}' is not partitioned. It is made of the input of '{names[0]}', which a partitioned "
            f"model and the plain model that it was made of share. If it is to be partitioned, use "
            f"ks.partition({model.name}, distribution), or make it of {names[0]}(inputs).",
            stacklevel=5,
        )


keras_private.watch_functional_models(_warn_of_plain_model)


@functools.cache
def partitioned_class(cls: type) -> type:
    """The class of a partitioned model of some class: both a `Model` and of that class."""
    if issubclass(cls, Model):
        return cls
    if cls is Functional:
        return FunctionalModel
    return type(cls.__name__, (Model, cls), {"__module__": cls.__module__, "__doc__": cls.__doc__})


def load_model(filepath: Any, distribution: SpatialParallel | None = None, **kwargs: Any) -> keras.Model:
    """As `keras.saving.load_model`, onto a mesh. The model has the task that its file holds (`ks.volumes.task_of`).

    Args:
        filepath: a `.keras` file, saved by a plain or a partitioned model on any mesh.
        distribution: the mesh and layout; by default those in force. Without either the model is a plain Keras model.
        **kwargs: passed on to `keras.saving.load_model`.
    """
    distribution = current_distribution() if distribution is None else distribution
    model = keras.saving.load_model(filepath, **kwargs)
    if isinstance(model, keras.Model):
        model_tasks.attach(model, model_tasks.read_text(filepath))
    return model if distribution is None else partition(model, distribution)
