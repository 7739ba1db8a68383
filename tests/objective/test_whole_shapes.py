"""In a user's own losses and metrics, sizes, variables and overridden methods mean the same as in plain Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conformance.checks import eagerly
from equality import split
from keras import ops

import keras_spatial as ks
from keras_spatial.objective import UnsupportedObjective

SHAPE = (5, 4)
GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.normal(size=(2, *SHAPE, 2)).astype("float32")
LABELS = GENERATOR.normal(size=(2, *SHAPE, 2)).astype("float32")
COLUMNS = np.arange(1.0, 5.0, dtype="float32")
ANNEALED = keras.Variable(0.25, trainable=False, name="annealed")
PER_CHANNEL = keras.Variable([1.0, 3.0], trainable=False, name="per_channel")
STREAMED = ks.SpatialParallel(ks.device_mesh("rows:2", devices=["cpu:0"]), "x:rows", offload="host")
MESHES = {"2x2": split("2x2"), "shards-of-one-column": split("1x4"), "batch": split("cores:2", "batch:cores")}


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((*SHAPE, 2))
    return keras.Model(inputs, keras.layers.Conv2D(2, 1)(inputs))


def squares(y_true, y_pred):
    return ops.sum(ops.square(y_true - y_pred), axis=-1)


class Doubled(keras.losses.MeanSquaredError):
    def __call__(self, y_true, y_pred, sample_weight=None):
        return 2.0 * super().__call__(y_true, y_pred, sample_weight)


class DoubledSums(ks.losses.Crossentropy):
    def __call__(self, y_true, y_pred, sample_weight=None):
        return 2.0 * super().__call__(ops.abs(y_true), y_pred, sample_weight)


class AnnealedSums(ks.losses.SumsLoss):
    def sums(self, y_true, y_pred, sample_weight):
        return ops.sum(ops.square(y_true - y_pred), axis=(1, 2)) * ANNEALED

    def from_sums(self, sums, voxels):
        return ops.sum(sums) / voxels + (1.0 - ANNEALED)


class Tempered(keras.losses.Loss):
    def __init__(self):
        super().__init__(name="tempered")
        self.temperature = keras.Variable(2.0, trainable=False)

    def call(self, y_true, y_pred):
        return squares(y_true, y_pred / self.temperature)


LOSSES = {
    "static-size": lambda t, p: squares(t, p) / (p.shape[1] * p.shape[2]),
    "size-by-ops": lambda t, p: squares(t, p) / ops.cast(ops.shape(p)[1], "float32"),
    "columns": lambda t, p: squares(t, p) * COLUMNS,
    "columns-as-tensor": lambda t, p: squares(t, p) * ops.convert_to_tensor(COLUMNS),
    "rows": lambda t, p: squares(t, p) * np.arange(1.0, 6.0, dtype="float32")[:, None],
    "channels": lambda t, p: squares(t, p * np.array([1.0, 2.0], "float32")),
    "voxels-and-channels": lambda t, p: ops.mean(ops.square(t - p) * COLUMNS[:, None], axis=-1),
    "variable": lambda t, p: (1.0 - ANNEALED) * ops.sum(ops.abs(t - p), -1) + ANNEALED * squares(t, p),
    "variable-of-the-whole": lambda t, p: (1.0 - ANNEALED) * ops.mean(ops.abs(t - p)) + ANNEALED * ops.max(p),
    "function-of-a-variable": lambda t, p: ops.exp(ANNEALED) * squares(t, p),
    "variable-per-channel": lambda t, p: squares(t, p * (1.0 / PER_CHANNEL)),
    "variable-of-the-loss": Tempered(),
    "variable-of-sums": AnnealedSums(),
    "overridden-call": Doubled(),
    "overridden-call-of-sums": DoubledSums(from_logits=False),
    "reshaped": lambda t, p: ops.reshape(ops.square(t - p), (-1, *SHAPE, 2))[..., 0],
    "squeezed": lambda t, p: ops.squeeze(ops.sum(ops.square(t - p), axis=-1, keepdims=True), axis=-1),
}


def loss_of(model: keras.Model, loss) -> tuple[float, list[np.ndarray]]:
    before = model.get_weights()
    model.compile(keras.optimizers.SGD(0.1), loss)
    value = float(model.train_on_batch(IMAGES, LABELS))
    after = model.get_weights()
    model.set_weights(before)
    return value, after


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_of_ones_own_is_that_of_keras(name):
    model = network()
    with eagerly():
        expected, weights = loss_of(model, LOSSES[name])
        for distribution in MESHES.values():
            value, found = loss_of(ks.partition(model, distribution), LOSSES[name])
            np.testing.assert_allclose(value, expected, rtol=1e-5)
            for a, b in zip(found, weights, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


class Cases(keras.metrics.Metric):
    """Cases in which something is found somewhere."""

    def __init__(self, name="cases", **options):
        super().__init__(name=name, **options)
        self.found = self.add_weight(initializer="zeros", name="found")
        self.number = self.add_weight(initializer="zeros", name="number")

    def update_state(self, y_true, y_pred, sample_weight=None):
        found = ops.cast(ops.any(y_true > 1.9, axis=(1, 2, 3)), "float32")
        if sample_weight is not None:
            found = found * ops.mean(sample_weight, axis=(1, 2))
        self.found.assign_add(ops.sum(found))
        self.number.assign_add(ops.cast(ops.shape(y_true)[0], "float32"))

    def result(self):
        return self.found / self.number


class OverLimit(Cases):
    def update_state(self, y_true, y_pred, sample_weight=None):
        largest = ops.max(y_pred, axis=(1, 2, 3))
        self.found.assign(self.found + ops.sum(ops.cast(largest > 3.0, "float32")))
        self.number.assign(1.0)


class Smoothed(Cases):
    """A metric whose state is not a sum."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.found.assign(0.9 * self.found + 0.1 * ops.max(ops.abs(y_true - y_pred)))
        self.number.assign(ops.maximum(self.number, 1.0))


