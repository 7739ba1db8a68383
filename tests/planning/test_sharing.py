"""Devices with any memory are enough: the image is cut into shards that fit, and waiting shards go where there is
room.
"""

import keras
import numpy as np
import pytest

import keras_spatial as ks
from keras_spatial.fitting import recomputed_plan
from keras_spatial.planning import NothingFits, Room, parse_size, smallest_sharing
from keras_spatial.runtimes.placement import PlacementRuntime
from keras_spatial_command import main

SHAPE = (32, 32, 32, 1)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPE)
    x = keras.layers.Conv3D(8, 3, padding="same", activation="relu")(inputs)
    x = keras.layers.Conv3D(8, 3, padding="same", activation="relu")(x)
    x = keras.layers.Conv3D(8, 3, padding="same", activation="relu")(keras.layers.MaxPooling3D(2)(x))
    model = keras.Model(inputs, keras.layers.Conv3D(3, 1)(keras.layers.UpSampling3D(2)(x)))
    model.compile("sgd", ks.losses.DiceCrossentropy())
    return model


@pytest.fixture(scope="module")
def whole(model):
    """The plans of a training step and of a prediction on one device."""
    alone = ks.SpatialParallel(ks.device_mesh("rows:1"), "x:rows")
    return ks.plan(model, alone), ks.plan(model, alone, training=False)


def test_a_model_that_fits_is_not_cut(model, whole):
    spatial, plan = ks.partition_to_fit(model, whole[0].memory, devices=["cpu:0"])
    assert (plan.mesh, plan.offload) == ("rows:1", "")
    assert spatial.distribution is not None
    assert isinstance(spatial.distribution.runtime, PlacementRuntime)


def test_a_smaller_memory_makes_as_few_shards_as_fit(model, whole, tmp_path):
    memory = int(0.8 * whole[1].memory)
    spatial, plan = ks.partition_to_fit(model, memory, tmp_path, devices=["cpu:0"], training=False)
    assert plan.fits(memory)
    assert plan.offload == str(tmp_path)
    assert spatial.distribution is not None
    shards = spatial.distribution.device_mesh.devices.size
    assert shards > 1
    if shards > 2:
        half = ks.SpatialParallel(
            ks.device_mesh("rows:2" if shards == 4 else "rows:2, columns:2", devices=["cpu:0"]),
            "x:rows" if shards == 4 else "x:rows, y:columns",
            offload=tmp_path,
        )
        assert not ks.plan(model, half, training=False).fits(memory)
    images = np.random.default_rng(0).random((1, *SHAPE), "float32")
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(
        spatial.predict(images, verbose=0), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max()
    )


def test_shards_of_gpus_wait_in_host_memory_or_else_in_a_file(model, whole, tmp_path):
    gpu = {"memory": int(0.5 * whole[0].memory), "devices": ["gpu:0"]}
    found = smallest_sharing(model, Room(**gpu, host=10**9))
    assert (found.plan.offload, found.recomputed) == ("host", False)
    assert found.plan.memory + found.plan.kept > whole[0].memory / 2
    found = smallest_sharing(model, Room(**gpu, host=0, folder=tmp_path, disk=10**9))
    assert found.distribution.runtime.offload == tmp_path


def test_layers_are_recomputed_where_too_little_room_is_left_for_what_waits(model, whole, tmp_path):
    gpu = {"memory": int(0.5 * whole[0].memory), "devices": ["gpu:0"], "host": 0, "folder": tmp_path}
    kept = smallest_sharing(model, Room(**gpu, disk=10**9)).plan.kept
    recompute = recomputed_plan(model, 1)
    found = smallest_sharing(model, Room(**gpu, disk=kept - 1), recompute)
    assert found.recomputed
    assert found.plan.kept < kept
    with pytest.raises(NothingFits, match="of shards wait meanwhile, and there are 0 B of host memory and 1 kB in"):
        smallest_sharing(model, Room(**gpu, disk=1000), recompute)


def test_weights_that_are_too_large_are_named(model, tmp_path):
    with pytest.raises(NothingFits, match="weights and the optimizer alone are too large"):
        ks.partition_to_fit(model, 1000, tmp_path, devices=["cpu:0"])


@pytest.mark.parametrize(
    ("text", "size"), [("16GB", 16 * 10**9), ("1.5GiB", 3 * 2**29), ("800 kB", 800_000), (12, 12), ("12B", 12)]
)
def test_sizes_are_numbers_or_texts(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["lots", "-1GB", "0", "GB", "1e9", "16XB"])
def test_what_is_no_size_is_named(text):
    with pytest.raises(ValueError, match=r"memory: expected bytes, .*Received: '"):
        parse_size(text)


def test_the_command_says_how_many_shards_what_is_moved_and_how_long_that_takes(model, whole, tmp_path, capsys):
    model.save(tmp_path / "model.keras")
    network = ["plan", "--model", str(tmp_path / "model.keras"), "--memory", str(whole[0].memory // 2)]
    assert main([*network, "--devices", "1", "--offload", str(tmp_path), "--host-memory", "1kB"]) == 0
    said = capsys.readouterr().out
    assert f"in {tmp_path}" in said
    assert "ks.SpatialParallel(ks.device_mesh(" in said
    assert "A step takes at least" in said
    assert "at 2 GB a second" in said
    assert main([*network, "--devices", "1", "--host-memory", "1kB"]) == 1
    assert "shards wait meanwhile" in capsys.readouterr().out
    assert main([*network, "--disk", "1GB"]) == 2
    assert "Give --devices" in capsys.readouterr().err
