"""Models whose inputs, outputs and labels are channels-first: the image axes are sharded nevertheless."""

import keras
import numpy as np
import pytest
from equality import assert_equal_to_keras, split
from keras import layers as L

import keras_spatial as ks

FIRST = {"data_format": "channels_first"}


def segmentation(shape=(2, 9, 7, 6)) -> keras.Model:
    """A small 3D U-Net, channels first; its input is built from convolutions that plain Keras has on CPUs."""
    keras.utils.set_random_seed(6)
    inputs = keras.Input(shape)
    skip = L.Conv3D(4, 3, padding="same", use_bias=False, **FIRST)(inputs)
    skip = L.ReLU()(L.BatchNormalization(axis=1)(skip))
    deep = L.Conv3D(4, 3, padding="same", activation="relu", **FIRST)(
        L.ZeroPadding3D(((0, 1), (0, 1), (0, 0)), **FIRST)(skip)
    )
    deep = L.UpSampling3D(2, **FIRST)(L.AveragePooling3D(2, **FIRST)(deep))
    deep = L.Cropping3D(((0, 1), (0, 1), (0, 0)), **FIRST)(deep)
    return keras.Model(inputs, L.Conv3D(3, 1, **FIRST)(L.Concatenate(axis=1)([skip, deep])))


@pytest.mark.parametrize("mesh", ["2x2x1", "2x2x2", "1x3x2"])
def test_segmentation_equals_keras(mesh):
    assert_equal_to_keras(segmentation(), split(mesh), training=True)


def test_segmentation_equals_keras_on_a_mesh_with_batch_and_all_image_axes():
    layout = "batch:cores, x:rows, y:columns, z:planes"
    mesh = split("cores:2, rows:2, columns:2, planes:2", layout)
    assert_equal_to_keras(segmentation(), mesh, batch=2, training=True)


def test_training_with_channels_first_labels_equals_keras():
    generator = np.random.default_rng(0)
    images = generator.normal(size=(4, 2, 9, 7, 6)).astype("float32")
    labels = generator.normal(size=(4, 3, 9, 7, 6)).astype("float32")
    losses, weights = [], []
    for distribution in (None, split("2x2x1")):
        model = segmentation()
        model = model if distribution is None else ks.partition(model, distribution)
        model.compile(keras.optimizers.SGD(0.05), "mse")
        history = model.fit(images, labels, batch_size=2, epochs=2, shuffle=False, verbose=0)
        losses.append(history.history["loss"])
        weights.append(model.get_weights())
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    for ours, expected in zip(weights[1], weights[0], strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-4 * np.abs(expected).max())
