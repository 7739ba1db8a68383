"""Functional models as graphs, and copies of models."""

import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
from keras import tree
from keras.src.models.functional import Functional
from keras.src.utils.tracking import Tracker

from keras_spatial.keras_private.classes import defining_class
from keras_spatial.keras_private.objective import compilation


def input_structure(model: keras.Model) -> Any:
    """A functional model's inputs, in the structure that the user gave."""
    return model._inputs_struct


def output_structure(model: keras.Model) -> Any:
    """A functional model's outputs, in the structure in which they were given."""
    return model._outputs_struct


def functional_part(model: keras.Model) -> keras.Model | None:
    """The functional model that a model's `call` runs; None if its `call` is its own."""
    if "call" in vars(model):
        return None
    if isinstance(model, keras.Sequential):
        return model._functional if defining_class(model, "call") is keras.Sequential else None
    if isinstance(model, Functional):
        return model if defining_class(model, "call") is Functional else None
    return None


def watch_functional_models(listener: Callable[[keras.Model, list], None]) -> None:
    """Call a listener with every functional model that is made and with the symbolic tensors it is made from."""
    original = Functional.__init__

    # Keras inspects the names of these arguments.
    def init(self, inputs, outputs, name=None, **kwargs):
        original(self, inputs, outputs, name=name, **kwargs)
        listener(self, tree.flatten(inputs))

    Functional.__init__ = functools.wraps(original)(init)


def nodes_of(graph: keras.Model) -> Iterator[Any]:
    """The nodes of a functional model, from inputs to outputs.

    Each has `operation`, `arguments.args`, `arguments.kwargs`, `output_tensors`.
    """
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        yield from graph._nodes_by_depth[depth]


def run_graph(graph: keras.Model, inputs: list, operation_fn: Callable) -> Any:
    """Walk a functional model: `operation_fn(operation)` is called in place of each operation."""
    return graph._run_through_graph(inputs, operation_fn=operation_fn)


def name_of(operation: keras.Operation) -> str:
    """An operation's name. Some libraries set it to None after Keras has chosen one."""
    return operation.name or type(operation).__name__.lower()


def shared_copy(model: keras.Model, cls: type) -> Any:
    """A model of another class with the same layers, variables and attributes, which can be compiled separately.

    Args:
        model: the model.
        cls: a class that differs from the model's only by bases that add no state.
    """
    result = keras.Model.__new__(cls)
    # Keras wraps these two methods in each instance.
    own = {name: vars(result)[name] for name in ("build", "quantize") if name in vars(result)}
    vars(result).update({name: _own_container(value) for name, value in vars(model).items()} | own)
    stores = {name: (test, list(values)) for name, (test, values) in model._tracker.config.items()}
    tracker = Tracker(stores, exclusions=model._tracker.exclusions)
    tracker.stored_ids = {name: set(ids) for name, ids in model._tracker.stored_ids.items()}
    tracker.locked, tracker._lock_violation_msg = model._tracker.locked, model._tracker._lock_violation_msg
    vars(result)["_tracker"] = tracker
    for name, (_, values) in stores.items():
        # A sequential model has its own list of layers, which is not the tracker's.
        if vars(model).get(f"_{name}") is model._tracker.config[name][1]:
            vars(result)[f"_{name}"] = values
    vars(result).update(_inbound_nodes=[], _outbound_nodes=[])
    vars(result).update(train_function=None, test_function=None, predict_function=None)
    if model.compiled:
        copy_compilation(model, result)
    return result


def _own_container(value: Any) -> Any:
    """A copy of a plain container: TensorFlow tracks attributes in such containers, and they must not be shared."""
    return copy.copy(value) if type(value) in (list, dict, set) else value


def copy_compilation(source: keras.Model, target: keras.Model) -> None:
    """Compile `target` as `source` is, with the same optimizer, losses and metrics."""
    configuration = compilation(source)
    if configuration is not None:
        keras.Model.compile(target, **{**configuration, "jit_compile": False})


def start_with_epoch(model: keras.Model, epoch: int | None) -> None:
    """Let `fit` begin with this epoch, whatever its `initial_epoch` is; None restores the normal behaviour."""
    model._initial_epoch = epoch


def is_validation_of_fit(arguments: Mapping[str, Any]) -> bool:
    """Whether these arguments of `evaluate` are those with which `fit` evaluates its validation data after an epoch."""
    return bool(arguments.get("_use_cached_eval_dataset"))


def without_optionals(model: keras.Model, step: Callable) -> Callable:
    """A step that receives None for each empty `tf.experimental.Optional` in a batch, as in Keras's own functions."""
    return model._autoconvert_optionals(step)
