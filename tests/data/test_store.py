"""A data set with damaged, missing, swapped or mixed files is refused by name, and never read as another."""

import json
import re
import shutil
import struct

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from isal import isal_zlib

from datasets.phantom.phantom_dataset_builder import Builder, PhantomConfig
from keras_spatial.data import Box, Store, StoreError, open_builder
from keras_spatial.data.packing import Packed, PackedTensor, pack

SIZE = (16, 16, 16)
ALL = Box((0, 0, 0), SIZE)
BLOCK = Box((0, 0, 0), (8, 8, 16))


def build(folder, seed=0):
    config = PhantomConfig(resolution=16, cases=(4, 1, 1), blocks=(2, 2, 1), seed=seed)
    builder = Builder(config=config, data_dir=str(folder))
    builder.download_and_prepare()
    return builder


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(tmp_path_factory.mktemp("data"))


@pytest.fixture
def folder(built, tmp_path):
    return shutil.copytree(built.data_dir, tmp_path / "copy")


def shard(folder, name):
    (path,) = folder.glob(f"*-{name}.tfrecord*")
    return path


def swap(one, other):
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def records(path):
    """The records of a TFRecord file, each with its checksums."""
    data, position, found = path.read_bytes(), 0, []
    while position < len(data):
        (length,) = struct.unpack_from("<Q", data, position)
        found.append(data[position : position + length + 16])
        position += length + 16
    return found


def reverse(path):
    path.write_bytes(b"".join(records(path)[::-1]))


def read_all(folder, box=ALL, split="train"):
    store = Store(folder, split)
    return [store.read(case, box) for case in range(store.cases)]


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: reverse(shard(f, "train")),
        lambda f: swap(shard(f, "validation"), shard(f, "test")),
        lambda f: shutil.copy(shard(f, "test"), shard(f, "validation")),
    ],
    ids=["reordered", "swapped", "copied"],
)
@pytest.mark.parametrize("box", [ALL, BLOCK], ids=["whole", "a block"])
def test_records_in_the_place_of_others_are_an_error(folder, damage, box):
    read_all(folder, box)
    damage(folder)
    with pytest.raises(StoreError, match=r"(?s)tfrecord.*expected 'phantom.*Received: 'phantom"):
        for split in ("train", "validation"):
            read_all(folder, box, split)


def test_two_shards_of_one_split_that_were_swapped_are_an_error(tmp_path):
    config = PhantomConfig(resolution=16, cases=(4, 2, 2), blocks=(2, 2, 1))
    builder = Builder(config=config, data_dir=str(tmp_path))
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=2))
    read_all(builder.data_path)
    # They hold as many cases, of the same shape.
    swap(*sorted(builder.data_path.glob("*-train.tfrecord*")))
    for box in (ALL, BLOCK):
        with pytest.raises(
            StoreError, match=r"(?s)tfrecord-00000-of-00002.*expected 'phantom-0-0'.*Received: 'phantom-0-2'"
        ):
            read_all(builder.data_path, box)


def test_the_validation_cases_do_not_pass_for_the_test(folder):
    swap(shard(folder, "validation"), shard(folder, "test"))
    with pytest.raises(StoreError, match=r"expected 'phantom-0-5'.*Received: 'phantom-0-4'"):
        read_all(folder, split="test")


def test_a_file_of_another_data_set_is_an_error(folder, tmp_path):
    other = build(tmp_path / "other", seed=1)
    shutil.copy(shard(other.data_path, "train"), shard(folder, "train"))
    with pytest.raises(StoreError, match="mixed with those of another data set"):
        read_all(folder)


def edit(folder, name, change):
    path = folder / name
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def edit_label(folder, values):
    """Change the label's feature, whose description is JSON inside of JSON."""

    def change(content):
        feature = content["featuresDict"]["features"]["label"]["jsonFeature"]
        feature["json"] = json.dumps({**json.loads(feature["json"]), **values})

    edit(folder, "features.json", change)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda f: shard(f, "train").unlink(), id="a shard deleted"),
        pytest.param(lambda f: shard(f, "train").write_bytes(b""), id="a shard empty"),
        pytest.param(lambda f: shard(f, "train").write_bytes(b"x" * 1000), id="a shard of text"),
        pytest.param(lambda f: shard(f, "train").write_bytes(bytes(1 << 20)), id="a shard of zeros"),
        *(
            pytest.param(lambda f, n=n, c=c: (f / n).write_bytes(c), id=f"{n} {what}")
            for n in ("metadata.json", "dataset_info.json", "features.json")
            for what, c in (("empty", b""), ("cut", b'{"a": '), ("other", b'["a"]'), ("no UTF-8", b"\xff\xfe"))
        ),
        pytest.param(lambda f: (f / "metadata.json").unlink(), id="no metadata.json"),
        pytest.param(lambda f: (f / "dataset_info.json").unlink(), id="no dataset_info.json"),
        pytest.param(lambda f: (f / "features.json").unlink(), id="no features.json"),
        pytest.param(lambda f: shutil.rmtree(f), id="no folder"),
        *(
            pytest.param(lambda f, v=v: edit(f, "metadata.json", lambda m: m.update(v)), id=str(v))
            for v in (
                {"blocks": [2, 2]}, {"blocks": [0, 2, 1]}, {"blocks": "221"}, {"blocks": [2.5, 2, 1]},
                {"blocks": [4, 1, 1]}, {"order": {"train": ["a"]}}, {"order": 3}, {"order": {}},
                {"order": {"train": [1, 2, 3, 4]}}, {"order": {"train": ["a", "b", "c", "d"]}},
            )
        ),
        *(
            pytest.param(lambda f, v=v: edit_label(f, v), id=str(v))
            for v in (
                {"blocks": [1, 2, 1]}, {"blocks": [2, 2]}, {"blocks": [0, 2, 1]}, {"blocks": "22"}, {"blocks": None},
                {"shape": [16, 16]}, {"shape": [16, 16, 18]}, {"shape": [None, None, None]}, {"stored": "uint16"},
            )
        ),
        pytest.param(
            lambda f: edit(f, "dataset_info.json", lambda i: i["splits"][0].update(shardLengths=["7"])), id="a count"
        ),
    ],
)  # fmt: skip
def test_missing_and_damaged_files_are_named(folder, damage):
    damage(folder)
    with pytest.raises(StoreError, match=f"(?s){folder}.*build"):
        read_all(folder)


