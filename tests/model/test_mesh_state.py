"""Preparations of a model before it runs steps."""

import keras
import mesh_tensorflow
import numpy as np
import pytest
from keras import tree

import keras_spatial as ks


def test_the_first_two_batches_of_each_call_are_compared_over_the_processes(monkeypatch):
    with ks.SpatialParallel(ks.device_mesh("rows:2"), "x:rows").scope():
        inputs = keras.Input((8, 8, 1))
        model = ks.Model(inputs, ks.layers.Conv2D(1, 3, padding="same")(inputs))
    compared = []
    monkeypatch.setattr(
        model._runtime, "agree_on_batch", lambda what, batch: compared.append((what, tree.flatten(batch)[0].shape))
    )
    images = np.zeros((3, 8, 8, 1), "float32")
    model.compile("sgd", "mse")
    for _ in range(2):  # A second call uses the function of the first, and may have other data.
        model.fit(images, images, batch_size=1, epochs=2, validation_data=(images, images), verbose=0)
    model.predict(images[:1], verbose=0)
    first = ["batch 1 of fit", "batch 2 of fit", "batch 1 of evaluate", "batch 2 of evaluate"]
    assert compared == [(what, (1, 8, 8, 1)) for what in [*first, *first, "batch 1 of predict"]]
    model.compile("sgd", "mse")
    model.fit(images, images, batch_size=1, verbose=0)
    assert [what for what, _ in compared[9:]] == first[:2]


@pytest.mark.parametrize(
    ("call", "metrics"),
    [(call, metrics) for call in ("fit", "evaluate", "train_on_batch", "plan") for metrics in (None, ["accuracy"])],
)
def test_a_step_is_traced_once(call, metrics, monkeypatch):
    """TensorFlow traces a function that makes variables, such as those of an optimizer or a metric, a second time."""
    with ks.SpatialParallel(ks.device_mesh("rows:2"), "x:rows").scope():
        inputs = keras.Input((8, 8, 1))
        model = ks.Model(inputs, ks.layers.Conv2D(1, 3, padding="same")(inputs))
    model.compile("adam", "mse", metrics=metrics)
    traced, lower = [], mesh_tensorflow.Lowering.__init__
    monkeypatch.setattr(
        mesh_tensorflow.Lowering, "__init__", lambda self, *args: (traced.append(args), lower(self, *args))[1]
    )
    images = np.zeros((2, 8, 8, 1), "float32")
    if call == "plan":
        ks.plan(model, model.distribution)
    else:
        options = {} if call == "train_on_batch" else {"batch_size": 1, "verbose": 0}
        getattr(model, call)(images, images, **options)
    assert len(traced) == 1
