"""Optimizers, callbacks, arguments of `compile`, `fit` and similar methods, weights and dtypes work as in Keras."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from conformance.checks import MESHES, PRECISION, all_cases, assert_close, eagerly
from conformance.table import fitting
from conformance.table.statuses import IMAGE_2D, Equal, Refused, floats
from keras import layers as L

import keras_spatial as ks

CASES = 5
MESH = MESHES[2]["2x2"]


def network(dtype: str = "float64", outputs: int = 1, convolution: dict | None = None, policy=None) -> keras.Model:
    """A convolution, batch normalization and a classifier."""
    # A bias before batch normalization has a gradient of rounding errors, which some optimizers turn into whole steps.
    arguments = dict(convolution or {"use_bias": False})
    dense = arguments.pop("dense", {})
    keras.utils.set_random_seed(11)
    with floats(dtype):
        image = keras.Input(IMAGE_2D)
        x = L.Conv2D(4, 3, padding="same", name="conv", dtype=policy, **arguments)(image)
        x = L.BatchNormalization(dtype=policy, name="norm")(x)
        x = L.Activation("relu", dtype=policy, name="relu")(x)
        x = L.GlobalAveragePooling2D(dtype=policy, name="pool")(x)
        x = [L.Dense(3, name=f"head{n}", dtype=policy, **dense)(x) for n in range(outputs)]
        return keras.Model(image, x if outputs > 1 else x[0])


def data(dtype: str = "float64") -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(2)
    return generator.normal(size=(CASES, *IMAGE_2D)).astype(dtype), generator.integers(0, 3, size=CASES)


def loss(**options):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **options)


def trained(
    partitioned: bool, *, dtype: str = "float64", compile=None, fit=None, dataset=False, outputs=1, **network_of
):
    """A model after `fit`, and its history. Everything with state is made again by functions."""
    with eagerly(), floats(dtype):
        model = network(dtype, outputs, **network_of)
        model = ks.partition(model, MESH) if partitioned else model
        arguments = {"optimizer": lambda: keras.optimizers.SGD(0.1), **(compile or {})}
        arguments = {name: value() if callable(value) else value for name, value in arguments.items()}
        model.compile(loss=[loss() for _ in range(outputs)] if outputs > 1 else loss(), **arguments)
        x, y = data(dtype)
        fit = {name: value(x, y) if callable(value) else value for name, value in (fit or {}).items()}
        keras.utils.set_random_seed(5)
        labels = [y] * outputs if outputs > 1 else y
        if dataset:
            source = tf.data.Dataset.from_tensor_slices((x, y)).batch(2)
            return model, model.fit(source, verbose=0, **{"epochs": 1, **fit}).history
        return model, model.fit(x, labels, verbose=0, **{"epochs": 1, "batch_size": 3, **fit}).history


def assert_trained_equal(dtype: str = "float64", tolerance: float | None = None, **options) -> None:
    forward = PRECISION.get(dtype, (0,))[0] if tolerance is None else tolerance
    (model, history), (plain, expected) = (
        trained(partitioned, dtype=dtype, **options) for partitioned in (True, False)
    )
    assert list(history) == list(expected)
    for name, values in expected.items():
        assert_close(np.asarray(history[name]), np.asarray(values), forward, f"history of {name}")
    assert [v.path for v in model.weights] == [v.path for v in plain.weights]
    for v, e in zip(model.weights, plain.weights, strict=True):
        assert_close(np.asarray(v, "float64"), np.asarray(e, "float64"), 10 * forward, v.path, floor=0.1)


def parameters(table, status=Equal) -> list:
    return [pytest.param(case, id=f"{name}-{key}".replace(" ", "-")) for name, key, case in all_cases(table, status)]


@pytest.mark.parametrize("make", parameters(fitting.OPTIMIZERS))
def test_optimizer_equals_keras(make):
    # For an optimizer that divides by the size of the gradient, the rounding of a tiny gradient decides a step.
    assert_trained_equal(compile={"optimizer": make}, tolerance=1e-7)


@pytest.mark.parametrize("make", parameters(fitting.SCHEDULES))
def test_schedule_equals_keras(make):
    assert_trained_equal(compile={"optimizer": make})


@pytest.mark.parametrize("case", parameters(fitting.FIT))
def test_argument_of_fit_equals_keras(case):
    assert_trained_equal(compile=case.compile, fit=case.arguments, dataset=case.dataset, outputs=case.outputs)


@pytest.mark.parametrize("case", parameters(fitting.COMPILE))
def test_argument_of_compile_equals_keras(case):
    assert_trained_equal(compile=case.compile, fit=case.arguments, dataset=case.dataset, outputs=case.outputs)


REFUSED = [(entry.case, entry.says) for entry in fitting.COMPILE.values() if isinstance(entry, Refused)]


@pytest.mark.parametrize("case, says", REFUSED, ids=[says for _, says in REFUSED])
def test_argument_of_compile_is_refused_by_name(case, says):
    with pytest.raises(ValueError, match=says):
        trained(True, compile=case.compile)


def both() -> list[keras.Model]:
    models = [ks.partition(network(), MESH), network()]
    for model in models:
        model.compile(loss=loss(), metrics=["accuracy"])
    return models


@pytest.mark.parametrize("arguments", parameters(fitting.EVALUATE))
def test_argument_of_evaluate_equals_keras(arguments):
    with eagerly(), floats("float64"):
        actual, expected = (model.evaluate(*data(), verbose=0, **arguments) for model in both())
    assert type(actual) is type(expected)
    if isinstance(expected, dict):
        assert list(actual) == list(expected)
        actual, expected = list(actual.values()), list(expected.values())
    assert_close(np.asarray(actual), np.asarray(expected), 1e-9, "evaluation")


@pytest.mark.parametrize("arguments", parameters(fitting.PREDICT))
def test_argument_of_predict_equals_keras(arguments):
    with eagerly(), floats("float64"):
        actual, expected = (model.predict(data()[0], verbose=0, **arguments) for model in both())
    assert_close(actual, expected, 1e-9, "predictions")


CALLBACKS = {
    "BackupAndRestore": (lambda folder: keras.callbacks.BackupAndRestore(folder / "backup"), {}),
    "CSVLogger": (lambda folder: keras.callbacks.CSVLogger(folder / "log.csv"), {}),
    "EarlyStopping": (
        lambda folder: keras.callbacks.EarlyStopping("loss", min_delta=9.0, restore_best_weights=True),
        {"epochs": 4},
    ),
    "History": (lambda folder: keras.callbacks.History(), {}),
    "LambdaCallback": (lambda folder: keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None), {}),
    "LearningRateScheduler": (lambda folder: keras.callbacks.LearningRateScheduler(lambda e, rate: rate * 0.5), {}),
    "ModelCheckpoint": (lambda folder: keras.callbacks.ModelCheckpoint(folder / "best.keras", "loss"), {}),
    "ProgbarLogger": (lambda folder: keras.callbacks.ProgbarLogger(), {}),
    "ReduceLROnPlateau": (
        lambda folder: keras.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=9.0),
        {"epochs": 4},
    ),
    "SwapEMAWeights": (lambda folder: keras.callbacks.SwapEMAWeights(), {}),
    "TensorBoard": (lambda folder: keras.callbacks.TensorBoard(folder / "board"), {}),
    "TerminateOnNaN": (lambda folder: keras.callbacks.TerminateOnNaN(), {}),
}


def test_every_callback_that_the_table_calls_equal_is_tried():
    assert set(CALLBACKS) == {name for name, _, _ in all_cases(fitting.CALLBACKS, Equal)}


@pytest.mark.parametrize("name", CALLBACKS)
def test_callback_leaves_the_history_weights_and_files_that_it_leaves_in_keras(name, tmp_path):
    make, fit = CALLBACKS[name]
    optimizer = {"optimizer": lambda: keras.optimizers.SGD(0.1, use_ema=name == "SwapEMAWeights")}
    found = []
    for partitioned in (True, False):
        folder = tmp_path / str(partitioned)
        folder.mkdir()
        callback = make(folder)
        model, history = trained(partitioned, compile=optimizer, fit={**fit, "callbacks": lambda x, y: [callback]})  # noqa: B023
        files = {path.relative_to(folder).parts[0] for path in folder.rglob("*")}
        found.append((history, [np.asarray(v) for v in model.weights], files))
    (history, weights, files), (expected, expected_weights, expected_files) = found
    assert files == expected_files
    assert list(history) == list(expected)
    for key, values in expected.items():
        assert_close(np.asarray(history[key]), np.asarray(values), 1e-9, key)
    for actual, e in zip(weights, expected_weights, strict=True):
        assert_close(actual, e, 1e-8, "weights", floor=0.1)
    if name == "CSVLogger":
        tables = [np.genfromtxt(tmp_path / str(p) / "log.csv", delimiter=",", names=True) for p in (True, False)]
        np.testing.assert_allclose(tables[0]["loss"], tables[1]["loss"], rtol=1e-9)
    if name == "ModelCheckpoint":
        restored = keras.saving.load_model(tmp_path / "True" / "best.keras")
        for actual, e in zip(restored.get_weights(), expected_weights, strict=True):
            assert_close(actual, e, 1e-8, "saved weights", floor=0.1)


@pytest.mark.parametrize(
    "make", parameters(fitting.REGULARIZERS) + parameters(fitting.CONSTRAINTS) + parameters(fitting.INITIALIZERS)
)
def test_weights_of_a_convolution_equal_those_of_keras(make):
    options = make()
    if "dense" in options:  # Keras's regularizer of matrices mixes its floats in float64, and fails.
        assert_trained_equal("float32", PRECISION["float32"][1], convolution=options)
    else:
        assert_trained_equal(convolution=options)


# In half precision, a sum over shards, in another order than over the image, keeps about this much.
DTYPES = {
    "float32": 1e-5,
    "float64": 1e-9,
    "float16": 0.02,
    "bfloat16": 0.1,
    "mixed_float16": 0.02,
    "mixed_bfloat16": 0.1,
}


@pytest.mark.parametrize("name", DTYPES)
def test_dtype_policy_equals_keras(name):
    assert {case for _, _, case in all_cases(fitting.DTYPES, Equal)} == {*DTYPES, "map"}
    dtype = "float64" if name == "float64" else "float32"
    assert_trained_equal(dtype, DTYPES[name], policy=name)


def test_map_of_dtype_policies_equals_keras():
    policies = keras.dtype_policies.DTypePolicyMap(default_policy="float32")
    policies["conv"] = keras.dtype_policies.DTypePolicy("mixed_bfloat16")
    assert_trained_equal("float32", DTYPES["mixed_bfloat16"], policy=policies)


def test_every_argument_of_fit_is_tried_by_that_name():
    for name, _, case in all_cases(fitting.FIT, Equal):
        assert name in ("x", "y") or name in case.arguments
    assert "sample_weight" in inspect.signature(keras.Model.fit).parameters
