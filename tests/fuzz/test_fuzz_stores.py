"""A data set with damaged files is a named error, or it is read as it was; it never takes much memory."""

import shutil
import struct

import numpy as np
import pytest
from fuzzing import FAULTS, at_most, damaged, explore
from hypothesis import strategies as st
from isal import isal_zlib

from datasets.phantom.phantom_dataset_builder import Builder, PhantomConfig
from keras_spatial.data import Box, Store, StoreError
from keras_spatial.data.packing import Packed, PackedTensor

ALL = Box((0, 0, 0), (16, 16, 16))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    config = PhantomConfig(resolution=16, cases=(3, 1, 1), blocks=(2, 1, 1))
    builder = Builder(config=config, data_dir=str(tmp_path_factory.mktemp("data")))
    builder.download_and_prepare()
    return builder.data_path


@pytest.fixture(scope="module")
def truth(built):
    store = Store(built, "train")
    return [store.read(case, ALL) for case in range(store.cases)]


def records(data):
    position, found = 0, []
    while position < len(data):
        (length,) = struct.unpack_from("<Q", data, position)
        found.append(data[position : position + length + 16])
        position += length + 16
    return found


@st.composite
def damages(draw, names):
    """A fault in one file of a data set, as a function of the content of all files."""
    name = draw(st.sampled_from(names))
    kind = draw(st.sampled_from([*FAULTS, "byte", "gone", "other", "swap", "records"]))
    place, values = draw(st.floats(0, 1, exclude_max=True)), draw(st.binary(min_size=1, max_size=24))
    other, order = draw(st.sampled_from(names)), draw(st.permutations(range(3)))

    def damage(files):
        data = damaged(files[name], kind, place, values)
        if kind == "other":
            data = bytearray(files[other])
        elif kind == "records" and "tfrecord" in name:
            found = records(files[name])
            data = bytearray(b"".join(found[i % len(found)] for i in order))
        changed = {**files, name: None if kind == "gone" else bytes(data)}
        return {**changed, name: files[other], other: files[name]} if kind == "swap" else changed

    return name, kind, damage


def check(folder, files, truth, drawn):
    _, _, damage = drawn
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in damage(files).items():
        if content is not None:
            (folder / name).write_bytes(content)
    try:
        with at_most(64):
            store = Store(folder, "train")
            found = [store.read(case, ALL) for case in range(store.cases)]
    except StoreError as error:
        assert str(folder) in str(error)
        return
    assert len(found) == len(truth)
    for ours, theirs in zip(found, truth, strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])


def test_a_damaged_data_set_is_named_or_read_as_it_was(built, truth, tmp_path):
    files = {path.name: path.read_bytes() for path in built.iterdir()}
    explore(lambda drawn: check(tmp_path / "copy", files, truth, drawn), examples=250, drawn=damages(sorted(files)))


def test_a_stream_is_what_its_shape_says_or_an_error():
    tensor = PackedTensor(shape=(None, None), dtype=np.uint8, stored=np.uint8)

    def check_stream(size, level, shape, cut, flip):
        stream = bytearray(isal_zlib.compress(bytes(size), level))
        if flip is not None:
            stream[flip % len(stream)] ^= 1 << (flip % 8)
        stream = bytes(stream[: len(stream) - cut])
        with at_most(32):
            try:
                array = tensor.decode_stored({"value": Packed.of([stream], shape).data, "shape": shape})
            except (ValueError, isal_zlib.error):
                return
        assert array.shape == tuple(shape)
        assert array.size == size
        assert not array.any()

    explore(
        check_stream,
        examples=150,
        size=st.one_of(st.integers(0, 200), st.sampled_from([1 << 16, 1 << 26])),
        level=st.integers(0, 3),
        shape=st.lists(st.one_of(st.integers(-3, 40), st.just(1 << 40)), min_size=2, max_size=2),
        cut=st.sampled_from([0, 0, 0, 1, 4]),
        flip=st.one_of(st.none(), st.integers(0, 1 << 20)),
    )
