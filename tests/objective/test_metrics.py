"""Metrics of a partitioned model have the same state as in Keras, or are refused by name when the model is compiled."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from equality import split
from keras import ops

import keras_spatial as ks
from keras_spatial.objective import UnsupportedObjective, probe
from keras_spatial.objective.probe import NoMerge, merge_of

GENERATOR = np.random.default_rng(0)
SHAPE = (21, 19)
CLASSES = GENERATOR.integers(0, 3, (3, *SHAPE))
ONE_HOT = np.eye(3, dtype="float32")[CLASSES]
BINARY = (CLASSES[..., None] > 0).astype("float32")
SCORES = GENERATOR.uniform(0.01, 0.99, (3, *SHAPE, 3)).astype("float32")
PROBABILITIES = SCORES / SCORES.sum(-1, keepdims=True)


def identity(channels: int) -> keras.Model:
    """A model whose predictions are its inputs."""
    inputs = keras.Input((*SHAPE, channels))
    return keras.Model(inputs, keras.layers.Activation("linear")(inputs))


def mean_difference(y_true, y_pred):
    """The mean difference, a scalar."""
    return ops.mean(y_pred) - ops.mean(y_true)


def worst_case(y_true, y_pred):
    return ops.max(ops.abs(y_true - y_pred), axis=(1, 2, 3))


class IoUOfProbabilities(keras.metrics.MeanIoU):
    """The usual way to give probabilities to Keras's mean of intersections over unions."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        return super().update_state(y_true, ops.argmax(y_pred, axis=-1), sample_weight)


class RecallOfClass(keras.metrics.Recall):
    """The recall of one class among several; the others are left out by weights."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        known = ops.cast(ops.not_equal(y_true, 2), "float32")
        weight = known if sample_weight is None else known * sample_weight
        super().update_state(ops.equal(y_true, 1), y_pred[..., 1] / ops.sum(y_pred, axis=-1), weight)


METRICS = {
    "extended-iou": (lambda: IoUOfProbabilities(3), CLASSES, PROBABILITIES),
    "extended-recall": (RecallOfClass, CLASSES, PROBABILITIES),
    "accuracy": (lambda: "accuracy", CLASSES, PROBABILITIES),
    "mse": (lambda: "mse", ONE_HOT, PROBABILITIES),
    "binary-crossentropy": (keras.metrics.BinaryCrossentropy, BINARY, SCORES[..., :1]),
    "binary-iou": (keras.metrics.BinaryIoU, BINARY, SCORES[..., :1]),
    "mean-iou": (lambda: keras.metrics.MeanIoU(3, sparse_y_pred=False), CLASSES, PROBABILITIES),
    "one-hot-iou": (lambda: keras.metrics.OneHotMeanIoU(3), ONE_HOT, PROBABILITIES),
    "auc": (lambda: keras.metrics.AUC(num_thresholds=20), BINARY, SCORES[..., :1]),
    "precision-at-recall": (lambda: keras.metrics.PrecisionAtRecall(0.5), BINARY, SCORES[..., :1]),
    "recall": (keras.metrics.Recall, BINARY, SCORES[..., :1]),
    "root-mean-squared-error": (keras.metrics.RootMeanSquaredError, ONE_HOT, PROBABILITIES),
    "top-k": (lambda: keras.metrics.SparseTopKCategoricalAccuracy(2), CLASSES, PROBABILITIES),
    "hinge": (keras.metrics.Hinge, BINARY, SCORES[..., :1]),
    "cosine": (keras.metrics.CosineSimilarity, ONE_HOT, PROBABILITIES),
    "scalar-function": (lambda: mean_difference, ONE_HOT, PROBABILITIES),
    "function-of-cases": (lambda: worst_case, ONE_HOT, PROBABILITIES),
    "own-dice": (lambda: ks.metrics.Dice(1), CLASSES, PROBABILITIES),
}
WEIGHTS = {
    "none": None,
    "voxels": GENERATOR.uniform(0.5, 2, (3, *SHAPE)).astype("float32"),
    "cases": GENERATOR.uniform(0.5, 2, (3,)).astype("float32"),
}
# The conformance tests have every metric of Keras on more meshes.
MESHES = {
    "none": split("cores:2, rows:2", "batch:cores, x:rows"),
    "voxels": split("2x2"),
    "cases": split("cores:2, rows:2", "batch:cores, x:rows"),
}


def evaluated(model: keras.Model, make, labels, predictions, weight) -> dict[str, float]:
    kind = "metrics" if weight is None else "weighted_metrics"
    model.compile(
        "sgd", "mse" if labels.ndim == 4 else keras.losses.SparseCategoricalCrossentropy(), **{kind: [make()]}
    )
    if weight is None:
        found = model.evaluate(predictions, labels, batch_size=2, verbose=0, return_dict=True)
    else:
        # Keras's own losses take no weights of cases for images, so the metrics are updated by themselves.
        model.compile("sgd", ks.losses.Crossentropy(from_logits=False), weighted_metrics=[make()])
        found = model.evaluate(predictions, labels, sample_weight=weight, batch_size=2, verbose=0, return_dict=True)
    del found["loss"]
    return found


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("name", METRICS)
def test_value_is_that_of_keras(name, weight):
    make, labels, predictions = METRICS[name]
    of_voxels = ("binary-iou", "mean-iou", "one-hot-iou", "auc", "precision-at-recall", "recall")
    if weight == "cases" and name in (*of_voxels, "extended-iou", "extended-recall"):
        pytest.skip("Keras broadcasts no weights of cases to images here")
    if weight == "cases" and name == "scalar-function":
        pytest.skip("Keras broadcasts no weights to a scalar")
    if weight == "voxels" and name in ("scalar-function", "function-of-cases", "auc", "precision-at-recall", "recall"):
        pytest.skip("Keras broadcasts no weights of voxels to these values")
    if weight == "voxels" and name == "binary-iou":
        pytest.skip("Keras asks for weights of the predictions' rank")
    model = identity(predictions.shape[-1])
    weights = WEIGHTS[weight]
    (expected,) = evaluated(model, make, labels, predictions, weights).values()
    partitioned = ks.partition(model, MESHES[weight])
    (found,) = evaluated(partitioned, make, labels, predictions, weights).values()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


class Largest(keras.metrics.Metric):
    """A metric whose state is a maximum, which is not a sum over voxels."""

    def __init__(self, name="largest", **options):
        super().__init__(name=name, **options)
        self.value = self.add_variable((), "zeros", name="value")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.value.assign(ops.maximum(self.value, ops.max(ops.abs(y_true - y_pred))))

    def result(self):
        return self.value


class FirstBatch(keras.metrics.Metric):
    """A metric that adds values that depend on its state."""

    def __init__(self, name="first", **options):
        super().__init__(name=name, **options)
        self.seen = self.add_variable((), "zeros", name="seen")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.seen.assign_add(ops.sum(y_pred) / (1.0 + self.seen))

    def result(self):
        return self.seen


class InTensorFlow(Largest):
    """A metric in plain TensorFlow, which cannot be traced."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.value.assign(tf.maximum(self.value, tf.reduce_max(tf.abs(y_true - y_pred))))


