"""The file of a partitioned model is a Keras file; weights are interchangeable; one device can serve the model."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from equality import split
from published_networks import deeplab_v3plus

import keras_spatial as ks
from keras_spatial.saving import plain

IMAGE = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype("float32")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(1)
    return deeplab_v3plus()


@pytest.fixture(scope="module")
def expected(model):
    return model(IMAGE).numpy()


def test_partitioned_file_loads_plain_and_on_another_mesh(model, expected, tmp_path):
    path = tmp_path / "model.keras"
    ks.partition(model, split("2x2")).save(path)
    loaded = keras.saving.load_model(path)
    assert not isinstance(loaded, ks.Model)
    np.testing.assert_allclose(loaded(IMAGE), expected, rtol=1e-5, atol=1e-5)
    spatial = ks.load_model(path, distribution=split("1x4"))
    assert spatial.distribution is not None
    np.testing.assert_allclose(spatial(IMAGE), expected, rtol=1e-5, atol=1e-5)


def test_a_model_made_without_a_mesh_is_saved_as_a_plain_one(tmp_path):
    model = ks.models.UNet3D((8, 8, 8, 1), classes=3, filters=2, levels=2)
    image = np.ones((1, 8, 8, 8, 1), np.float32)
    model.save(tmp_path / "unet.keras")
    for loaded in (
        keras.saving.load_model(tmp_path / "unet.keras"),
        ks.load_model(tmp_path / "unet.keras", split("2x1")),
    ):
        np.testing.assert_allclose(loaded(image), model(image), rtol=1e-5, atol=1e-5)


def test_plain_file_loads_on_a_mesh(model, expected, tmp_path):
    path = tmp_path / "plain.keras"
    model.save(path)
    np.testing.assert_allclose(ks.load_model(path, distribution=split("2x1"))(IMAGE), expected, rtol=1e-5, atol=1e-5)


def test_weights_interchange_both_ways(model, expected, tmp_path):
    spatial = ks.partition(deeplab_v3plus(), split("2x1"))
    model.save_weights(tmp_path / "plain.weights.h5")
    spatial.load_weights(tmp_path / "plain.weights.h5")
    spatial.save_weights(tmp_path / "spatial.weights.h5")
    other = deeplab_v3plus()
    other.load_weights(tmp_path / "spatial.weights.h5")
    np.testing.assert_allclose(other(IMAGE), expected, rtol=1e-6, atol=1e-6)


def test_export_serves_on_one_device(model, expected, tmp_path):
    ks.partition(model, split("2x2")).export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    np.testing.assert_allclose(served.serve(IMAGE), expected, rtol=1e-5, atol=1e-5)
    assert plain(ks.partition(model, split("2x2")))(IMAGE).shape == expected.shape
