"""Compare losses, metrics and optimizers of partitioned models with those of plain Keras by training on batches."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from conformance.checks import BATCH, PRECISION, Setting, assert_close, eagerly
from conformance.table.objectives import Objective
from conformance.table.statuses import floats

import keras_spatial as ks


def pair(case: Objective, setting: Setting, **options: Callable[[], Any]) -> tuple[keras.Model, keras.Model]:
    """A plain model and a partitioned one, both compiled, with the same weights but without shared objects.

    Args:
        case: the case that makes the model.
        setting: the mesh and the dtype.
        **options: the arguments of `compile`, each given as a function that makes it.
    """
    models = case.model(setting.dtype), ks.partition(case.model(setting.dtype), setting.distribution)
    for model in models:
        model.compile(**{name: make() for name, make in options.items()})
    return models


def weights_of(case: Objective, setting: Setting) -> np.ndarray | None:
    """Weights of voxels in float64; in float32 weights of cases, or none if the batch is sharded."""
    if not case.weights or setting.mesh == "batch-y":
        return None
    if setting.dtype == "float64":
        return case.voxel_weights(BATCH).astype(setting.dtype)
    of_cases = np.array([1.0, 0.0, 2.5], setting.dtype)
    return of_cases if case.vector else of_cases[:, None, None]


def assert_loss_equal(case: Objective, setting: Setting) -> None:
    """Assert that a loss and its gradients are those of plain Keras."""
    forward, gradient = PRECISION[setting.dtype]
    x, y = case.data(BATCH, setting.dtype)
    weights = weights_of(case, setting)
    with eagerly(), floats(setting.dtype):
        plain, partitioned = pair(case, setting, optimizer=lambda: keras.optimizers.SGD(1.0), loss=case.make)
        before = [v.numpy() for v in plain.trainable_variables]
        expected = plain.train_on_batch(x, y, sample_weight=weights)
        actual = partitioned.train_on_batch(x, y, sample_weight=weights)
    assert_close(actual, expected, forward, "loss")
    changes = [
        (v.path, v.numpy() - start, p.numpy() - start)
        for v, p, start in zip(partitioned.trainable_variables, plain.trainable_variables, before, strict=True)
    ]
    # A gradient of this size is rounding of weights of size 1.
    scale = max(np.abs(e).max() for _, _, e in changes)
    for path, a, e in changes:
        assert_close(a, e, gradient, f"gradient of {path}", floor=1e-2 * scale)


def metric_values(
    cases: Sequence[Objective], setting: Setting, partitioned: bool
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The values of metrics that suit the same model over two batches of different sizes, without and with weights.

    Args:
        cases: metrics with the same predictions and labels.
        setting: the mesh and the dtype.
        partitioned: whether the model is on the mesh or in plain Keras.
    """
    first = cases[0]
    with eagerly(), floats(setting.dtype):
        model = first.model(setting.dtype)
        if partitioned:
            model = ks.partition(model, setting.distribution)
        model.compile(
            loss=_no_loss,
            metrics=[case.make() for case in cases],
            weighted_metrics=[case.make() for case in cases],
        )
        for batch in (BATCH, 2):
            x, y = first.data(batch, setting.dtype, seed=batch)
            weights = first.voxel_weights(batch).astype(setting.dtype) if first.weights else None
            if batch == BATCH:
                model.reset_metrics()
            model.test_on_batch(x, y, sample_weight=weights)
        values = [np.asarray(value) for name, value in model.get_metrics_result().items() if name != "loss"]
    return list(zip(values[: len(cases)], values[len(cases) :], strict=True))


def _no_loss(y_true, y_pred):
    """A loss that fits any labels, because Keras evaluates no model without a loss."""
    return keras.ops.mean(keras.ops.square(y_pred), axis=-1)