@pytest.mark.parametrize("cls", [Largest, FirstBatch])
def test_a_state_that_is_no_sum_is_that_of_keras(cls):
    model = identity(3)
    (expected,) = evaluated(model, cls, ONE_HOT, PROBABILITIES, None).values()
    (found,) = evaluated(ks.partition(model, split("2x2")), cls, ONE_HOT, PROBABILITIES, None).values()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_an_update_in_plain_tensorflow_is_refused_by_name_when_the_model_is_compiled():
    model = ks.partition(identity(3), split("2x2"))
    with pytest.raises(UnsupportedObjective, match=r"Metric 'largest'.*keras\.ops alone"):
        model.compile("sgd", "mse", metrics=[InTensorFlow()])


def test_an_update_in_plain_tensorflow_is_replicated_if_asked_for():
    model = identity(3)
    (expected,) = evaluated(model, InTensorFlow, ONE_HOT, PROBABILITIES, None).values()
    replicated = ks.partition(model, split("2x2"), unsupported="replicate")
    (found,) = evaluated(replicated, InTensorFlow, ONE_HOT, PROBABILITIES, None).values()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


class Found(keras.metrics.Metric):
    """Cases with a voxel above a limit: what is random is in every part of a case, or in none."""

    def __init__(self, limit):
        super().__init__(name="found")
        self.limit = limit
        self.count = self.add_variable((), "zeros", name="count")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.count.assign_add(ops.sum(ops.cast(ops.any(y_pred > self.limit, axis=(1, 2, 3)), "float32")))

    def result(self):
        return self.count


@pytest.mark.parametrize("limit", [0.5, 3.0])
def test_what_saturates_is_no_mean_and_no_sum(limit):
    labels, predictions = tf.TensorSpec((2, 8, 8, 1)), tf.TensorSpec((2, 8, 8, 1))
    with pytest.raises(NoMerge, match="'count'"):
        merge_of(Found(limit), labels, predictions, None)


def test_how_states_are_merged():
    labels, predictions = tf.TensorSpec((2, 8, 8, 3)), tf.TensorSpec((2, 8, 8, 3))
    assert merge_of(keras.metrics.RootMeanSquaredError(), labels, predictions, None).kinds == ("mean", "mean")
    assert merge_of(keras.metrics.OneHotIoU(3, [0]), labels, predictions, None).kinds == ("sum",)
    with pytest.raises(NoMerge, match="'value'"):
        merge_of(Largest(), labels, predictions, None)


def test_metrics_of_keras_are_asked_once_for_models_that_are_alike(monkeypatch):
    asked = []
    narrow = probe._narrow
    monkeypatch.setattr(probe, "_answers", {})
    monkeypatch.setattr(probe, "_narrow", lambda metric, *rest: (asked.append(metric), narrow(metric, *rest)))

    def times(metric, *like, refused=False):
        asked.clear()
        with pytest.raises(NoMerge, match="state") if refused else contextlib.nullcontext():
            merge_of(metric, *like, None)
        return len(asked) > 0

    small, large = tf.TensorSpec((2, 8, 8, 3)), tf.TensorSpec((2, 16, 16, 3))
    doubles = tf.TensorSpec((2, 8, 8, 3), tf.float64)
    assert times(keras.metrics.OneHotIoU(3, [0]), small, small)
    assert not times(keras.metrics.OneHotIoU(3, [0], name="other"), large, large)
    assert times(keras.metrics.OneHotIoU(3, [1]), small, small)
    assert times(keras.metrics.OneHotIoU(3, [0]), doubles, small)
    # Nothing tells when two of a user's own metrics are equal.
    assert times(Largest(), small, small, refused=True)
    assert times(Largest(), small, small, refused=True)
