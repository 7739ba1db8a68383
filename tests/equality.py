"""Compare partitioned models with plain Keras: outputs, gradients and updated state, with the same weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import tree

import keras_spatial as ks
from keras_spatial.network import Network
from keras_spatial.step import Step

FORWARD = 1e-5
GRADIENT = 1e-4


@dataclass
class Results:
    """What a model computes: all of it is compared."""

    outputs: list[np.ndarray]
    input_gradients: list[np.ndarray | None]
    weight_gradients: list[np.ndarray | None]
    state: list[np.ndarray]


def split(mesh: str, layout: str | None = None) -> ks.SpatialParallel:
    """A distribution from `"2x1"` (x by y), `"2x2x2"` (x, y, z), or a mesh and layout in Mesh-TF's notation."""
    if layout is not None:
        return ks.SpatialParallel(ks.device_mesh(mesh), layout)
    names = ["rows", "columns", "planes"]
    sizes = mesh.split("x")
    shape = ", ".join(f"{name}:{size}" for name, size in zip(names, sizes, strict=False))
    axes = ", ".join(f"{axis}:{name}" for axis, name, _ in zip("xyz", names, sizes, strict=False))
    return ks.SpatialParallel(ks.device_mesh(shape), axes)


def random_inputs(model: keras.Model, batch: int, seed: int = 0) -> list[tf.Tensor]:
    generator = np.random.default_rng(seed)
    return [
        tf.constant(generator.normal(size=(batch, *x.shape[1:])), dtype=x.dtype if "float" in x.dtype else "float32")
        for x in tree.flatten(model.inputs)
    ]


def plain_results(model: keras.Model, inputs: Sequence[tf.Tensor], training: bool) -> Results:
    state = [v.numpy() for v in model.non_trainable_variables]
    values = [v.value for v in model.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = tree.flatten(model(tree.pack_sequence_as(model._inputs_struct, list(inputs)), training=training))
        loss = tf.add_n(
            [tf.reduce_sum(tf.cast(o, tf.float32) * w) for o, w in zip(outputs, _seeds(outputs), strict=True)]
        )
    gradient = tape.gradient(loss, [*inputs, *values])
    results = Results(
        [o.numpy() for o in outputs],
        [_array(g) for g in gradient[: len(inputs)]],
        [_array(g) for g in gradient[len(inputs) :]],
        [v.numpy() for v in model.non_trainable_variables],
    )
    for variable, value in zip(model.non_trainable_variables, state, strict=True):
        variable.assign(value)
    return results


def partitioned_results(
    model: keras.Model, distribution: ks.SpatialParallel, inputs: Sequence[tf.Tensor], training: bool
) -> Results:
    """The same results, lowered to Mesh-TensorFlow and run eagerly, which saves compiling a graph for each case."""
    state = [v.numpy() for v in model.non_trainable_variables]
    structured = tree.pack_sequence_as(model._inputs_struct, list(inputs))
    step = Step(Network(model, distribution), structured, training=training, differentiable_inputs=True)
    step.lower()
    step.apply_updates()
    outputs = [step.whole(o) for o in step.flat_outputs]
    variables = model.trainable_variables
    step.backward(step.flat_outputs, _seeds(outputs), variables)
    step.lower()
    results = Results(
        [o.numpy() for o in outputs],
        [_array(g) for g in step.input_gradients()],
        [_array(g) for g in step.gradients(variables)],
        [v.numpy() for v in model.non_trainable_variables],
    )
    for variable, value in zip(model.non_trainable_variables, state, strict=True):
        variable.assign(value)
    return results


def assert_equal_to_keras(
    model: keras.Model,
    distribution: ks.SpatialParallel,
    *,
    batch: int = 2,
    training: bool = False,
    inputs: Sequence[tf.Tensor] | None = None,
    forward: float = FORWARD,
    gradient: float = GRADIENT,
) -> None:
    """Assert that a model's outputs, gradients and state are the same on a mesh.

    Tolerances are relative to the largest entry of each array."""
    inputs = random_inputs(model, batch) if inputs is None else inputs
    expected = plain_results(model, inputs, training)
    actual = partitioned_results(model, distribution, inputs, training)
    names = [v.path for v in model.trainable_variables]
    for i, (a, e) in enumerate(zip(actual.outputs, expected.outputs, strict=True)):
        assert_close(a, e, forward, f"output {i}")
    # A gradient that is zero except for rounding (a bias before batch normalization) is compared with the others.
    scale = max([np.abs(g).max() for g in expected.weight_gradients if g is not None and g.size], default=0.0)
    for i, (a, e) in enumerate(zip(actual.input_gradients, expected.input_gradients, strict=True)):
        assert_close(a, e, gradient, f"gradient of input {i}")
    for name, a, e in zip(names, actual.weight_gradients, expected.weight_gradients, strict=True):
        assert_close(a, e, gradient, f"gradient of {name}", floor=1e-3 * scale)
    for i, (a, e) in enumerate(zip(actual.state, expected.state, strict=True)):
        assert_close(a, e, forward, f"state {model.non_trainable_variables[i].path}")


def assert_close(actual, expected, tolerance: float, what: str, floor: float = 0.0) -> None:
    if expected is None or actual is None:
        missing = actual if actual is not None else expected
        assert missing is None or not np.any(missing), f"{what}: only one of them is None"
        return
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    assert actual.dtype == expected.dtype, f"{what}: dtype {actual.dtype}, expected {expected.dtype}"
    if not expected.size:
        return
    actual, expected = actual.astype("float64"), expected.astype("float64")
    assert np.isfinite(actual).all() or not np.isfinite(expected).all(), f"{what}: not finite"
    error = np.abs(actual - expected).max()
    allowed = tolerance * max(np.abs(expected).max(), floor)
    assert error <= allowed, f"{what}: differs by {error:.3g}, allowed {allowed:.3g}"


def _seeds(outputs: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The weights of the outputs in the differentiated sum; all voxels differ, so that errors cannot cancel."""
    generator = np.random.default_rng(1)
    return [tf.constant(generator.normal(size=o.shape), tf.float32) for o in outputs]


def _array(value) -> np.ndarray | None:
    return None if value is None else tf.convert_to_tensor(value).numpy()
