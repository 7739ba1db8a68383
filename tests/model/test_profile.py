"""The profile of a few steps."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from equality import split

import keras_spatial as ks


def fit(folder, batches: int, **options) -> ks.Profile:
    inputs = keras.Input((16, 16, 2))
    x = keras.layers.Conv2D(4, 3, padding="same")(inputs)
    model = ks.partition(keras.Model(inputs, keras.layers.BatchNormalization()(x)), split("2x2"))
    model.compile("sgd", "mse")
    data = tf.data.Dataset.from_tensors((np.ones((1, 16, 16, 2), "float32"), np.ones((1, 16, 16, 4), "float32")))
    profile = ks.Profile(folder, **options)
    model.fit(data.repeat(batches), verbose=0, callbacks=[profile])
    return profile


def test_breakdown_names_where_the_time_went(tmp_path):
    found = fit(tmp_path, 5).breakdown
    assert found is not None
    assert found["steps"] == 2  # Steps 3 and 4: fit ends before the third.
    for kind in ("local computation", "halo", "allreduce"):
        assert 0 < found[kind] < found["step"] * 2 * 16
    assert any("Conv2D" in name for name in found["largest"])
    assert 0 <= found["input"] < found["step"]
    assert json.loads((tmp_path / "breakdown.json").read_text()) == found
    assert list(tmp_path.rglob("*.xplane.pb"))


def test_a_fit_that_is_too_short_says_so(tmp_path, capsys):
    assert fit(tmp_path, 2).breakdown is None
    assert "traced nothing: fit had 2 steps" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [{"first": -1}, {"steps": 0}])
def test_wrong_arguments_are_named(tmp_path, arguments):
    with pytest.raises(ValueError, match="first must be at least 0 and steps at least 1"):
        ks.Profile(tmp_path, **arguments)
