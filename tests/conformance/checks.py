"""Compare partitioned models with plain Keras, using only public names: `ks.partition` and calls of the model."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from conformance.table.statuses import BATCH, Case, Status
from equality import split
from keras import tree

import keras_spatial as ks

EVERY_MESH = "CONFORMANCE_EVERY_MESH"  # Set it to run every case on every mesh in both dtypes.

MESHES = {
    1: {
        "2": split("2"),
        "3": split("3"),
        "4": split("4"),
        "batch-x": split("cores:2, rows:2", "batch:cores, x:rows"),
    },
    2: {
        "2x2": split("2x2"),
        "3x1": split("3x1"),
        "1x4": split("1x4"),
        "batch-x": split("cores:2, rows:2", "batch:cores, x:rows"),
        "batch-y": split("cores:2, rows:2", "batch:cores, y:rows"),
        "4x2": split("4x2"),
        "1x1": split("1x1"),
    },
    3: {
        "2x2x2": split("2x2x2"),
        "3x1x1": split("3x1x1"),
        "1x2x2": split("1x2x2"),
        "batch-x-z": split("cores:2, rows:2, planes:2", "batch:cores, x:rows, z:planes"),
    },
}
PRECISION = {"float32": (1e-5, 1e-4), "float64": (1e-9, 1e-9)}


@dataclass(frozen=True)
class Setting:
    """The mesh and the dtype with which a case runs."""

    mesh: str
    dtype: str
    distribution: ks.SpatialParallel

    def __str__(self) -> str:
        return f"{self.mesh}-{self.dtype}"


def settings(number: int, image_axes: int = 2, often: bool = True, dtypes: Sequence[str] = tuple(PRECISION)):
    """The settings of the case with this number.

    It runs in float64 on the first mesh and in float32 on another one, chosen in turn, or only on one mesh, chosen in
    turn. If the environment asks for it, it runs with all settings.
    """
    meshes = MESHES[image_axes]
    names = list(meshes)
    if os.environ.get(EVERY_MESH):
        chosen = [(name, dtype) for name in names for dtype in PRECISION]
    elif often and len(dtypes) > 1:
        chosen = [(names[0], "float64"), (names[1 + number % (len(names) - 1)], "float32")]
    else:
        chosen = [(names[number % len(names)], dtypes[number % len(dtypes)])]
    return [Setting(name, dtype, meshes[name]) for name, dtype in chosen if dtype in dtypes]


def cases(table: Mapping[str, Status], status: type, often: bool = True) -> list:
    """The parameters of a test: the cases of all names with a status, each with its settings."""
    found = []
    for number, (name, key, case) in enumerate(all_cases(table, status)):
        if isinstance(case, Case):
            where = settings(number, len(case.shape) - 1, often and case.often, case.dtypes)
        else:
            where = settings(number, often=often, dtypes=getattr(case, "dtypes", tuple(PRECISION)))
        found += [pytest.param(case, setting, id=f"{name}-{key}-{setting}".replace(" ", "-")) for setting in where]
    return found


def all_cases(table: Mapping[str, Status], status: type) -> list[tuple[str, str, Any]]:
    """The name, the name of the case and the case, for all names with a status."""
    return [
        (name, key, case)
        for name, entry in table.items()
        if isinstance(entry, status)
        for key, case in entry.cases.items()
    ]


@dataclass
class Results:
    """The outputs of a call of a model, its gradients, and the state after it."""

    outputs: list[np.ndarray]
    input_gradients: list[np.ndarray | None]
    weight_gradients: dict[str, np.ndarray | None]
    state: dict[str, np.ndarray]


@contextlib.contextmanager
def eagerly() -> Iterator[None]:
    """Run without compiling graphs, which takes longer than most cases; tests/model/test_fit.py compiles them."""
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def images(model: keras.Model, batch: int = BATCH, seed: int = 0) -> list[tf.Tensor]:
    generator = np.random.default_rng(seed)
    return [tf.constant(generator.normal(size=(batch, *x.shape[1:])), x.dtype) for x in tree.flatten(model.inputs)]


def results(model: keras.Model, inputs: Sequence[tf.Tensor], training: bool) -> Results:
    """Calls a model, partitioned or not, and computes the gradients of a sum that weights every element differently."""
    state = [v.numpy() for v in model.non_trainable_variables]
    values = [v.value for v in model.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = tree.flatten(model(inputs if len(inputs) > 1 else inputs[0], training=training))
        loss = tf.add_n([tf.reduce_sum(o * w) for o, w in zip(outputs, _seeds(outputs), strict=True)])
    gradients = [
        None if g is None else tf.convert_to_tensor(g).numpy() for g in tape.gradient(loss, [*inputs, *values])
    ]
    found = Results(
        [o.numpy() for o in outputs],
        gradients[: len(inputs)],
        {v.path: g for v, g in zip(model.trainable_variables, gradients[len(inputs) :], strict=True)},
        {v.path: v.numpy() for v in model.non_trainable_variables},
    )
    for variable, value in zip(model.non_trainable_variables, state, strict=True):
        variable.assign(value)
    return found


def _seeds(outputs: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    generator = np.random.default_rng(1)
    return [tf.constant(generator.normal(size=o.shape), o.dtype) for o in outputs]


def assert_case_equal(case: Case, setting: Setting, **options) -> None:
    """Assert that a case has the same results on a mesh as in plain Keras.

    Args:
        case: the case.
        setting: the mesh and the dtype.
        **options: further arguments of `ks.partition`.
    """
    model = case.model(setting.dtype)
    inputs = images(model)
    with eagerly():
        expected = results(model, inputs, case.training)
        actual = results(ks.partition(model, setting.distribution, **options), inputs, case.training)
    assert_results_close(actual, expected, setting.dtype, case.precision)


def assert_results_close(actual: Results, expected: Results, dtype: str, precision: float = 1e-9) -> None:
    """Assert equality up to rounding, relative to the largest entry of each array."""
    forward, gradient = (max(tolerance, precision) for tolerance in PRECISION[dtype])
    assert len(actual.outputs) == len(expected.outputs)
    for i, (a, e) in enumerate(zip(actual.outputs, expected.outputs, strict=True)):
        assert_close(a, e, forward, f"output {i}")
    for i, (a, e) in enumerate(zip(actual.input_gradients, expected.input_gradients, strict=True)):
        assert_close(a, e, gradient, f"gradient of input {i}")
    assert list(actual.weight_gradients) == list(expected.weight_gradients)
    # A gradient that is zero except for rounding (a bias before batch normalization) is compared with the others.
    scale = max([np.abs(g).max() for g in expected.weight_gradients.values() if g is not None and g.size], default=0.0)
    for path, e in expected.weight_gradients.items():
        assert_close(actual.weight_gradients[path], e, gradient, f"gradient of {path}", floor=1e-3 * scale)
    assert list(actual.state) == list(expected.state)
    for path, e in expected.state.items():
        assert_close(actual.state[path], e, forward, f"state {path}")


def assert_close(actual, expected, tolerance: float, what: str, floor: float = 0.0) -> None:
    if expected is None or actual is None:
        known = actual if actual is not None else expected
        assert known is None or not np.any(known), f"{what}: only one of them is None"
        return
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    assert actual.dtype == expected.dtype, f"{what}: dtype {actual.dtype}, expected {expected.dtype}"
    if not expected.size:
        return
    actual, expected = actual.astype("float64"), expected.astype("float64")
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~finite], expected[~finite], err_msg=what)
    if finite.any():
        error = np.abs(actual - expected)[finite].max()
        allowed = tolerance * max(np.abs(expected[finite]).max(), floor)
        assert error <= allowed, f"{what}: differs by {error:.3g}, allowed {allowed:.3g}"
