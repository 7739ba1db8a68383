"""Deep networks in float64, in which every gradient must agree to 1e-9: float32 would hide errors behind rounding."""

import keras
import numpy as np
import pytest
from conformance.checks import BATCH, MESHES, assert_close, eagerly
from conformance.table.activations import ACTIVATIONS
from conformance.table.statuses import IMAGE_2D, Equal, floats
from keras import layers as L

import keras_spatial as ks


def _residual(x, channels: int, stride: int):
    shortcut = L.Conv2D(channels, 1, strides=stride, padding="same")(x)
    x = L.Activation("silu")(L.BatchNormalization()(L.Conv2D(channels, 3, strides=stride, padding="same")(x)))
    x = L.BatchNormalization()(L.DepthwiseConv2D(3, padding="same")(x))
    excited = L.Dense(channels, activation="sigmoid")(L.Dense(2, activation="swish")(L.GlobalAveragePooling2D()(x)))
    return L.Activation("relu")(L.Add()([shortcut, L.Multiply()([x, L.Reshape((1, 1, channels))(excited)])]))


def residual_network() -> keras.Model:
    """Eight blocks of squeezed and excited convolutions, and a decoder: 90 layers."""
    image = keras.Input(IMAGE_2D)
    x, skips = image, []
    for channels, stride in ((4, 1), (4, 1), (6, 2), (6, 1), (8, 2), (8, 1), (8, 1), (8, 1)):
        skips += [x] if stride == 2 else []
        x = _residual(x, channels, stride)
    for skip in reversed(skips):
        x = L.UpSampling2D(2, interpolation="nearest")(x)
        x = L.Cropping2D(((0, x.shape[1] - skip.shape[1]), (0, x.shape[2] - skip.shape[2])))(x)
        x = L.GroupNormalization(2)(L.Conv2D(4, 3, padding="same", activation="gelu")(L.Concatenate()([x, skip])))
    return keras.Model(image, L.Conv2D(3, 1)(x))


def every_activation() -> keras.Model:
    """The sum of convolutions with each activation of Keras."""
    image = keras.Input(IMAGE_2D)
    names = [name for name, entry in ACTIVATIONS.items() if isinstance(entry, Equal)]
    return keras.Model(
        image,
        L.Add()(
            [
                entry.cases[key].call(image)
                for entry in (ACTIVATIONS[name] for name in names if name != "glu")
                for key in entry.cases
            ]
        ),
    )


def assert_step_equal(make, mesh: str) -> None:
    generator = np.random.default_rng(0)
    with floats("float64"):
        models = []
        for partitioned in (True, False):
            keras.utils.set_random_seed(3)
            model = make()
            model = ks.partition(model, MESHES[2][mesh]) if partitioned else model
            model.compile(keras.optimizers.SGD(1.0), "mse")
            models.append(model)
        x = generator.normal(size=(BATCH, *IMAGE_2D))
        y = generator.normal(size=(BATCH, *IMAGE_2D[:2], models[0].output.shape[-1]))
        before = [v.numpy() for v in models[1].trainable_variables]
        losses = [model.train_on_batch(x, y) for model in models]
    assert_close(losses[0], losses[1], 1e-9, "loss")
    gradients = [[v.numpy() - b for v, b in zip(m.trainable_variables, before, strict=True)] for m in models]
    scale = max(np.abs(g).max() for g in gradients[1])
    for variable, actual, expected in zip(models[1].trainable_variables, *gradients, strict=True):
        assert_close(actual, expected, 1e-9, f"gradient of {variable.path}", floor=1e-3 * scale)


@pytest.mark.parametrize("mesh", ["2x2", "batch-x"])
def test_deep_network_equals_keras(mesh):
    with eagerly():
        assert_step_equal(residual_network, mesh)


def test_every_activation_equals_keras_in_a_compiled_step():
    assert_step_equal(every_activation, "2x2")
