"""Any user's data as a TFDS data set: all channels, any labels, read as users of TFDS expect, and recognised again."""

import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from task_folders import (
    LABELS,
    PLAIN,
    arrays,
    change,
    save,
    strange_label,
    task,
    write_decathlon,
    write_plain,
)

from datasets import cases as faults
from datasets import decathlon, preparing
from datasets.decathlon.layout import read_layout
from datasets.decathlon.reader import TaskReader
from datasets.locking import BuildInProgressError, exclusive
from keras_spatial.data import Part, Store, StoreError, load
from keras_spatial.volumes import Limits, Task

HIPPOCAMPUS = Path(os.environ.get("KERAS_SPATIAL_HIPPOCAMPUS", Path(__file__).parents[3] / "shared/data/hippocampus"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    write_decathlon(folder)
    return folder


@pytest.fixture(scope="module")
def built(folder, tmp_path_factory):
    return decathlon.prepare(folder, tmp_path_factory.mktemp("data"), split="fold-0-of-4-brief", blocks=(2, 1, 1))


def test_examples_hold_all_channels_labels_and_names(built):
    assert built.info.features["label"].names == list(LABELS)
    store = Store(built, "test")
    image, label = store.read(0, Part().box(store.shape(0)))
    expected, truth = arrays(0)
    assert image.shape == (*truth.shape, 2)
    np.testing.assert_array_equal(label, truth[::-1])
    for channel in range(2):
        wanted = expected[::-1, ..., channel]
        np.testing.assert_allclose(image[..., channel], (wanted - wanted.mean()) / wanted.std(), rtol=1e-3, atol=1e-3)
    assert Task.of(built.info.metadata["task"]).largest == (13, 12, 10)


@pytest.mark.parametrize(
    "split, cases",
    [
        ("train+validation", [2, 3, 1]),
        ("train[:50%]", [2]),
        ("train[1:]+test", [3, 0]),
        (tfds.core.ReadInstruction("train", to=1, unit="abs"), [2]),
        (tfds.core.ReadInstruction("train") + tfds.core.ReadInstruction("test"), [2, 3, 0]),
    ],
    ids=str,
)
def test_splits_are_read_as_tfds_users_know_it_from_blocks_too(built, split, cases):
    assert [e["case"].decode() for e in built.as_dataset(split).as_numpy_iterator()] == [f"case_{n}" for n in cases]
    shapes = [e["label"].shape for e in built.as_dataset(split).as_numpy_iterator()]
    assert shapes == [arrays(n)[1].shape for n in cases]


def test_volumes_of_other_sizes_come_one_by_one(built):
    shapes = [tuple(image.shape) for image, _ in load(built, "train")]
    assert len(set(shapes)) == len(shapes) == 2


def test_a_second_call_reads_nothing_again(folder, built, monkeypatch):
    monkeypatch.setattr("datasets.decathlon.fingerprints._look", lambda *a: pytest.fail("looked again"))
    again = decathlon.prepare(folder, built.data_path.parents[2], split="fold-0-of-4-brief", blocks=(2, 1, 1))
    assert again.info.metadata == built.info.metadata


def test_another_description_of_the_same_files_is_another_data_set(tmp_path):
    source, data = tmp_path / "source", tmp_path / "data"
    write_decathlon(source)
    decathlon.prepare(source, data)
    swapped = ("background", "rim", "core", "tail")
    change(labels={str(n): name for n, name in enumerate(swapped)})(source)
    with pytest.raises(faults.OtherSourcesError, match=r"labels: \['background', 'core', .* now"):
        decathlon.prepare(source, data)
    builder = decathlon.prepare(source, data, on_other_sources="rebuild")
    assert builder.info.metadata["task"]["labels"] == builder.info.features["label"].names == list(swapped)
    assert decathlon.prepare(source, data).info.metadata == builder.info.metadata


def test_other_names_for_the_channels_and_labels_of_a_plain_folder_are_another_data_set(tmp_path):
    write_plain(tmp_path / "source")
    decathlon.prepare(tmp_path / "source", tmp_path / "data", **PLAIN)
    for given in ({**PLAIN, "channels": ["T1", "FLAIR"]}, {**PLAIN, "labels": ("background", "a", "b", "c")}):
        with pytest.raises(faults.OtherSourcesError, match=r"FLAIR|'a', 'b', 'c'"):
            decathlon.prepare(tmp_path / "source", tmp_path / "data", **given)


def test_a_rebuild_that_fails_leaves_the_data_set_that_was_there(tmp_path):
    source, data = tmp_path / "source", tmp_path / "data"
    write_plain(source)
    before = decathlon.prepare(source, data, **PLAIN).info.metadata
    good = (source / "labels/case_1.nii.gz").read_bytes()
    strange_label(source)
    with pytest.raises(faults.LabelValueError, match="case_1"):
        decathlon.prepare(source, data, **PLAIN, on_other_sources="rebuild")
    (source / "labels/case_1.nii.gz").write_bytes(good)
    after = decathlon.prepare(source, data, **PLAIN)
    assert after.info.metadata == before
    assert len(list(after.as_dataset("train"))) == 2
    assert [p.name for p in (data / "decathlon").glob(".rebuild*")] == []


def test_a_rebuild_is_one_builder_at_a_time(tmp_path):
    write_plain(tmp_path / "source")
    builder = decathlon.prepare(tmp_path / "source", tmp_path / "data", **PLAIN)
    strange_label(tmp_path / "source")
    given = {**PLAIN, "labels": [*LABELS, "4", "5", "6", "7"], "on_other_sources": "rebuild"}
    with builder.ownership(), pytest.raises(BuildInProgressError):
        decathlon.prepare(tmp_path / "source", tmp_path / "data", **given)
    assert len(decathlon.prepare(tmp_path / "source", tmp_path / "data", **given).task.labels) == 8


@pytest.mark.parametrize("again", [False, True])
def test_converted_cases_are_removed_only_while_no_other_split_can_be_built_of_them(tmp_path, monkeypatch, again):
    write_plain(tmp_path / "source")
    removed = []

    def remove(builder):
        lock = Path(builder.shared) / f".lock-{Path(builder.target(Limits()).folder).name}"
        with pytest.raises(BuildInProgressError), exclusive(lock):
            pass
        removed.append(builder)
        real(builder)

    if again:
        decathlon.prepare(tmp_path / "source", tmp_path / "data", **PLAIN)
        strange_label(tmp_path / "source")
    real = preparing._remove_converted
    monkeypatch.setattr(preparing, "_remove_converted", remove)
    decathlon.prepare(
        tmp_path / "source", tmp_path / "data", channels=["T1", "T2"], labels=[*LABELS, "4", "5", "6", "7"],
        on_other_sources="rebuild",
    )  # fmt: skip
    assert len(removed) == 1
    assert not list((tmp_path / "data/decathlon/converted").glob("*"))


def test_a_data_set_knows_its_limits(tmp_path):
    source, data = tmp_path / "source", tmp_path / "data"
    for number in range(4):
        image, label = arrays(number)
        save(source / f"images/a{number}.nii.gz", (3 * image[..., 0] - 500 * (number > 0)).astype(np.int16))
        save(source / f"labels/a{number}.nii.gz", label)
    given = {"channels": ["CT"], "intensities": "window", "on_bad_case": "skip"}
    strict = decathlon.prepare(source, data, **given)
    assert [bad["error"] for bad in strict.info.metadata["bad_cases"]] == ["IntensityError"]
    loose = Limits(hounsfield=False)
    with pytest.raises(faults.OtherSourcesError, match="limits: hounsfield=True in the data set, False now"):
        decathlon.prepare(source, data, limits=loose, **given)
    found = decathlon.prepare(source, data, limits=loose, on_other_sources="rebuild", **given)
    assert found.info.metadata["bad_cases"] == []
    with pytest.raises(faults.OtherSourcesError, match="limits: hounsfield=False in the data set, True now"):
        decathlon.prepare(source, data, **given)
    # Nothing was left out, so wider limits give the same data set.
    wider = Limits(hounsfield=False, voxels=1 << 31)
    assert decathlon.prepare(source, data, limits=wider, **given).info.metadata == found.info.metadata


@pytest.mark.parametrize("blocks", [(1, 1, 1), (2, 1, 1)], ids=str)
def test_tfds_reads_what_was_built_by_its_name_however_it_is_stored(folder, tmp_path, blocks):
    """The builder does not list the configuration; the examples are volumes, whatever the blocks."""
    built = decathlon.prepare(folder, tmp_path, split="fold-0-of-4-brief", blocks=blocks)
    name = f"decathlon/{built.builder_config.name}:{built.version}"

    def cases(split):
        return [e["case"].decode() for e in tfds.load(name, split=split, data_dir=tmp_path).as_numpy_iterator()]

    assert cases("train[:50%]+test") == ["case_2", "case_0"]
    assert cases(tfds.core.ReadInstruction("train", from_=1, unit="abs")) == ["case_3"]
    assert cases("all") == ["case_2", "case_3", "case_1", "case_0"]
    dataset, info = tfds.load(name, split="train", data_dir=tmp_path, with_info=True)
    assert list(info.splits) == ["train", "validation", "test"]
    assert (info.splits["train"].num_examples, info.features["label"].names) == (2, list(LABELS))
    assert dataset.element_spec["image"].shape.as_list() == [None, None, None, 2]
    batch = next(iter(tfds.load(name, split="test", data_dir=tmp_path, as_supervised=True, batch_size=1)))
    image, label = (part.numpy()[0] for part in batch)
    (truth,) = (e for e in built.as_dataset("test").as_numpy_iterator())
    np.testing.assert_array_equal(image, truth["image"])
    np.testing.assert_array_equal(label, truth["label"])


def test_a_data_source_reads_any_case_of_array_records_in_any_order(folder, built, tmp_path):
    options = {"split": "fold-0-of-4-brief", "blocks": (2, 3, 1)}
    made = decathlon.prepare(folder, tmp_path, file_format="array_record", **options)
    source = tfds.data_source(f"decathlon/{made.builder_config.name}", split="train[1:]+test", data_dir=tmp_path)
    assert [case["case"].decode() for case in (source[1], source[0])] == ["case_0", "case_3"]
    for found, truth in zip(source, built.as_dataset("train[1:]+test").as_numpy_iterator(), strict=True):
        np.testing.assert_array_equal(found["image"], truth["image"])
        np.testing.assert_array_equal(found["label"], truth["label"])
    # A block of an array record cannot be read by itself.
    with pytest.raises(StoreError, match=r"expected TFRecord files.*Received: array_record"):
        Store(made, "train")
    with pytest.raises(faults.OtherSourcesError, match="file_format: 'array_record' in the data set, 'tfrecord' now"):
        decathlon.prepare(folder, tmp_path, **options)


def test_tfrecords_have_no_data_source_and_tfds_says_what_has(built):
    with pytest.raises(NotImplementedError, match=r"file_format=.*array_record"):
        built.as_data_source("train")


@pytest.mark.skipif(not HIPPOCAMPUS.is_dir(), reason=f"no data at {HIPPOCAMPUS}; set KERAS_SPATIAL_HIPPOCAMPUS")
def test_the_hippocampus_of_the_decathlon_is_read_as_it_is(tmp_path):
    layout = read_layout(HIPPOCAMPUS)
    assert (layout.name, layout.channels, len(layout.cases)) == ("Hippocampus", ("MRI",), 200)
    images, labels = TaskReader(task(layout)).read(layout.cases[0], Limits())
    assert images[0].array.shape == labels.array.shape and set(np.unique(labels.array)) == {0, 1, 2}
