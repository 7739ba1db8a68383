"""Options of Keras's optimizers work on a mesh as in plain Keras."""

import keras
import numpy as np
import pytest
from equality import split

import keras_spatial as ks

SHAPE = (12, 8, 4, 1)
ARGUMENTS = {
    "accumulation": {"gradient_accumulation_steps": 3},
    "average": {"use_ema": True, "ema_momentum": 0.7},
    "norm_of_all": {"global_clipnorm": 0.01},
    "norm_of_each": {"clipnorm": 0.003},
    "all": {"gradient_accumulation_steps": 2, "use_ema": True, "ema_momentum": 0.5, "global_clipnorm": 0.02},
}


def trained(arguments, distribution):
    keras.utils.set_random_seed(5)
    inputs = keras.Input(SHAPE)
    x = keras.layers.Conv3D(4, 3, padding="same", activation="relu")(inputs)
    model = keras.Model(inputs, keras.layers.Conv3D(3, 3, padding="same")(x))
    if distribution is not None:
        model = ks.partition(model, distribution)
    model.compile(keras.optimizers.SGD(0.3, momentum=0.9, **arguments), ks.losses.DiceCrossentropy(), jit_compile=False)
    generator = np.random.default_rng(0)
    images = generator.normal(size=(7, *SHAPE)).astype("float32")
    labels = generator.integers(0, 3, size=(7, *SHAPE[:-1])).astype("int32")
    callbacks = [keras.callbacks.SwapEMAWeights()] if "use_ema" in arguments else []
    history = model.fit(
        images, labels, batch_size=1, epochs=2, shuffle=False, verbose=0, validation_split=0.2, callbacks=callbacks
    )
    return history.history, model.get_weights()


@pytest.mark.parametrize("name", ARGUMENTS)
def test_training_equals_keras(name):
    expected, weights = trained(ARGUMENTS[name], None)
    found, found_weights = trained(ARGUMENTS[name], split("2x2"))
    assert set(found) == set(expected)
    for key, values in expected.items():
        np.testing.assert_allclose(found[key], values, rtol=1e-4, err_msg=key)
    for a, b in zip(found_weights, weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    # And the argument matters: without it the weights are others.
    _, without = trained({}, None)
    assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(weights, without, strict=True))
