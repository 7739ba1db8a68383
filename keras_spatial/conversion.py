"""Turn a plain Keras model, or its file, into a partitioned one."""

import contextlib
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
from keras_spatial.own_steps import computed_whole

_WHAT_TO_DO = ("raise", "replicate")


def partition(
    model: keras.Model, distribution: SpatialParallel, input_shape: Any = None, *, unsupported: str = "raise"
) -> Model:
    """Shard any Keras model's images over a mesh of devices. Layers and variables are shared, not copied.

    Args:
        model: a functional, sequential or subclassed Keras model. If it is compiled, so is the result, with the same
            optimizer, losses and metrics.
        distribution: the mesh and layout.
        input_shape: the shape of one input without the batch axis, or a structure of such shapes. It is needed for
            models that do not know their input shape yet.
        unsupported: what to do with layers, losses and metrics that cannot be computed on shards. `"raise"` raises an
            error that names all of them. `"replicate"` runs them unchanged on every device, on their whole inputs, and
            shards their outputs again; a warning says how much memory that takes.

    Returns:
        A `ks.Model` that is also an instance of the model's own class, with its attributes, its methods and its order
        of weights. If that class defines a `train_step`, `compute_loss` or similar method, it runs unchanged on whole
        outputs, with a warning.

    Raises:
        UnsupportedLayer: a `ValueError` that names all layers that cannot be partitioned.
        ValueError: if `model` is not a Keras model, or nothing says what its input shape is.

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
    network.forget_graphs()
    result._partition.network = network
    replicated = network.check(specs)
    if replicated:
        warnings.warn(readable_replicated(replicated), stacklevel=2)
    _remember(result)
    if result.compiled and not computed_whole(result, "train_step", "test_step"):
        check_compiled(network.outputs_for_planning, result)
    return result


def _input_specs(model: keras.Model, input_shape: Any) -> Any:
    """The specifications of a model's inputs, in the model's structure; a model that is not built yet is built.

    Raises:
        ValueError: if the input shape is unknown.
    """
    graph = keras_private.functional_part(model)
    if graph is not None and input_shape is None:
        return keras_private.input_structure(graph)
    if isinstance(model, Functional) and input_shape is None:
        return keras_private.input_structure(model)
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


# The symbolic inputs of partitioned models, keyed by `id`, with the models' names.
_INPUTS: dict[int, tuple[weakref.ref, str]] = {}


def _remember(model: Model) -> None:
    graph = keras_private.functional_part(model)
    for x in [] if graph is None else graph.inputs:
        _INPUTS[id(x)] = weakref.ref(x), model.name


def _warn_of_plain_model(model: keras.Model, inputs: list) -> None:
    """Warn of a model made from a partitioned model's tensors: it has the same layers, but no mesh."""
    names = [_INPUTS[id(x)][1] for x in inputs if id(x) in _INPUTS and _INPUTS[id(x)][0]() is x]
    if names and not isinstance(model, Model):
        warnings.warn(
            f"Model '{model.name}' is not partitioned. It is made from the input of '{names[0]}', which a partitioned "
            "model shares with the plain model that it was made from. To partition it, use "
            f"ks.partition({model.name}, distribution), or make it from {names[0]}(inputs).",
            stacklevel=5,
        )


keras_private.watch_functional_models(_warn_of_plain_model)


@functools.cache
def partitioned_class(cls: type) -> type:
    """The class of the partitioned form of a model: a subclass of both `Model` and the model's own class."""
    if issubclass(cls, Model):
        return cls
    if cls is Functional:
        return FunctionalModel
    return type(cls.__name__, (Model, cls), {"__module__": cls.__module__, "__doc__": cls.__doc__})


def load_model(filepath: Any, distribution: SpatialParallel | None = None, **kwargs: Any) -> keras.Model:
    """Load a model as `keras.saving.load_model` does, and partition it over a mesh.

    Args:
        filepath: a `.keras` file, saved by a plain model or by a partitioned one on any mesh.
        distribution: the mesh and layout; by default those in force. If there are none, the model is a plain Keras
            model.
        **kwargs: further arguments of `keras.saving.load_model`.

    Returns:
        A `ks.Model` on the mesh, or a plain Keras model.

    Raises:
        UnsupportedLayer: a `ValueError` that names all layers that cannot be partitioned.

    Example:

    ```python
    model = ks.load_model("liver.keras", ks.SpatialParallel(ks.device_mesh("rows:4"), "x:rows"))
    ```
    """
    distribution = current_distribution() if distribution is None else distribution
    # On TPUs variables have to be made under the strategy of the slice.
    with contextlib.nullcontext() if distribution is None else distribution.runtime.scope():
        model = keras.saving.load_model(filepath, **kwargs)
    if isinstance(model, keras.Model):
        model_tasks.attach(model, model_tasks.read_text(filepath))
    return model if distribution is None else partition(model, distribution)
