"""Input that cannot work is refused at once, with the reason."""

import keras
import numpy as np
import pytest
from equality import split

import keras_spatial as ks


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("rows=2", "name:value"),
        ("rows:0", "positive integer"),
        ("rows:two", "positive integer"),
        ("rows:2, rows:2", "only once"),
        ("", "name:value"),
        ("rows:1000", "1000 devices"),
    ],
)
def test_bad_mesh(shape, message):
    with pytest.raises(ValueError, match=message):
        ks.device_mesh(shape)


def test_positions_of_a_mesh_share_named_devices_equally():
    assert list(ks.device_mesh("rows:2, columns:2", devices=["cpu:0", "cpu:1"]).devices.flatten()) == [
        *["cpu:0"] * 2,
        *["cpu:1"] * 2,
    ]
    with pytest.raises(ValueError, match=r"4 positions, which the devices must share equally.*3 devices"):
        ks.device_mesh("rows:2, columns:2", devices=["cpu:0", "cpu:1", "cpu:2"])


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("w:rows", "'w'"),
        ("x:lines", "'lines'"),
        ("x:rows, y:rows", "only once"),
        ("x", "name:value"),
    ],
)
def test_bad_layout(layout, message):
    with pytest.raises(ValueError, match=message):
        ks.SpatialParallel(ks.device_mesh("rows:2"), layout)


def test_unsupported_layers_are_all_named_when_the_model_is_partitioned():
    inputs = keras.Input((8, 8, 2))
    x = keras.layers.ConvLSTM2D(2, 3, name="memory")(keras.layers.Reshape((1, 8, 8, 2))(inputs))
    model = keras.Model(inputs, x)
    with pytest.raises(ks.UnsupportedLayer, match=r"'memory' \(ConvLSTM2D\)"):
        ks.partition(model, split("2x2"))


def test_window_larger_than_the_image_names_layer_and_size():
    inputs = keras.Input((None, None, 1))
    model = ks.partition(keras.Model(inputs, keras.layers.Conv2D(1, 9, name="wide")(inputs)), split("2x2"))
    with pytest.raises(ValueError, match="9 voxels does not fit") as caught:
        model.predict(np.zeros((1, 6, 6, 1), "float32"), verbose=0)
    assert any("'wide'" in note for note in getattr(caught.value, "__notes__", []))


def test_wrong_input_shape_names_both_shapes():
    inputs = keras.Input((8, 8, 1))
    model = ks.partition(keras.Model(inputs, keras.layers.Conv2D(1, 3)(inputs)), split("2x2"))
    with pytest.raises(ValueError, match=r"\(None, 8, 8, 1\)"):
        model(np.zeros((1, 8, 9, 1), "float32"))


@pytest.mark.parametrize("option", ["jit_compile", "run_eagerly"])
def test_options_that_a_mesh_excludes_are_refused(option):
    inputs = keras.Input((8, 8, 1))
    model = ks.partition(keras.Model(inputs, keras.layers.Conv2D(1, 3)(inputs)), split("2x2"))
    with pytest.raises(ValueError, match=option):
        model.compile(loss="mse", **{option: True})


def test_labels_of_another_shape_are_refused():
    inputs = keras.Input((8, 8, 1))
    model = ks.partition(keras.Model(inputs, keras.layers.Conv2D(3, 3, padding="same")(inputs)), split("2x2"))
    model.compile(loss=ks.losses.Crossentropy())
    with pytest.raises(ValueError, match="Labels must be class numbers"):
        model.fit(np.zeros((1, 8, 8, 1)), np.zeros((1, 8)), verbose=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"levels": 0}, "levels"),
        ({"filters": 2.5}, "filters"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_bad_unet_options(arguments, message):
    with pytest.raises(ValueError, match=message):
        ks.models.UNet3D((8, 8, 8, 1), classes=2, **arguments)
    with pytest.raises(ValueError, match="image axes"):
        ks.models.UNet3D((8, 8, 1), classes=2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ks.losses.Crossentropy(class_weights=(-1, 1)), "class_weights"),
        (lambda: ks.losses.SoftDice(over="image"), "over"),
        (lambda: ks.losses.SoftDice(epsilon=0), "epsilon"),
        (lambda: ks.metrics.Dice(over="batch"), "over"),
        (lambda: ks.metrics.Dice(class_id=-1), "class_id"),
    ],
)
def test_bad_losses_and_metrics(make, message):
    with pytest.raises(ValueError, match=message):
        make()
