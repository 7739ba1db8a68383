"""The private names of Keras that this package uses. If one of these tests fails after an update of Keras:

look in Keras's sources for the new place of the name (`keras.src` moves between releases), change only
`keras_spatial/keras_private/`, and run `tests/model`, `tests/rules` and `tests/objective`. Nothing else in the
package may import `keras.src`.
"""

import re
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_spatial import keras_private

PRIVATE = Path(keras_private.__file__).parent
PACKAGE = PRIVATE.parent


def test_no_other_module_imports_what_keras_keeps_to_itself():
    others = [path for path in PACKAGE.rglob("*.py") if PRIVATE not in path.parents]
    found = [p.name for p in others if re.search(r"^\s*(from|import) keras\.src", p.read_text(), re.MULTILINE)]
    assert not found


@pytest.mark.parametrize("name", keras_private.__all__)
def test_every_name_is_there(name):
    assert getattr(keras_private, name) is not None


def functional() -> keras.Model:
    inputs = {"a": keras.Input((4, 4, 1), name="a")}
    return keras.Model(inputs, [keras.layers.Conv2D(2, 3, name="c")(inputs["a"])])


def test_a_functional_model_tells_its_structures_and_its_nodes():
    model = functional()
    assert list(keras_private.input_structure(model)) == ["a"]
    operations = [node.operation.name for node in keras_private.nodes_of(model)]
    assert sorted(operations) == ["a", "c"]


def test_a_walk_calls_a_function_in_place_of_each_operation():
    found = []
    results = keras_private.run_graph(
        functional(), [1], lambda operation: lambda x: found.append((operation.name, x)) or 5
    )
    assert (found, results) == ([("c", 1)], [5])


def test_a_sequential_model_has_a_functional_part_and_an_own_call_has_none():
    class Own(keras.Sequential):
        def call(self, inputs, training=None, mask=None):
            return 2 * super().call(inputs)

    for cls in (keras.Sequential, Own):
        model = cls([keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 3)])
        assert (keras_private.functional_part(model) is None) == (cls is Own)


def test_overridden_methods_are_found():
    class Own(keras.Model):
        def train_step(self, data):
            return {}

    inputs = keras.Input((4,))
    assert keras_private.overrides(Own(inputs, inputs), "train_step", "test_step") == ["train_step"]


def test_keras_decides_which_loss_gets_which_labels_and_its_factor():
    inputs = keras.Input((4,))
    outputs = {"a": keras.layers.Dense(1, name="a")(inputs), "b": keras.layers.Dense(1, name="b")(inputs)}
    model = keras.Model(inputs, outputs)
    model.compile("sgd", {"a": "mse", "b": "mae"}, loss_weights={"a": 2.0, "b": 0.5}, metrics={"b": ["mse"]})
    handles = {name: keras.KerasTensor((2, 1)) for name in "ab"}
    labels = {name: keras.KerasTensor((2, 1)) for name in "ab"}
    calls = keras_private.loss_calls(model, labels, handles, None)
    assert [(c.called.name, c.factor) for c in calls] == [("mse", 2.0), ("mae", 0.5)]
    assert [c.y_true is labels[n] and c.y_pred is handles[n] for c, n in zip(calls, "ab", strict=True)] == [True] * 2
    (metric,) = keras_private.metric_calls(model, labels, handles, None)
    assert metric.y_pred is handles["b"]


def test_a_shared_copy_shares_variables_and_compiles_by_itself():
    model = functional()
    model.compile("adam", "mse")
    copy = keras_private.shared_copy(model, type(model))
    assert copy.optimizer is model.optimizer
    assert [a is b for a, b in zip(copy.weights, model.weights, strict=True)]
    assert copy._compile_loss is not model._compile_loss
    copy.extra = keras.layers.Dense(1)
    assert len(model._layers) != len(copy._layers)


def test_conditions_and_operators_of_variables_can_be_traced():
    x = keras.Input((3,))
    gain = keras.Variable(np.ones(3, "float32"))
    with keras_private.symbolic_calls():
        y = keras.ops.cond(keras.ops.all(x > 0), lambda: gain * x, lambda: 1.0 - x)
    names = [type(o).__name__ for o in keras.Model(x, y).operations]
    assert {"Where", "Multiply", "Subtract"} <= set(names) and "Cond" not in names


def test_variables_are_symbolic_while_they_are_traced_and_afterwards_as_before():
    methods = ("assign", "__radd__", "__rsub__", "__lt__")
    before = [getattr(keras.Variable, name) for name in methods]
    x = keras.Input((3,))
    total = keras.Variable(1.0)
    with keras_private.symbolic_variables() as state:
        y = x * keras.ops.exp(1.0 - total)
        total.assign_add(keras.ops.sum(x))
        total.assign(keras.ops.maximum(total, 2.0))
    ((read, symbol),) = state.read
    ((changed, new),) = state.assigned.values()
    assert read is changed is total
    model = keras.Model([x, symbol], [y, new])
    found = model([np.ones((2, 3), "float32"), np.float32(1.0)])
    np.testing.assert_allclose([np.sum(v) for v in found], [6.0, 7.0])
    assert [getattr(keras.Variable, name) for name in methods] == before
    assert float(total) == 1.0
    assert not isinstance(keras.ops.exp(total), keras.KerasTensor)


def test_fit_tells_evaluate_that_its_data_are_those_of_the_epoch_before():
    found = []

    class Own(keras.Model):
        def evaluate(self, *args, **kwargs):
            found.append(keras_private.is_validation_of_fit(kwargs))
            return super().evaluate(*args, **kwargs)

    inputs = keras.Input((4, 4, 1))
    model = Own(inputs, keras.layers.Conv2D(1, 3, padding="same")(inputs))
    model.compile("sgd", "mse")
    images = np.zeros((1, 4, 4, 1), "float32")
    model.fit(images, images, validation_data=(images, images), epochs=2, verbose=0)
    model.evaluate(images, images, verbose=0)
    assert found == [True, True, False]
