"""Fusion: which operations are fused, and that fusion does not change any number."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from equality import assert_equal_to_keras, partitioned_results, random_inputs, split

import keras_spatial as ks
from keras_spatial.engine import concatenation as parts
from keras_spatial.engine import fusion
from keras_spatial.network import Network
from keras_spatial.step import Step

LAYERS = keras.layers


def network(*layers: keras.Layer) -> keras.Model:
    x = inputs = keras.Input((8, 8, 2))
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x)


def operations(model: keras.Model, shape: tuple[int, ...] = (8, 8, 2)) -> list[str]:
    """The kinds of Mesh-TF operations that compute a model, without imported tensors and moving averages."""
    distribution, image = split("2x2"), tf.zeros([1, *shape])
    step = Step(Network(model, distribution), image, training=True)
    step.lower()
    names = [operation.name.split("/")[-1] for operation in step.trace.graph.operations]
    return [n for n in names if not n.startswith(("input", "weight", "moving", "constant"))]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([LAYERS.Conv2D(3, 3, padding="same", activation="relu", name="c")], ["c"]),
        ([LAYERS.Conv2D(3, 3, padding="same", name="c"), LAYERS.LeakyReLU(name="r")], ["c"]),
        # The derivative of `elu` needs the result of the convolution, which must be kept, so the operations are not
        # fused.
        ([LAYERS.Conv2D(3, 3, padding="same", activation="elu", name="c")], ["c", "elu"]),
        ([LAYERS.Conv2D(3, 3, padding="same", name="c"), LAYERS.ReLU(6.0, name="r")], ["c", "r"]),
        ([LAYERS.ReLU(name="r"), LAYERS.Conv2D(3, 3, name="c")], ["r", "c"]),
    ],
)
def test_what_becomes_one(layers, expected):
    assert operations(network(*layers)) == expected


def test_normalization_takes_the_activation_that_follows():
    found = operations(network(LAYERS.BatchNormalization(name="n"), LAYERS.Activation("gelu", name="a")))
    assert "n" in found
    assert "gelu" not in found


def test_what_several_layers_read_stays():
    inputs = keras.Input((8, 8, 2))
    x = LAYERS.Conv2D(3, 3, padding="same", name="c")(inputs)
    model = keras.Model(inputs, [LAYERS.ReLU(name="r")(x), LAYERS.LeakyReLU(name="l")(x)])
    assert sorted(operations(model)) == ["c", "l", "r"]


def test_what_is_asked_for_stays():
    inputs = keras.Input((8, 8, 2))
    x = LAYERS.Conv2D(3, 3, padding="same", name="c")(inputs)
    assert operations(keras.Model(inputs, [x, LAYERS.ReLU(name="r")(x)])) == ["c", "r"]


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_outputs_and_gradients_are_those_of_the_separate_operations(dtype, monkeypatch):
    """On 5x7 the shards reach beyond the image; nothing may leak from there."""
    keras.utils.set_random_seed(0)
    policy = keras.DTypePolicy(dtype)
    inputs = keras.Input((5, 7, 2), dtype="float32")
    x = LAYERS.Conv2D(4, 3, padding="same", activation="relu", dtype=policy)(inputs)
    x = LAYERS.BatchNormalization(dtype=policy)(x)
    x = LAYERS.Activation("gelu", dtype=policy)(x)
    x = LAYERS.Conv2DTranspose(3, 2, strides=2, activation="leaky_relu", dtype=policy)(x)
    outputs = LAYERS.Conv2D(1, 1, dtype="float32")(x)
    image = tf.constant(np.random.default_rng(0).normal(size=(2, 5, 7, 2)), tf.float32)

    def run() -> list[tf.Tensor]:
        model = ks.partition(keras.Model(inputs, outputs), split("2x2"))
        with tf.GradientTape() as tape:
            y = model(image, training=True)
            loss = tf.reduce_sum(tf.sin(y))
        return [y, *tape.gradient(loss, model.trainable_variables)]

    fused = run()
    monkeypatch.setattr(fusion, "_before", lambda operation: None)
    separate = run()
    tolerance = 1e-5 if dtype == "float32" else 2e-2
    for a, b in zip(fused, separate, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * float(np.abs(b).max()))


def concatenation(policy: str = "float32") -> keras.Model:
    """The concatenation of three tensors, read by two convolutions."""
    keras.utils.set_random_seed(0)
    options = {"padding": "same", "dtype": keras.DTypePolicy(policy)}
    inputs = keras.Input((9, 7, 2), dtype="float32")
    parts = [LAYERS.Conv2D(width, 3, **options)(inputs) for width in (4, 1, 3)]
    joined = LAYERS.Concatenate(name="joined", dtype=options["dtype"])(parts)
    x = LAYERS.Conv2D(5, 3, activation="relu", name="first", **options)(joined)
    y = LAYERS.Conv2D(5, 3, strides=2, name="second", **options)(joined)
    return keras.Model(inputs, [LAYERS.Activation("linear", dtype="float32")(t) for t in (x, y)])


@pytest.mark.parametrize("mesh", ["1x1", "2x2", "1x3"])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_large_concatenation_is_convolved_part_by_part(mesh, policy, monkeypatch):
    model = concatenation(policy)
    if policy == "float32":
        monkeypatch.setattr(parts, "LARGE", 0)
        assert_equal_to_keras(model, split(mesh), training=True)
        return
    # In half precision, against the same without parts: sums are rounded at other places.
    images = random_inputs(model, 2)
    whole = partitioned_results(model, split(mesh), images, True)
    monkeypatch.setattr(parts, "LARGE", 0)
    found = partitioned_results(model, split(mesh), images, True)
    for a, b in zip(found.outputs + found.weight_gradients, whole.outputs + whole.weight_gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=0.05, atol=0.02 * np.abs(b).max())


def test_a_large_concatenation_is_not_computed_unless_something_else_reads_it(monkeypatch):
    monkeypatch.setattr(parts, "LARGE", 0)
    model = concatenation()
    first = keras.Model(model.inputs, model.get_layer("first").output)
    assert "joined" not in operations(first, (9, 7, 2))
    both = keras.Model(model.inputs, [model.get_layer("first").output, model.get_layer("joined").output])
    assert "joined" in operations(both, (9, 7, 2))


def test_a_small_concatenation_is_convolved_at_once():
    found = operations(concatenation(), (9, 7, 2))
    assert found.count("first") == found.count("second") == found.count("joined") == 1
