"""Losses of a partitioned model have the same value as in Keras, or are refused by name when the model is compiled."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from equality import split
from keras import ops

import keras_spatial as ks
from keras_spatial.objective import UnsupportedObjective

GENERATOR = np.random.default_rng(0)
SHAPE = (21, 19)  # No mesh of these tests divides these sizes.
CLASSES = GENERATOR.integers(0, 3, (2, *SHAPE))
ONE_HOT = np.eye(3, dtype="float32")[CLASSES]


def network(dtype: str | None = None) -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((*SHAPE, 2), dtype=dtype)
    x = keras.layers.Conv2D(4, 3, padding="same", activation="tanh", dtype=dtype)(inputs)
    return keras.Model(inputs, keras.layers.Conv2D(3, 1, dtype=dtype)(x))


def total_variation(y_true, y_pred):
    """A loss with a scalar value that needs the whole image."""
    return ops.mean(ops.abs(y_pred[:, 1:] - y_pred[:, :-1])) + ops.mean(ops.square(y_true - y_pred))


def largest_error(y_true, y_pred):
    return ops.max(ops.abs(y_true - y_pred), axis=(1, 2, 3))


def relative_to_the_maximum(y_true, y_pred):
    """A loss with one value for each voxel, which depends on other voxels too."""
    return ops.mean(ops.square(y_true - y_pred), axis=-1) / ops.max(ops.abs(y_pred))


def sparse(**arguments):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **arguments)


LOSSES = {
    "mse": ("mse", ONE_HOT),
    "hinge": ("hinge", ONE_HOT),
    "hinge-of-three-kinds-of-labels": ("hinge", CLASSES[..., None].repeat(3, -1) - 1.0),
    "squared-hinge": ("squared_hinge", ONE_HOT),
    "ignored-class": (sparse(ignore_class=2), CLASSES),
    "ignored-class-sum": (sparse(ignore_class=2, reduction="sum"), CLASSES),
    "ignored-class-mean-with-weights": (sparse(ignore_class=2, reduction="mean_with_sample_weight"), CLASSES),
    "sparse-with-channels": (sparse(), CLASSES[..., None]),
    "sparse-as-floats": (sparse(), CLASSES.astype("float32")),
    "dice": (keras.losses.Dice(), ONE_HOT),
    "dice-per-class": (keras.losses.Dice(axis=(0, 1, 2)), ONE_HOT),
    "tversky": (keras.losses.Tversky(alpha=0.3, beta=0.7), ONE_HOT),
    "cosine": (keras.losses.CosineSimilarity(), ONE_HOT),
    "focal": (keras.losses.BinaryFocalCrossentropy(from_logits=True), ONE_HOT),
    "scalar-function": (total_variation, ONE_HOT),
    "function-of-cases": (largest_error, ONE_HOT),
    "function-of-voxels-and-the-whole": (relative_to_the_maximum, ONE_HOT),
    "own-dice-crossentropy": (ks.losses.DiceCrossentropy(), CLASSES),
}
WEIGHTS = {
    "none": None,
    "voxels": GENERATOR.uniform(0.5, 2, (2, *SHAPE)).astype("float32"),
    "cases": GENERATOR.uniform(0.5, 2, (2, 1, 1)).astype("float32"),
}
# The conformance tests have every loss of Keras on more meshes.
MESHES = {
    "none": split("cores:2, rows:2", "batch:cores, x:rows"),
    "voxels": split("2x2"),
    "cases": split("cores:2, rows:2", "batch:cores, x:rows"),
}


def training(model: keras.Model, loss, labels, weight) -> tuple[float, list[np.ndarray]]:
    model.compile(keras.optimizers.SGD(0.1), loss)
    images = np.random.default_rng(1).normal(size=(2, *SHAPE, 2)).astype("float32")
    before = model.get_weights()
    value = model.train_on_batch(images, labels, sample_weight=weight)
    after = model.get_weights()
    model.set_weights(before)
    return float(value), after


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_training_step_are_those_of_keras(name, weight):
    loss, labels = LOSSES[name]
    scalar = name in ("scalar-function", "function-of-cases", "dice", "dice-per-class", "tversky")
    if scalar and weight != "none":
        pytest.skip("Keras weighs no value that is not one of a voxel")
    model = network()
    expected, weights = training(model, loss, labels, WEIGHTS[weight])
    value, found = training(ks.partition(model, MESHES[weight]), loss, labels, WEIGHTS[weight])
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for a, b in zip(found, weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


def test_weights_that_do_not_broadcast_are_refused_as_in_keras():
    model = ks.partition(network(), split("2x2"))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"must broadcast.*Received: \(2, 1, 19, 1\)|must broadcast"):
        model.train_on_batch(np.zeros((2, *SHAPE, 2)), ONE_HOT, sample_weight=np.ones((2, 7)))


def test_a_float64_model_has_a_float64_loss():
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    try:
        model = network("float64")
        images = np.random.default_rng(1).normal(size=(2, *SHAPE, 2))
        results = []
        for m in (model, ks.partition(model, split("2x2"))):
            m.compile(keras.optimizers.SGD(0.1), "mse")
            before_step = m.get_weights()
            value = m.train_on_batch(images, ONE_HOT)
            results.append((float(value), m.get_weights()))
            m.set_weights(before_step)
        np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-12)
        for a, b in zip(results[1][1], results[0][1], strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(b).max())
    finally:
        keras.config.set_floatx(before)


def plain_tensorflow(y_true, y_pred):
    return tf.reduce_mean(tf.square(y_true - y_pred), axis=-1) / tf.reduce_max(y_pred)


def test_a_loss_in_plain_tensorflow_is_refused_by_name_when_the_model_is_compiled():
    model = ks.partition(network(), split("2x2"))
    with pytest.raises(UnsupportedObjective, match=r"Loss 'plain_tensorflow'.*only of keras\.ops.*replicate"):
        model.compile("sgd", plain_tensorflow)


def test_a_loss_in_plain_tensorflow_is_replicated_if_asked_for():
    model = network()
    expected, _ = training(model, plain_tensorflow, ONE_HOT, None)
    value, _ = training(ks.partition(model, split("2x2"), unsupported="replicate"), plain_tensorflow, ONE_HOT, None)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_a_loss_without_a_reduction_is_refused_by_name():
    model = ks.partition(network(), split("2x2"))
    with pytest.raises(UnsupportedObjective, match="has no reduction"):
        model.compile("sgd", keras.losses.MeanSquaredError(reduction=None))


def test_losses_of_several_outputs_are_weighted_as_in_keras():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((*SHAPE, 2))
    x = keras.layers.Conv2D(4, 3, padding="same")(inputs)
    outputs = {"a": keras.layers.Conv2D(3, 1, name="a")(x), "b": keras.layers.Conv2D(1, 3, strides=2, name="b")(x)}
    model = keras.Model(inputs, outputs)
    images = np.random.default_rng(1).normal(size=(2, *SHAPE, 2)).astype("float32")
    labels = {"a": CLASSES, "b": np.ones((2, 10, 9, 1), "float32")}
    found = []
    for m in (model, ks.partition(model, split("2x2"))):
        m.compile("sgd", {"a": sparse(), "b": "mae"}, loss_weights={"a": 0.3, "b": 2.0}, metrics={"b": ["mse"]})
        found.append(m.evaluate(images, labels, verbose=0, return_dict=True))
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        np.testing.assert_allclose(found[1][name], value, rtol=1e-5, err_msg=name)
