"""Shards that are kept in host memory or in a file come back unchanged; failures are named errors."""

import errno
import itertools
import os
import random

import numpy as np
import pytest
import tensorflow as tf

from keras_spatial.runtimes import storage
from keras_spatial.runtimes.storage import FileStorage, HostStorage, OffloadError, Space, check_offload

DTYPES = ("float16", "bfloat16", "float32", "float64", "bool", "int8", "int32", "int64")


@pytest.fixture(params=["host", "folder"])
def kept_in(request, tmp_path):
    return HostStorage() if request.param == "host" else FileStorage(tmp_path)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tensor_comes_back_bit_for_bit(kept_in, dtype):
    x = tf.cast(tf.random.stateless_uniform([61, 33, 37], (1, 2)) * 2, dtype)
    kept = kept_in.keep(x)
    kept_in.prefetch(kept)
    y = kept_in.bring(kept)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y, x)


def test_nothing_is_mixed_up_while_tensors_of_many_sizes_come_and_go(kept_in):
    choose = random.Random(0)
    held = {}
    for number in range(200):
        if held and choose.random() < 0.5:
            key = choose.choice(list(held))
            np.testing.assert_array_equal(kept_in.bring(held[key]), tf.fill([len_of(key)], float(key)))
            kept_in.drop(held.pop(key))
        held[number] = kept_in.keep(tf.fill([len_of(number)], float(number)))
    for key, kept in held.items():
        np.testing.assert_array_equal(kept_in.bring(kept), tf.fill([len_of(key)], float(key)))
        kept_in.drop(kept)
    assert kept_in.held == 0


def len_of(number):
    return 1000 + 7919 * (number % 13)


def test_the_file_has_no_name_and_is_empty_when_nothing_is_kept(tmp_path):
    kept_in = FileStorage(tmp_path)
    kept = kept_in.keep(tf.zeros([storage.MINIMUM_BYTES]))
    kept_in.bring(kept)
    assert os.fstat(kept_in._file.fileno()).st_size >= 4 * storage.MINIMUM_BYTES
    assert list(tmp_path.iterdir()) == []
    kept_in.drop(kept)
    kept_in._thread.submit(lambda: None).result()
    assert os.fstat(kept_in._file.fileno()).st_size == 0


def test_small_and_resident_tensors_stay_in_memory(tmp_path):
    kept_in = FileStorage(tmp_path)
    kept_in.keep(tf.zeros([10]))
    kept_in.keep(tf.zeros([storage.MINIMUM_BYTES]), resident=True)
    assert kept_in.written == 0


def test_space_that_is_given_back_is_used_again_and_never_twice():
    choose, space, taken = random.Random(1), Space(), {}
    for _ in range(500):
        if taken and choose.random() < 0.5:
            start = choose.choice(list(taken))
            space.give_back(start, taken.pop(start))
        else:
            size = choose.randrange(1, 50_000)
            taken[space.take(size)] = size
        ordered = sorted(taken.items())
        assert all(start + size <= after for (start, size), (after, _) in itertools.pairwise(ordered))
    for start, size in taken.items():
        space.give_back(start, size)
    assert space.taken == 0
    assert space._free == [(0, space.end)]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OffloadError, match=r"offload='.*file/folder': could not make a file in it: Not a directory"):
        FileStorage(tmp_path / "file" / "folder")


def test_a_full_disk_is_named_with_what_was_needed_and_what_to_do(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    kept_in = FileStorage(tmp_path)
    monkeypatch.setattr(storage.os, "pwrite", full)
    with pytest.raises(OffloadError, match=r"could not keep .* GB of shards in it: No space left.* larger file system"):
        kept_in.bring(kept_in.keep(tf.zeros([storage.MINIMUM_BYTES])))


def fail(monkeypatch, function, number):
    def failing(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(*function, failing)


@pytest.mark.parametrize(
    ("function", "number", "named"),
    [
        ((storage.os, "pwrite"), errno.ENOSPC, "No space left"),
        ((storage.os, "preadv"), errno.EIO, "Input/output error"),
        ((storage.tempfile, "TemporaryFile"), errno.EROFS, "Read-only file system"),
    ],
)
def test_a_folder_that_cannot_be_used_is_named_at_once_and_left_as_it_was(
    function, number, named, tmp_path, monkeypatch
):
    fail(monkeypatch, function, number)
    with pytest.raises(OffloadError, match=named):
        check_offload(tmp_path / "new" / "folder")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").mkdir()
    with pytest.raises(OffloadError, match=named):
        check_offload(tmp_path / "old")
    assert (tmp_path / "old").is_dir()


@pytest.mark.parametrize("offload", ["Host", "disk", "", True, 5, b"folder", None])
def test_what_is_no_place_is_refused_and_nothing_is_made(offload, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf"Received: offload={offload!r}$"):
        check_offload(offload)
    assert list(tmp_path.iterdir()) == []


def test_places_are_the_host_folders_that_exist_and_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scratch").mkdir()
    for offload in ("host", "scratch", "./made", tmp_path / "host", storage.Path("named")):
        check_offload(offload)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["host", "made", "named", "scratch"]


def test_what_is_left_is_dropped_when_the_next_tensor_comes(kept_in):
    kept = [kept_in.keep(tf.zeros([storage.MINIMUM_BYTES])) for _ in range(3)]
    kept_in.leave(kept)
    last = kept_in.keep(tf.zeros([10]))
    assert kept_in.held == 40
    kept_in.drop(last)