class WithMean(keras.metrics.Metric):
    def __init__(self, name="with_mean", **options):
        super().__init__(name=name, **options)
        self.mean = keras.metrics.Mean()

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.mean.update_state(ops.max(ops.abs(y_pred), axis=(1, 2, 3)), sample_weight=None)

    def result(self):
        return self.mean.result()


class SquaredMean(keras.metrics.MeanSquaredError):
    def update_state(self, y_true, y_pred, sample_weight=None):
        return super().update_state(y_true, 2.0 * y_pred, sample_weight)


class Root(keras.metrics.MeanSquaredError):
    def result(self):
        return ops.sqrt(super().result())


METRICS = {
    "any": Cases,
    "largest": OverLimit,
    "no-sum": Smoothed,
    "of-a-metric": WithMean,
    "overridden-update": SquaredMean,
    "overridden-result": Root,
    "function-of-the-size": lambda: lambda t, p: ops.sum(ops.abs(t - p), -1) / p.shape[1],
    "function-of-a-variable": lambda: lambda t, p: (1.0 - ANNEALED) * ops.sum(ops.abs(t - p), -1),
    "function-of-columns": lambda: lambda t, p: ops.sum(ops.abs(t - p), -1) * COLUMNS,
}


def metric_of(model: keras.Model, make, weight=None) -> float:
    model.compile("sgd", "mse", **{"metrics" if weight is None else "weighted_metrics": [make()]})
    model.reset_metrics()
    for scale in (1.0, 2.0):
        found = model.test_on_batch(IMAGES * scale, LABELS, sample_weight=weight, return_dict=True)
    return float(found[list(found)[-1]])


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_of_ones_own_is_that_of_keras(name):
    model = network()
    with eagerly():
        expected = metric_of(model, METRICS[name])
        for distribution in MESHES.values():
            np.testing.assert_allclose(metric_of(ks.partition(model, distribution), METRICS[name]), expected, rtol=1e-5)


def test_a_metric_of_ones_own_is_weighted_as_in_keras():
    weight = GENERATOR.uniform(0.5, 2, (2, *SHAPE)).astype("float32")
    model = network()
    with eagerly():
        expected = metric_of(model, Cases, weight)
        np.testing.assert_allclose(metric_of(ks.partition(model, split("2x2")), Cases, weight), expected, rtol=1e-5)


def test_a_metric_of_two_outputs_counts_both():
    inputs = keras.Input((*SHAPE, 2))
    model = keras.Model(
        inputs, {"a": keras.layers.Identity(name="a")(inputs), "b": keras.layers.ReLU(name="b")(inputs)}
    )
    with eagerly():
        found = []
        for m in (model, ks.partition(model, split("2x2"))):
            metric = OverLimit()
            m.compile("sgd", "mse", metrics={"a": [metric], "b": [metric]})
            m.test_on_batch(IMAGES * 3, {"a": LABELS, "b": LABELS})
            found.append(float(metric.found))
    assert found[0] == found[1] > 0


