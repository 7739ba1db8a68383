"""The plan of a step whose shards share a device says how much is kept, moved and held when it runs."""

import functools

import numpy as np
import pytest

import keras_spatial as ks
from keras_spatial.runtimes.program import Program

SHAPE = (32, 32, 32, 1)


def unet(distribution):
    with distribution.scope():
        model = ks.models.UNet3D(SHAPE, classes=3, filters=8, levels=2)
        model.compile("adam", ks.losses.DiceCrossentropy(), metrics=[ks.metrics.Dice(class_id=1)])
    return model


@pytest.fixture
def storages(monkeypatch):
    """The storage of every program that runs."""
    found = []
    original = Program.__init__

    def init(self, make_storage, *arguments):
        def make():
            found.append(make_storage())
            return found[-1]

        original(self, make, *arguments)

    monkeypatch.setattr(Program, "__init__", functools.wraps(original)(init))
    return found


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("recomputed", [False, True])
def test_what_is_kept_and_moved_is_what_a_run_keeps_and_moves(training, recomputed, storages, tmp_path):
    mesh = ks.device_mesh("rows:2, columns:2", devices=["cpu:0"])
    distribution = ks.SpatialParallel(mesh, "x:rows, y:columns", offload=tmp_path)
    model = unet(distribution)
    if recomputed:
        ks.recompute(model, [["down0_conv1", "down0_norm1"], ["up0_conv1", "up0_norm1"]])
    plan = ks.plan(model, distribution, 2, training=training)
    assert storages == []
    images = np.random.default_rng(0).random((2, *SHAPE), "float32")
    if training:
        model.fit(images, (images[..., 0] > 0.5).astype("int32"), batch_size=2, verbose=0)
    else:
        model.predict(images, batch_size=2, verbose=0)
    (storage,) = storages
    assert plan.kept == storage.peak
    assert plan.moved == storage.written + storage.read
    assert plan.moved > plan.kept > 0
    assert (plan.devices, plan.offload) == (1, str(tmp_path))
    assert plan.least_seconds(1e9) == plan.moved / 1e9
    assert "kept outside the device" in str(plan)
