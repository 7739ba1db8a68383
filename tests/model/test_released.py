"""A model that is deleted leaves nothing behind."""

import gc

import keras
import numpy as np
from keras import layers
from tensorflow.python.framework.func_graph import FuncGraph

import keras_spatial as ks


def _graphs() -> int:
    gc.collect()
    return sum(isinstance(o, FuncGraph) for o in gc.get_objects())


def _fit_evaluate_predict() -> None:
    inputs = keras.Input((13, 9, 1))
    x = layers.Conv2D(2, 3, padding="same", activation="relu")(inputs)
    x = layers.BatchNormalization()(layers.MaxPooling2D(2, padding="same")(x))
    x = layers.UpSampling2D(2, interpolation="bilinear")(x)
    model = ks.partition(
        keras.Model(inputs, layers.Conv2D(1, 1)(layers.Cropping2D(((0, 1), (0, 1)))(x))),
        ks.SpatialParallel(ks.device_mesh("rows:2, columns:2"), "x:rows, y:columns"),
    )
    model.compile("adam", "mse", metrics=["mae"])
    images = np.zeros((2, 13, 9, 1), "float32")
    model.fit(images, images, validation_data=(images, images), verbose=0)
    model.predict(images, verbose=0)


def test_models_that_are_gone_leave_no_graphs():
    # A sweep trains many models in one process. TensorFlow's registry of custom gradients would keep all their steps.
    _fit_evaluate_predict()
    before = _graphs()
    _fit_evaluate_predict()
    _fit_evaluate_predict()
    assert _graphs() <= before