@pytest.mark.parametrize(
    "name, distribution",
    [("variable", MESHES["2x2"]), ("variable-of-the-whole", MESHES["2x2"])]
    + [(name, STREAMED) for name in ("variable", "variable-of-sums")],
    ids=["voxels", "whole", "voxels-streamed", "sums-streamed"],
)
def test_a_compiled_step_reads_a_variable_each_time(name, distribution):
    model = network()
    compiled = [model, ks.partition(model, distribution)]
    for m in compiled:
        m.compile("sgd", LOSSES[name])
    try:
        for value in (0.0, 1.0):
            ANNEALED.assign(value)
            expected, found = (m.evaluate(IMAGES, LABELS, verbose=0) for m in compiled)
            np.testing.assert_allclose(found, expected, rtol=1e-5)
    finally:
        ANNEALED.assign(0.25)


def test_a_loss_that_changed_is_compiled_again():
    class Scaled(keras.losses.Loss):
        factor = 1.0

        def call(self, y_true, y_pred):
            return self.factor * squares(y_true, y_pred)

    loss, model = Scaled(), ks.partition(network(), split("2x2"))
    found = []
    for factor in (1.0, 5.0):
        loss.factor = factor
        with eagerly():
            model.compile("sgd", loss)
            found.append(float(model.test_on_batch(IMAGES, LABELS)))
    np.testing.assert_allclose(found[1], 5 * found[0], rtol=1e-5)


PLAIN = tf.Variable(tf.constant(1.0), name="plain")

REFUSED = {
    "noise": (lambda t, p: squares(t + tf.random.normal((2, *SHAPE, 2)), p), "RandomStandardNormal"),
    "keras-noise": (lambda t, p: squares(t + keras.random.normal((2, *SHAPE, 2)), p), "only of keras.ops"),
    "plain-variable": (lambda t, p: squares(t, p) * (1.0 - PLAIN), "plain"),
    "changed-variable": (lambda t, p: squares(t, p) * ANNEALED.assign_add(1.0), "changes the variables"),
    "limits": (lambda t, p: squares(t, ops.clip(p, -10.0, COLUMNS[:, None])), "Clip"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_frozen_is_refused_by_name_when_the_model_is_compiled(name):
    loss, says = REFUSED[name]
    model = ks.partition(network(), split("2x2"))
    with pytest.raises(UnsupportedObjective, match=rf"Loss '.*{says}.*replicate"):
        model.compile("sgd", loss)


def detected(y_true, y_pred):
    return tf.cast(tf.reduce_any(y_pred > 2.5, axis=[1, 2, 3]), tf.float32)


class Detected(Cases):
    def update_state(self, y_true, y_pred, sample_weight=None):
        self.found.assign_add(tf.reduce_sum(detected(y_true, y_pred)))
        self.number.assign_add(1.0)


@pytest.mark.parametrize("make", [lambda: detected, Detected], ids=["function", "class"])
def test_a_metric_in_plain_tensorflow_is_refused_by_name_or_sees_the_whole(make):
    model = network()
    with pytest.raises(UnsupportedObjective, match=r"Metric '(detected|cases)'.*keras\.ops alone.*replicate"):
        ks.partition(model, split("2x2")).compile("sgd", "mse", metrics=[keras.metrics.get(make())])
    with eagerly():
        expected = metric_of(model, make)
        found = metric_of(ks.partition(model, split("2x2"), unsupported="replicate"), make)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_loss_in_plain_tensorflow_that_is_replicated_reads_its_variable_each_time():
    def loss(y_true, y_pred):
        return tf.reduce_mean(tf.square(y_true - y_pred)) * tf.exp(tf.convert_to_tensor(ANNEALED))

    model = network()
    compiled = [model, ks.partition(model, split("2x2"), unsupported="replicate")]
    for m in compiled:
        m.compile("sgd", loss)
    try:
        for value in (0.0, 1.0):
            ANNEALED.assign(value)
            expected, found = (m.evaluate(IMAGES, LABELS, verbose=0) for m in compiled)
            np.testing.assert_allclose(found, expected, rtol=1e-5)
    finally:
        ANNEALED.assign(0.25)
