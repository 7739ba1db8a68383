"""The derivative of a loss is computed together with the loss, not by computing the loss a second time."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from equality import split

import keras_spatial as ks

KIND = "SparseSoftmaxCrossEntropyWithLogits"


def model_of(dtype: str = "float32") -> keras.Model:
    keras.utils.set_random_seed(6)
    inputs = keras.Input((8, 6, 2))
    return keras.Model(inputs, keras.layers.Conv2D(3, 3, padding="same", dtype=dtype)(inputs))


def cross_entropies(graph: tf.Graph) -> int:
    """The number of calls, in a step on shards, of functions with a cross-entropy."""
    functions = {f.signature.name: f for f in graph.as_graph_def().library.function}
    computing = {name for name, f in functions.items() if any(node.op == KIND for node in f.node_def)}
    called = [o.get_attr("f").name if o.type == "PartitionedCall" else o.type for o in graph.get_operations()]
    return sum(name in computing for name in called)


# A derivative in float16 would not wait for the scale of the loss.
@pytest.mark.parametrize(("dtype", "times"), [("float32", 1), ("mixed_float16", 2)])
def test_a_cross_entropy_is_computed_once_on_each_shard(dtype, times):
    model = ks.partition(model_of(dtype), split("2x2"))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    batch = tf.zeros((2, 8, 6, 2)), tf.zeros((2, 8, 6), tf.int32)
    step = tf.function(model.train_step, autograph=False).get_concrete_function(batch)
    assert cross_entropies(step.graph) == 4 * times


@pytest.mark.parametrize("weights", [None, "image", "voxels"])
@pytest.mark.parametrize("reduction", ["sum", "sum_over_batch_size", "mean_with_sample_weight"])
def test_gradients_are_those_of_keras(reduction, weights):
    generator = np.random.default_rng(1)
    x, y = generator.normal(size=(2, 8, 6, 2)).astype("float32"), generator.integers(0, 3, (2, 8, 6))
    shape = {None: None, "image": (2, 1, 1), "voxels": (2, 8, 6)}[weights]
    sample_weight = None if shape is None else generator.random(shape).astype("float32")
    found = []
    for partitioned in (False, True):
        model = model_of()
        model = ks.partition(model, split("2x2")) if partitioned else model
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
        model.compile(keras.optimizers.SGD(0.1), loss, jit_compile=False)
        model.train_on_batch(x, y, sample_weight=sample_weight)
        found.append(model.get_weights())
    for expected, value in zip(*found, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