def test_a_record_whose_bytes_cannot_fill_its_shape_allocates_nothing(folder):
    large = 1 << 13
    path = folder / "features.json"
    path.write_text(re.sub(r"\b16\b", str(large), path.read_text()))
    path = shard(folder, "train")
    examples = [tf.train.Example.FromString(r.numpy()) for r in tf.data.TFRecordDataset(str(path))]
    with tf.io.TFRecordWriter(str(path)) as writer:
        for example in examples:
            example.features.feature["shape"].int64_list.value[:] = [large] * 3
            writer.write(example.SerializeToString())
    store = Store(folder, "train")
    assert store.shape(0) == (large, large, large)
    with pytest.raises(StoreError, match=r"damaged .* compressed bytes cannot hold an array of shape \(8192, 8192"):
        store.read(0, Box((0, 0, 0), store.shape(0)))


def test_a_folder_that_is_no_data_set_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"dataset_info\.json and features\.json missing"):
        open_builder(tmp_path)


TENSOR = PackedTensor(shape=(4, 4, 4), dtype=np.uint8, stored=np.uint8)
HALVES = PackedTensor(shape=(4, 4, 4), dtype=np.uint8, stored=np.uint8, blocks=(2,))


@pytest.mark.parametrize(
    "stream",
    [
        isal_zlib.compress(bytes(65)),
        isal_zlib.compress(bytes(63)),
        isal_zlib.compress(bytes(1 << 24)),
        isal_zlib.compress(bytes(64)) + b"x",
        isal_zlib.compress(bytes(64))[:-1],
        isal_zlib.compress(bytes(64))[:-4] + bytes(4),
        b"",
        b"x",
    ],
    ids=["longer", "shorter", "a bomb", "something behind", "cut", "checksum", "empty", "text"],
)
def test_a_stream_of_another_length_than_its_shape_is_an_error(stream):
    with pytest.raises((ValueError, isal_zlib.error)):
        TENSOR.decode_stored(Packed.of([stream], (4, 4, 4)).data)


@pytest.mark.parametrize("blocks", [(), (1, 1, 1), (2, 1, 1), (3, 2, 4)], ids=str)
@pytest.mark.parametrize("shape", [(4, 4, 4), (None, None, 4), (None, 4, 4)], ids=str)
def test_packed_arrays_come_back_by_numpy_and_by_tensorflow(blocks, shape):
    tensor = PackedTensor(shape=shape, dtype=np.float32, stored=np.float16, blocks=blocks)
    array = np.random.default_rng(0).integers(0, 3, (4, 4, 4)).astype(np.float32)
    stored = tensor.encode_example(array)
    assert np.array_equal(tensor.decode_example_np(stored), array)
    if isinstance(stored, dict):
        stored = {"value": stored["value"], "shape": tf.constant(stored["shape"])}
    decoded = tf.function(tensor.decode_example)(stored)
    assert np.array_equal(decoded, array) and decoded.dtype == tf.float32
    assert PackedTensor.from_json_content(tensor.to_json_content()).to_json_content() == tensor.to_json_content()


@pytest.mark.parametrize(
    "damage",
    [
        lambda offsets: [*offsets[:-1], offsets[-1] + 1],
        lambda offsets: [offsets[0] + 1, *offsets[1:]],
        lambda offsets: [offsets[0], offsets[2], offsets[2]],
        lambda offsets: [offsets[0], (1 << 63) + 1, offsets[2]],
        lambda offsets: [offsets[0], 0, offsets[2]],
    ],
    ids=["longer", "begins later", "none left", "far beyond", "before"],
)
def test_a_table_of_blocks_that_is_damaged_is_an_error(damage):
    value = pack(np.ones((4, 4, 4), np.uint8), (2,)).data
    broken = np.array(damage(np.frombuffer(value[:24], "<u8").tolist()), "<u8").tobytes() + value[24:]
    with pytest.raises((ValueError, isal_zlib.error)):
        HALVES.decode_stored(broken)
    with pytest.raises((ValueError, isal_zlib.error)):
        for index in (0, 1):
            HALVES.read_block(lambda at, count: broken[at : at + count], len(broken), (index,), (2, 4, 4))


def test_packed_arrays_may_be_empty():
    array = np.ones((4, 4, 4), np.uint8)
    empty = PackedTensor(shape=(0, 4, 4), dtype=np.uint8, stored=np.uint8)
    assert empty.decode_stored(pack(array[:0]).data).shape == (0, 4, 4)


def test_a_shape_that_its_bytes_cannot_fill_allocates_nothing():
    tensor = PackedTensor(shape=(None, None, None), dtype=np.uint8, stored=np.uint8)
    with pytest.raises(ValueError, match="cannot hold"):
        tensor.decode_stored({"value": pack(np.zeros(9, np.uint8)).data, "shape": [1 << 20, 1 << 20, 1 << 20]})
