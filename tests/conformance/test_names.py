"""Every public name of Keras has exactly one entry in the conformance table, and the table has no other entries."""

import inspect

import keras
import pytest
from conformance.table import activations, fitting, layers, objectives, operations
from conformance.table.statuses import public_names

import keras_spatial as ks

OWN_LAYERS = {name for name in ks.layers.__all__ if not hasattr(keras.layers, name)}
NAMESPACES = {
    "layers": (keras.layers, {k: v for k, v in layers.LAYERS.items() if k not in OWN_LAYERS}),
    "activations": (keras.activations, activations.ACTIVATIONS),
    "losses": (keras.losses, objectives.LOSSES),
    "metrics": (keras.metrics, objectives.METRICS),
    "optimizers": (keras.optimizers, fitting.OPTIMIZERS),
    "optimizers.schedules": (keras.optimizers.schedules, fitting.SCHEDULES),
    "callbacks": (keras.callbacks, fitting.CALLBACKS),
    "regularizers": (keras.regularizers, fitting.REGULARIZERS),
    "constraints": (keras.constraints, fitting.CONSTRAINTS),
    "initializers": (keras.initializers, fitting.INITIALIZERS),
    "dtype_policies": (keras.dtype_policies, fitting.DTYPES),
}
METHODS = {
    "fit": (keras.Model.fit, fitting.FIT),
    "compile": (keras.Model.compile, fitting.COMPILE),
    "evaluate": (keras.Model.evaluate, fitting.EVALUATE),
    "predict": (keras.Model.predict, fitting.PREDICT),
}


def assert_each_has_one_entry(names: dict[str, tuple[str, ...]], table) -> None:
    entries = {name: [n for n in (name, *others) if n in table] for name, others in names.items()}
    missing = [name for name, found in entries.items() if not found]
    assert not missing, f"Keras has {missing}: add each to the conformance table, with a case or a reason"
    twice = [found for found in entries.values() if len(found) > 1]
    assert not twice, f"These are names of one thing, of which one is enough: {twice}"
    known = {name for found in entries.values() for name in found}
    assert set(table) <= known, f"Keras lacks {sorted(set(table) - known)}: take them out of the conformance table"


@pytest.mark.parametrize("name", NAMESPACES)
def test_every_public_name_has_one_entry(name):
    namespace, table = NAMESPACES[name]
    assert_each_has_one_entry(public_names(namespace), table)


def test_every_layer_that_keras_lacks_has_an_entry():
    assert set(layers.LAYERS) >= OWN_LAYERS


def test_every_public_operation_has_one_entry():
    names = public_names(keras.ops)
    known = {id(getattr(keras.ops, name)) for name in names}
    for module in (m for m in vars(keras.ops).values() if inspect.ismodule(m) and "ops" in m.__name__):
        space = module.__name__.rsplit(".", 1)[-1]
        for name, others in public_names(module).items():
            if id(getattr(module, name)) not in known:
                names[f"{space}.{name}"] = tuple(f"{space}.{other}" for other in others)
    assert_each_has_one_entry(names, operations.OPERATIONS)


@pytest.mark.parametrize("name", METHODS)
def test_every_argument_has_one_entry(name):
    method, table = METHODS[name]
    arguments = {argument: () for argument in inspect.signature(method).parameters if argument != "self"}
    assert_each_has_one_entry(arguments, table)
