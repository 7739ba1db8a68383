"""Preparations of a model before it runs steps."""

import keras
import numpy as np
from keras import tree

import keras_spatial as ks


def test_the_first_two_batches_of_each_loop_are_compared_over_the_processes(monkeypatch):
    with ks.SpatialParallel(ks.device_mesh("rows:2"), "x:rows").scope():
        inputs = keras.Input((8, 8, 1))
        model = ks.Model(inputs, ks.layers.Conv2D(1, 3, padding="same")(inputs))
    compared = []
    monkeypatch.setattr(
        model._runtime, "agree_on_batch", lambda what, batch: compared.append((what, tree.flatten(batch)[0].shape))
    )
    images = np.zeros((3, 8, 8, 1), "float32")
    model.compile("sgd", "mse")
    for _ in range(2):  # A second call uses the function of the first.
        model.fit(images, images, batch_size=1, epochs=2, validation_data=(images, images), verbose=0)
    model.predict(images[:1], verbose=0)
    first = ["batch 1 of fit", "batch 2 of fit", "batch 1 of evaluate", "batch 2 of evaluate", "batch 1 of predict"]
    assert compared == [(what, (1, 8, 8, 1)) for what in first]
    model.compile("sgd", "mse")
    model.fit(images, images, batch_size=1, verbose=0)
    assert [what for what, _ in compared[5:]] == first[:2]


def test_a_training_step_is_traced_once(monkeypatch):
    with ks.SpatialParallel(ks.device_mesh("rows:2"), "x:rows").scope():
        inputs = keras.Input((8, 8, 1))
        model = ks.Model(inputs, ks.layers.Conv2D(1, 3, padding="same")(inputs))
    traced = []
    train_step = type(model).train_step
    monkeypatch.setattr(type(model), "train_step", lambda self, data: traced.append(1) or train_step(self, data))
    images = np.zeros((2, 8, 8, 1), "float32")
    model.compile("adam", "mse")
    model.fit(images, images, batch_size=1, verbose=0)
    assert len(traced) == 1
