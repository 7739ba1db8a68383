"""The content of TensorBoard's logs after a training."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_spatial as ks
from keras_spatial.tensorboard import SliceImages


def events(folder):
    """The (tag, step, kind) of everything in the event files of a folder."""
    found = []
    for path in sorted(folder.rglob("*.tfevents.*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            found += [(v.tag, event.step, v.metadata.plugin_data.plugin_name, v.tensor) for v in event.summary.value]
    return found


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    distribution = ks.SpatialParallel(ks.device_mesh("rows:2"), "x:rows")
    inputs = keras.Input((8, 8, 8, 1))
    model = ks.partition(keras.Model(inputs, keras.layers.Conv3D(3, 1)(inputs)), distribution)
    model.compile(optimizer="sgd", loss=ks.losses.DiceCrossentropy(), jit_compile=False)
    rng = np.random.default_rng(0)
    images, labels = rng.random((2, 8, 8, 8, 1), np.float32), rng.integers(0, 3, (2, 8, 8, 8))
    callbacks = [keras.callbacks.TensorBoard(folder), SliceImages(folder, images, labels, every=2)]
    history = model.fit(images, labels, validation_data=(images, labels), epochs=3, verbose=0, callbacks=callbacks)
    return folder, history.history


def test_the_scalars_are_those_of_the_history(logs):
    folder, history = logs
    for part, name in (("train", "loss"), ("validation", "val_loss")):
        losses = [float(tf.make_ndarray(t)) for tag, _, _, t in events(folder / part) if tag == "epoch_loss"]
        assert losses == pytest.approx(history[name], rel=1e-6)


def test_images_of_every_case_stand_at_every_second_and_the_last_epoch(logs):
    found = [(tag, step) for tag, step, kind, _ in events(logs[0] / "images") if kind == "images"]
    assert found == [("case 0", 1), ("case 1", 1), ("case 0", 2), ("case 1", 2)]


def test_an_image_is_a_png_of_three_slices(logs):
    _, _, _, tensor = events(logs[0] / "images")[0]
    width, height, png = tf.make_ndarray(tensor)
    picture = tf.io.decode_png(png).numpy()
    assert picture.shape == (int(height), int(width), 3)
    assert picture.std() > 10


@pytest.mark.parametrize(
    ("shape", "every"), [((1, 4, 4, 5), 1), ((1, 4, 4, 4), 0)], ids=["shapes differ", "every 0 epochs"]
)
def test_what_does_not_fit_is_refused(shape, every):
    with pytest.raises(ValueError, match="Received"):
        SliceImages("logs", np.zeros((1, 4, 4, 4, 1)), np.zeros(shape), every=every)
