"""Every public name of `keras.losses` and `keras.metrics`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from conformance.table.statuses import IMAGE_2D, Equal, NotConcerned, Refused, Status, floats, not_concerned
from keras import layers as L
from keras import losses, metrics

CLASSES = 3
HEADS = {
    "logits": None,
    "probabilities": "softmax",
    "sigmoid": "sigmoid",
    "positive": "softplus",
    "tanh": "tanh",
}


@dataclass(frozen=True)
class Objective:
    """A loss or metric, with predictions and labels that suit it.

    Attributes:
        make: a function that makes it; a loss that is a function is passed unchanged.
        head: the kind of the predictions.
        labels: the kind of the labels.
        vector: whether predictions are vectors, as those of a classifier, instead of images.
        weights: whether Keras accepts sample weights for each voxel with it.
        dtypes: the dtypes for which TensorFlow has it.
    """

    make: Callable[[], Any]
    head: str
    labels: str
    vector: bool = False
    weights: bool = True
    dtypes: tuple[str, ...] = ("float64", "float32")

    def model(self, dtype: str = "float32") -> keras.Model:
        keras.utils.set_random_seed(5)
        with floats(dtype):
            image = keras.Input(IMAGE_2D)
            x = L.Conv2D(CLASSES, 3, padding="same", name="convolution")(image)
            x = L.Dense(CLASSES, name="head")(L.GlobalAveragePooling2D()(x)) if self.vector else x
            return keras.Model(image, L.Activation(HEADS[self.head] or "linear", name="activation")(x))

    def data(self, batch: int, dtype: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.default_rng(seed)
        images = generator.normal(size=(batch, *IMAGE_2D)).astype(dtype)
        shape = (batch,) if self.vector else (batch, *IMAGE_2D[:2])
        return images, LABELS[self.labels](generator, shape, dtype)

    def voxel_weights(self, batch: int) -> np.ndarray:
        """Weights of voxels, of which some are 0."""
        shape = (batch,) if self.vector else (batch, *IMAGE_2D[:2])
        weights = np.random.default_rng(9).uniform(0.2, 2.0, size=shape)
        return np.where(weights < 0.6, 0.0, weights)


def _classes(generator, shape, highest: int = CLASSES) -> np.ndarray:
    return generator.integers(0, highest, size=shape)


LABELS = {
    "real": lambda g, shape, dtype: g.normal(size=(*shape, CLASSES)).astype(dtype),
    "positive": lambda g, shape, dtype: g.uniform(0.1, 2.0, size=(*shape, CLASSES)).astype(dtype),
    "probabilities": lambda g, shape, dtype: g.dirichlet([1.0] * CLASSES, size=shape).astype(dtype),
    "one-hot": lambda g, shape, dtype: np.eye(CLASSES, dtype=dtype)[_classes(g, shape)],
    "binary": lambda g, shape, dtype: g.integers(0, 2, size=(*shape, CLASSES)).astype(dtype),
    "signs": lambda g, shape, dtype: (2 * g.integers(0, 2, size=(*shape, CLASSES)) - 1).astype(dtype),
    "classes": lambda g, shape, dtype: _classes(g, shape),
    "classes-column": lambda g, shape, dtype: _classes(g, shape)[..., None],
    "classes-or-255": lambda g, shape, dtype: np.where(_classes(g, shape, 4) == 3, 255, _classes(g, shape)),
}


def _equal(make: Callable, head: str, labels: str, **options) -> Equal:
    return Equal({"image": Objective(make, head, labels, **options)})


# Name of the class, name of the function, predictions, labels.
_PAIRS = [
    ("BinaryCrossentropy", "binary_crossentropy", "sigmoid", "binary"),
    ("BinaryFocalCrossentropy", "binary_focal_crossentropy", "sigmoid", "binary"),
    ("CategoricalCrossentropy", "categorical_crossentropy", "probabilities", "one-hot"),
    ("CategoricalFocalCrossentropy", "categorical_focal_crossentropy", "probabilities", "one-hot"),
    ("CategoricalHinge", "categorical_hinge", "logits", "one-hot"),
    ("CosineSimilarity", "cosine_similarity", "logits", "real"),
    ("Dice", "dice", "probabilities", "one-hot"),
    ("Hinge", "hinge", "tanh", "signs"),
    ("Huber", "huber", "logits", "real"),
    ("KLDivergence", "kl_divergence", "probabilities", "probabilities"),
    ("LogCosh", "log_cosh", "logits", "real"),
    ("MeanAbsoluteError", "mean_absolute_error", "logits", "real"),
    ("MeanAbsolutePercentageError", "mean_absolute_percentage_error", "logits", "positive"),
    ("MeanSquaredError", "mean_squared_error", "logits", "real"),
    ("MeanSquaredLogarithmicError", "mean_squared_logarithmic_error", "positive", "positive"),
    ("Poisson", "poisson", "positive", "positive"),
    ("SparseCategoricalCrossentropy", "sparse_categorical_crossentropy", "probabilities", "classes"),
    ("SquaredHinge", "squared_hinge", "tanh", "signs"),
    ("Tversky", "tversky", "probabilities", "one-hot"),
]
# A loss of the whole batch has one value, to which Keras gives no weights of voxels.
_OF_BATCHES = ("Dice", "Tversky")


def _loss_pairs() -> dict[str, Status]:
    result: dict[str, Status] = {}
    for cls, function, head, labels in _PAIRS:
        weights = cls not in _OF_BATCHES
        makers = {"image": getattr(losses, cls)}
        makers["sum"] = lambda cls=cls: getattr(losses, cls)(reduction="sum")
        if weights:
            makers["weighted mean"] = lambda cls=cls: getattr(losses, cls)(reduction="mean_with_sample_weight")
        cases = {name: Objective(make, head, labels, weights=weights) for name, make in makers.items()}
        cases["classifier"] = Objective(getattr(losses, cls), head, labels, vector=True, weights=weights)
        result[cls] = Equal(cases)
        result[function] = _equal(lambda f=function: getattr(losses, f), head, labels, weights=weights)
    return result


LOSSES: dict[str, Status] = _loss_pairs()
for _name, _cases in {
    "BinaryCrossentropy": {
        "logits": Objective(lambda: losses.BinaryCrossentropy(from_logits=True), "logits", "binary"),
        "smoothed": Objective(lambda: losses.BinaryCrossentropy(label_smoothing=0.1), "sigmoid", "binary"),
    },
    "CategoricalCrossentropy": {
        "logits": Objective(lambda: losses.CategoricalCrossentropy(from_logits=True), "logits", "one-hot"),
    },
    "Dice": {
        "each-case": Objective(lambda: losses.Dice(axis=(1, 2, 3)), "probabilities", "one-hot", weights=False),
        "each-class": Objective(lambda: losses.Dice(axis=(0, 1, 2)), "probabilities", "one-hot", weights=False),
    },
    "SparseCategoricalCrossentropy": {
        "logits": Objective(lambda: losses.SparseCategoricalCrossentropy(from_logits=True), "logits", "classes"),
        "column": Objective(lambda: losses.SparseCategoricalCrossentropy(from_logits=True), "logits", "classes-column"),
        "ignored-class": Objective(
            lambda: losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255),
            "logits",
            "classes-or-255",
        ),
    },
    "Tversky": {
        "each-case": Objective(
            lambda: losses.Tversky(alpha=0.3, beta=0.7, axis=(1, 2, 3)), "probabilities", "one-hot", weights=False
        ),
    },
}.items():
    LOSSES[_name] = Equal({**LOSSES[_name].cases, **_cases})  # pyright: ignore[reportAttributeAccessIssue]

LOSSES |= {
    "CategoricalGeneralizedCrossEntropy": _equal(losses.CategoricalGeneralizedCrossEntropy, "probabilities", "classes"),
    "CTC": NotConcerned("is for sequences of symbols: its predictions are no image"),
    "ctc": NotConcerned("is for sequences of symbols: its predictions are no image"),
    "Circle": Refused(
        Objective(losses.Circle, "logits", "classes", vector=True),
        "compares every case of a batch with every other",
    ),
    "circle": NotConcerned("takes further arguments: it is used through the class `Circle`"),
    "categorical_generalized_cross_entropy": NotConcerned(
        "takes a further argument: it is used through the class `CategoricalGeneralizedCrossEntropy`"
    ),
    **not_concerned("is the base of other classes, and computes nothing by itself", "Loss"),
    **not_concerned("finds or describes losses", "deserialize get serialize"),
}

_METRIC_OF_LOSS = {
    "BinaryCrossentropy",
    "CategoricalCrossentropy",
    "CategoricalHinge",
    "CosineSimilarity",
    "Hinge",
    "KLDivergence",
    "MeanAbsoluteError",
    "MeanAbsolutePercentageError",
    "MeanSquaredError",
    "MeanSquaredLogarithmicError",
    "Poisson",
    "SparseCategoricalCrossentropy",
    "SquaredHinge",
}

METRICS: dict[str, Status] = {
    cls: _equal(getattr(metrics, cls), head, labels) for cls, _, head, labels in _PAIRS if cls in _METRIC_OF_LOSS
}
METRICS |= {
    function: _equal(lambda f=function: getattr(metrics, f), head, labels)
    for _, function, head, labels in _PAIRS
    if hasattr(metrics, function)
}
METRICS |= {
    name: _equal(getattr(metrics, name), "sigmoid", "binary")
    for name in ["BinaryAccuracy", "FalseNegatives", "FalsePositives", "Precision", "Recall"]
    + ["TrueNegatives", "TruePositives", "AUC"]
}
METRICS |= {
    name: _equal(lambda name=name: getattr(metrics, name)(0.5), "sigmoid", "binary")
    for name in ["PrecisionAtRecall", "RecallAtPrecision", "SensitivityAtSpecificity", "SpecificityAtSensitivity"]
}
_SINGLE = ("float32",)  # TensorFlow's top-k search exists only for float32.

METRICS |= {
    "Accuracy": _equal(metrics.Accuracy, "positive", "positive"),
    "BinaryIoU": _equal(lambda: metrics.BinaryIoU([0, 1]), "sigmoid", "binary", weights=False),
    "CategoricalAccuracy": _equal(metrics.CategoricalAccuracy, "probabilities", "one-hot"),
    "ConcordanceCorrelation": _equal(metrics.ConcordanceCorrelation, "logits", "real"),
    "F1Score": _equal(lambda: metrics.F1Score(threshold=0.5), "sigmoid", "binary", vector=True),
    "FBetaScore": _equal(lambda: metrics.FBetaScore(beta=2.0, threshold=0.5), "sigmoid", "binary", vector=True),
    "IoU": _equal(lambda: metrics.IoU(CLASSES, [1, 2], sparse_y_pred=False), "probabilities", "classes", weights=True),
    "LogCoshError": _equal(metrics.LogCoshError, "logits", "real"),
    "MeanIoU": Equal(
        {
            "image": Objective(lambda: metrics.MeanIoU(CLASSES, sparse_y_pred=False), "probabilities", "classes"),
            "ignored-class": Objective(
                lambda: metrics.MeanIoU(CLASSES, sparse_y_pred=False, ignore_class=255),
                "probabilities",
                "classes-or-255",
            ),
        }
    ),
    "MeanMetricWrapper": _equal(
        lambda: metrics.MeanMetricWrapper(lambda t, p: keras.ops.mean(keras.ops.abs(t - p), axis=-1), name="wrapped"),
        "logits",
        "real",
    ),
    "OneHotIoU": _equal(lambda: metrics.OneHotIoU(CLASSES, [1, 2]), "probabilities", "one-hot"),
    "OneHotMeanIoU": _equal(lambda: metrics.OneHotMeanIoU(CLASSES), "probabilities", "one-hot"),
    "PearsonCorrelation": _equal(metrics.PearsonCorrelation, "logits", "real"),
    "R2Score": _equal(metrics.R2Score, "logits", "real", vector=True),
    "RootMeanSquaredError": _equal(metrics.RootMeanSquaredError, "logits", "real"),
    "SparseCategoricalAccuracy": _equal(metrics.SparseCategoricalAccuracy, "probabilities", "classes"),
    "SparseTopKCategoricalAccuracy": _equal(
        lambda: metrics.SparseTopKCategoricalAccuracy(2), "probabilities", "classes", dtypes=_SINGLE
    ),
    "TopKCategoricalAccuracy": _equal(
        lambda: metrics.TopKCategoricalAccuracy(2), "probabilities", "one-hot", dtypes=_SINGLE
    ),
    "binary_accuracy": _equal(lambda: metrics.binary_accuracy, "sigmoid", "binary"),
    "categorical_accuracy": _equal(lambda: metrics.categorical_accuracy, "probabilities", "one-hot"),
    "concordance_correlation": _equal(lambda: metrics.concordance_correlation, "logits", "real"),
    "pearson_correlation": _equal(lambda: metrics.pearson_correlation, "logits", "real"),
    "sparse_categorical_accuracy": _equal(lambda: metrics.sparse_categorical_accuracy, "probabilities", "classes"),
    "sparse_top_k_categorical_accuracy": _equal(
        lambda: metrics.sparse_top_k_categorical_accuracy, "probabilities", "classes", dtypes=_SINGLE
    ),
    "top_k_categorical_accuracy": _equal(
        lambda: metrics.top_k_categorical_accuracy, "probabilities", "one-hot", dtypes=_SINGLE
    ),
    **not_concerned("takes values, not labels and predictions: Keras compiles no model with it", "Mean Sum"),
    **not_concerned("is the base of other classes, and computes nothing by itself", "Metric"),
    **not_concerned("finds or describes metrics", "deserialize get serialize"),
}
