"""`fit` on a mesh trains networks of other libraries as Keras does, including those that override how they learn."""

import keras
import keras_hub.models as hub
import medicai.models as medicai
import numpy as np
import pytest
from equality import split
from keras import layers

import keras_spatial as ks
from ecosystem import keras_hub_networks, medicai_networks
from ecosystem.agreement import EXACT, ROUNDED, double_precision


def basnet_of_few_channels() -> keras.Model:
    """keras-hub's segmenter, whose `compute_loss` adds the losses of all outputs of its backbone."""
    inputs = keras.Input((45, 38, 3))
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(inputs)
    outputs = {"refine_out": layers.Conv2D(1, 3, padding="same", activation="sigmoid")(x)}
    for i in (1, 2):
        outputs[f"predict_out_{i}"] = layers.Conv2D(1, 1, activation="sigmoid")(layers.BatchNormalization()(x))
    return hub.BASNetImageSegmenter(keras.Model(inputs, outputs))


def masks(model: keras.Model, classes: int, count: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, classes, (count, *model.output.shape[1:-1], 1))


# The model, its loss, the number of classes of its labels, the mesh, and how far the two may differ.
TRAINED = {
    "BASNetImageSegmenter": (basnet_of_few_channels, "binary_crossentropy", 2, "2x2", EXACT),
    "DeepLabV3ImageSegmenter": (
        lambda: hub.DeepLabV3ImageSegmenter(keras_hub_networks.deeplab(), 3),
        lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=2),
        3,
        "2x1",
        ROUNDED,  # TensorFlow resizes in float32 whatever it is given.
    ),
    "medicai UNet 3D": (
        lambda: medicai_networks.unet(medicai.UNet, medicai_networks.resnet((16, 24, 16, 1)), 3),
        "sparse_categorical_crossentropy",
        2,
        "2x2x1",
        EXACT,
    ),
}


# TensorFlow's convolutions of volumes in float64 take minutes here.
ON_REQUEST = ("medicai UNet 3D",)


@pytest.mark.parametrize("name", TRAINED)
def test_fit_gives_the_losses_and_weights_of_keras(name, request):
    if name in ON_REQUEST and not request.config.getoption("--all-networks", default=False):
        pytest.skip("takes long: pytest tests/ecosystem --all-networks")
    make, loss, classes, mesh, tolerance = TRAINED[name]
    # Over several steps float32's rounding grows to the size of an error: batch statistics of few voxels amplify it.
    with double_precision():
        keras.utils.set_random_seed(1)
        plain = make()
        start = plain.get_weights()
        count = 4
        x = np.random.default_rng(1).normal(size=(count, *plain.input.shape[1:]))
        y = masks(plain, classes, count)

        def fit(model: keras.Model) -> list[float]:
            found = loss() if callable(loss) else loss
            model.compile(optimizer=keras.optimizers.SGD(0.005), loss=found, metrics=[])
            return model.fit(x, y, batch_size=2, epochs=2, shuffle=False, verbose=0).history["loss"]

        expected = fit(plain)
        trained = plain.get_weights()
        model = make()
        model.set_weights(start)
        partitioned = ks.partition(model, split(mesh))
        assert isinstance(partitioned, type(model))
        actual = fit(partitioned)
    np.testing.assert_allclose(actual, expected, rtol=tolerance)
    for value, reference, before in zip(partitioned.get_weights(), trained, start, strict=True):
        scale = max(np.abs(reference - before).max(), 1e-3)
        np.testing.assert_allclose(value, reference, atol=tolerance * scale, rtol=0)
