"""A backup that cannot be read is set aside, and training starts from the beginning; a folder serves one training."""

import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

import keras_spatial as ks
from keras_spatial import backup, ownership


def small():
    with ks.SpatialParallel(ks.device_mesh("rows:2"), "x:rows").scope():
        inputs = keras.Input((8, 8, 1))
        model = ks.Model(inputs, ks.layers.Conv2D(1, 3, padding="same", kernel_initializer="ones")(inputs))
    model.compile("sgd", "mse")
    return model


def fit(folder, epochs=2, **options):
    model = small()
    data = np.ones((2, 8, 8, 1), "float32")
    model.fit(data, data, 1, epochs, verbose=0, callbacks=[ks.Backup(folder, **options)])
    return model.get_weights()


def empty(path):
    path.write_bytes(b"")


def truncated(path):
    path.write_bytes(path.read_bytes()[:-100])


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped_bit(path):
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
        data[file.getinfo("variable0.npy").header_offset + 200] ^= 1
    path.write_bytes(data)


def without_a_variable(path):
    with np.load(path) as file:
        kept = {name: file[name] for name in file.files if name != "variable1"}
    np.savez(path, **kept)


def about_nothing(path):
    np.savez(path, about=np.array("[]"))


def text(path):
    path.write_text("a note")


def folder(path):
    path.unlink()
    path.mkdir()


DAMAGES = [empty, truncated, half, flipped_bit, without_a_variable, about_nothing, text, folder]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished training's backup and weights."""
    path = tmp_path_factory.mktemp("whole")
    weights = fit(path, keep=True)
    return path / "backup.npz", weights


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_backup_that_cannot_be_read_is_set_aside_by_name(tmp_path, whole, damage):
    path = tmp_path / "backup.npz"
    path.write_bytes(whole[0].read_bytes())
    assert backup.read_position(path) == (2, 0)
    damage(path)
    assert backup.read_position(path, set_aside=False) is None
    assert path.exists()
    with pytest.warns(UserWarning, match=r"renamed to backup.npz.unreadable-1; training starts from the beginning"):
        assert backup.read_position(path) is None
    assert [p.name for p in tmp_path.iterdir()] == ["backup.npz.unreadable-1"]


def test_a_training_begins_where_its_backup_cannot_be_read(tmp_path, whole):
    half_read = tmp_path / "backup.npz"
    half_read.write_bytes(whole[0].read_bytes())
    half(half_read)
    with pytest.warns(UserWarning, match="renamed"):
        weights = fit(tmp_path, keep=True)
    for found, expected in zip(weights, whole[1], strict=True):
        np.testing.assert_array_equal(found, expected)
    assert backup.read_position(half_read) == (2, 0)


def test_a_backup_of_another_model_is_not_set_aside(tmp_path, whole):
    with np.load(whole[0]) as file:
        arrays = {name: file[name] for name in file.files}
    arrays["about"] = np.array(str(arrays["about"]).replace("[3, 3, 1, 1]", "[5, 5, 1, 1]"))
    np.savez(tmp_path / "backup.npz", **arrays)
    with pytest.raises(ValueError, match="the backup of another model or optimizer"):
        fit(tmp_path)
    assert (tmp_path / "backup.npz").exists()


def test_an_error_of_the_system_is_not_taken_for_a_damaged_file(tmp_path, monkeypatch):
    (tmp_path / "backup.npz").write_text("unreadable for now")

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(backup.np, "load", refuse)
    with pytest.raises(PermissionError):
        backup.read_position(tmp_path / "backup.npz")
    assert (tmp_path / "backup.npz").exists()


def test_a_second_training_in_a_folder_is_refused_by_name(tmp_path):
    program = f"import runpy, time; runpy.run_path({ownership.__file__!r})['lock']({str(tmp_path / backup.LOCK)!r})\n"
    program += "print('locked', flush=True); time.sleep(60)"
    first = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "locked\n"
    with pytest.raises(RuntimeError, match=rf"{tmp_path} on .*another training.*process {first.pid} of"):
        fit(tmp_path)
    first.kill()
    first.wait()
    fit(tmp_path)
    assert not (tmp_path / "backup.npz").exists()


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch):
    def unknown(descriptor, operation):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(ownership.fcntl, "flock", unknown)
    with pytest.warns(
        UserWarning, match="a file system that does not support locks.*Nothing prevents a second training"
    ):
        fit(tmp_path)


def test_a_folder_is_free_again_after_fit_and_after_one_that_failed(tmp_path):
    class Fails(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise OSError("as a full disk")

    model, data = small(), np.ones((2, 8, 8, 1), "float32")
    with pytest.raises(OSError, match="as a full disk"):
        model.fit(data, data, 1, 2, verbose=0, callbacks=[ks.Backup(tmp_path), Fails()])
    fit(tmp_path, epochs=2)
    ownership.lock(tmp_path / backup.LOCK)


def test_a_full_disk_leaves_the_last_backup_whole(tmp_path, whole, monkeypatch):
    path = tmp_path / "backup.npz"
    path.write_bytes(whole[0].read_bytes())

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backup.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        backup.write(path, [], [], 7, 0)
    assert [p.name for p in tmp_path.iterdir()] == ["backup.npz"]
    assert backup.read_position(path) == (2, 0)
