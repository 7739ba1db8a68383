"""A step has only one of several local functions that compute the same."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_spatial.engine.interning import InternedDerivative, InternedFunction


def called(*functions, arguments):
    """The names of the functions that a graph calls, one after another, and their results."""

    def step(*tensors):
        return [function(*tensors) for function in functions]

    traced = tf.function(step, autograph=False)
    concrete = traced.get_concrete_function(*arguments)
    names = [operation.type for operation in concrete.graph.get_operations() if operation.name.startswith("call")]
    return names, traced(*arguments)


def scaled(factor):
    return lambda x: (x * factor,)


def test_functions_of_one_definition_are_one():
    names, results = called(
        InternedFunction(scaled(2.0)), InternedFunction(scaled(2.0)), arguments=[tf.constant([1.0, 3.0])]
    )
    assert len(names) == 2 and len(set(names)) == 1
    np.testing.assert_array_equal(results, [[[2.0, 6.0]]] * 2)


def test_a_function_that_two_graphs_call_is_one_of_each():
    twice, argument = InternedFunction(scaled(2.0)), tf.constant([1.0, 3.0])
    first, _ = called(twice, arguments=[argument])
    second, results = called(InternedFunction(scaled(2.0)), twice, arguments=[argument])
    assert len(set(second)) == 1 and first[0] not in second
    np.testing.assert_array_equal(results, [[[2.0, 6.0]]] * 2)


def test_functions_of_other_constants_stay_apart():
    names, results = called(
        InternedFunction(scaled(2.0)), InternedFunction(scaled(3.0)), arguments=[tf.constant([1.0, 3.0])]
    )
    assert len(set(names)) == 2
    np.testing.assert_array_equal(results, [[[2.0, 6.0]], [[3.0, 9.0]]])


def test_functions_of_other_shapes_stay_apart():
    function = InternedFunction(lambda x: (tf.reduce_sum(x, -1),))

    def both(x):
        return (*function(x), *function(x[None]))

    first, second = tf.function(both, autograph=False)(tf.constant([1.0, 3.0]))
    np.testing.assert_array_equal(first, 4.0)
    np.testing.assert_array_equal(second, [4.0])


def test_functions_that_capture_tensors_stay_apart():
    @tf.function(autograph=False)
    def step(x):
        captured = [x + 1.0, x + 2.0]
        return [InternedFunction(lambda y, c=c: (y * c,))(x)[0] for c in captured]

    np.testing.assert_array_equal(step(tf.constant(3.0)), [12.0, 15.0])


def test_functions_of_one_identity_are_traced_once():
    traces = []

    def counted(x):
        traces.append(x)
        return (x * 2.0,)

    functions = [InternedFunction(counted, "double"), InternedFunction(counted, "double")]
    names, results = called(*functions, arguments=[tf.constant([1.0, 3.0])])
    assert len(traces) == 1 and len(set(names)) == 1
    np.testing.assert_array_equal(results, [[[2.0, 6.0]]] * 2)


def test_functions_of_one_identity_that_capture_tensors_stay_apart():
    @tf.function(autograph=False)
    def step(x):
        captured = [x + 1.0, x + 2.0]
        return [InternedFunction(lambda y, c=c: (y * c,), "captures")(x)[0] for c in captured]

    np.testing.assert_array_equal(step(tf.constant(3.0)), [12.0, 15.0])


@pytest.mark.parametrize("power", [2, 3])
def test_derivatives_of_one_definition_are_one(power):
    def derivative():
        return InternedDerivative(lambda x: (x**power,), count=1, sources=[0], targets=[0])

    names, results = called(derivative(), derivative(), arguments=[tf.constant(3.0), tf.constant(1.0)])
    assert len(set(names)) == 1
    np.testing.assert_allclose(results, [[power * 3.0 ** (power - 1)]] * 2)


def test_layers_that_repeat_add_no_functions_and_are_not_traced_again(monkeypatch):

    import keras_spatial as ks
    from keras_spatial.runtimes import functions as module

    traced, trace = [], module.trace
    monkeypatch.setattr(module, "trace", lambda *arguments: traced.append(arguments) or trace(*arguments))

    def functions(blocks):
        gc.collect()  # An earlier model that is still alive would share its functions.
        traced.clear()
        inputs = x = keras.Input((12, 12, 4))
        for _ in range(blocks):
            x = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)(x)
            x = keras.layers.BatchNormalization()(x)
            x = keras.layers.ReLU()(x)
        distribution = ks.SpatialParallel(ks.device_mesh("rows:2, columns:2"), "x:rows, y:columns")
        model = ks.partition(keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x)), distribution)
        model.compile("sgd", "mse")
        batch = tf.zeros([1, 12, 12, 4]), tf.zeros([1, 4])
        graph = tf.function(model.train_step, autograph=False).get_concrete_function(batch).graph
        return len(graph.as_graph_def().library.function), len(traced)

    functions(2)  # What cuts and adds halos is traced once in a process.
    # The last block's gradient comes from the pooling, the first one's leads to no input: others are like the second.
    assert functions(4) == functions(3)


def test_steps_share_functions_of_one_identity_and_do_not_keep_each_other_alive():
    traces = []

    def counted(x):
        traces.append(x)
        return (x * 2.0,)

    def step():
        function = InternedFunction(counted, "shared by two steps")
        return tf.function(lambda x: function(x), autograph=False).get_concrete_function(tf.constant([1.0, 3.0]))

    first, second = step(), step()
    assert len(traces) == 1
    graph = weakref.ref(first.graph)
    del first
    gc.collect()
    assert graph() is None
    np.testing.assert_array_equal(second(tf.constant([1.0, 3.0])), [[2.0, 6.0]])
    del second
    gc.collect()
    assert len(traces) == 1
    step()
    assert len(traces) == 2  # Nothing is kept without a step that calls it.


def test_settings_of_keras_make_functions_different():
    def function():
        return InternedFunction(lambda x: (x + keras.config.epsilon(),), "reads a setting")

    value, epsilon = tf.constant([1.0]), keras.config.epsilon()
    _, first = called(function(), arguments=[value])
    try:
        keras.config.set_epsilon(0.5)
        kept, second = called(function(), arguments=[value])
    finally:
        keras.config.set_epsilon(epsilon)
    np.testing.assert_allclose(first[0], [[1.0 + epsilon]])
    np.testing.assert_array_equal(second[0], [[1.5]])
    assert kept
