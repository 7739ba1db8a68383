"""Anybody's data: three layouts, several channels, any labels; and every fault of a folder or a case has a name."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tensorflow_datasets as tfds

from datasets import cases as faults
from datasets import decathlon, preparing
from datasets.blocks import BlockGrid
from datasets.conversion import Target, convert
from datasets.decathlon.fingerprints import fingerprint
from datasets.decathlon.layout import LayoutError, read_layout
from datasets.decathlon.reader import TaskReader
from datasets.locking import BuildInProgressError, exclusive
from keras_spatial import volumes
from keras_spatial.data import Part, Store, StoreError, load
from keras_spatial.volumes import Channel, Grid, Limits, Percentiles, Task, Window, ZScore

HIPPOCAMPUS = Path(os.environ.get("KERAS_SPATIAL_HIPPOCAMPUS", Path(__file__).parents[3] / "shared/data/hippocampus"))
AFFINE = np.diag([-1.5, 1.5, 3.0, 1.0])
LABELS = ("background", "core", "rim", "tail")


def arrays(number):
    """A case of its own size: two channels on unlike scales, and labels 0 to 3."""
    shape = (10 + number, 12, 8 + number % 3)
    rng = np.random.default_rng(number)
    label = np.zeros(shape, np.uint8)
    label[2:8, 3:9, 1:4], label[3:6, 4:7, 4:6], label[4:5, 4:9, 6:7] = 1, 2, 3
    first = 100 * label + rng.normal(0, 5, shape)
    return np.stack([first, 1000 - 3 * first], -1).astype(np.float32), label


def save(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith((".nrrd", ".mha")):
        image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
        lps = np.diag([-1, -1, 1]) @ affine[:3, :3]
        spacing = np.linalg.norm(lps, axis=0)
        image.SetSpacing(spacing.tolist())
        image.SetDirection((lps / spacing).ravel().tolist())
        sitk.WriteImage(image, str(path))
    else:
        nib.save(nib.Nifti1Image(array, affine), path)


def write_decathlon(folder, cases=4):
    training = []
    for number in range(cases):
        image, label = arrays(number)
        save(folder / f"imagesTr/case_{number}.nii.gz", image)
        save(folder / f"labelsTr/case_{number}.nii.gz", label)
        training.append({"image": f"./imagesTr/case_{number}.nii.gz", "label": f"./labelsTr/case_{number}.nii.gz"})
    description = {
        "name": "Toy", "modality": {"0": "T1", "1": "T2"}, "labels": {str(i): n for i, n in enumerate(LABELS)},
        "training": training,
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(description))


def write_nnunet(folder, cases=4, ending=".nii.gz"):
    write_files(folder / "imagesTr", folder / "labelsTr", cases, ending)
    description = {
        "channel_names": {"0": "T1", "1": "T2"}, "labels": {n: i for i, n in enumerate(LABELS)}, "file_ending": ending,
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(description))


def write_plain(folder, cases=4, ending=".nii.gz"):
    write_files(folder / "images", folder / "labels", cases, ending)


def write_files(images, labels, cases, ending):
    for number in range(cases):
        image, label = arrays(number)
        for channel in range(2):
            save(images / f"case_{number}_{channel:04}{ending}", image[..., channel])
        save(labels / f"case_{number}{ending}", label)


PLAIN = {"channels": ["T1", "T2"], "labels": LABELS}
LAYOUTS = {
    "decathlon": (write_decathlon, {}),
    "nnunet": (write_nnunet, {}),
    "plain": (write_plain, PLAIN),
    "nrrd": (lambda folder: write_plain(folder, ending=".nrrd"), PLAIN),
    "mha": (lambda folder: write_nnunet(folder, ending=".mha"), {}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    write_decathlon(folder)
    return folder


@pytest.fixture(scope="module")
def built(folder, tmp_path_factory):
    return decathlon.prepare(folder, tmp_path_factory.mktemp("data"), split="fold-0-of-4-brief", blocks=(2, 1, 1))


def task(layout, grid=None):
    channels = tuple(Channel(c, ZScore()) for c in layout.channels)
    return Task(layout.name, layout.labels, channels, grid or Grid())


@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_layout_gives_the_same_cases(tmp_path, kind):
    write, given = LAYOUTS[kind]
    write(tmp_path)
    layout = read_layout(tmp_path, **given)
    assert (layout.channels, layout.labels) == (("T1", "T2"), LABELS)
    assert [case.name for case in layout.cases] == [f"case_{n}" for n in range(4)]
    images, labels = TaskReader(task(layout)).read(layout.cases[1], Limits())
    expected, truth = arrays(1)
    # The file's x runs to the left, canonical x to the right.
    np.testing.assert_array_equal(labels.array, truth[::-1])
    for channel, volume in enumerate(images):
        np.testing.assert_allclose(volume.array, expected[::-1, ..., channel])
        assert volume.spacing == pytest.approx((1.5, 1.5, 3.0))


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
    given = {"channels": ["CT"], "normalisation": "window", "on_bad_case": "skip"}
    strict = decathlon.prepare(source, data, **given)
    assert [bad["error"] for bad in strict.info.metadata["bad_cases"]] == ["IntensityError"]
    loose = Limits(hounsfield=False)
    with pytest.raises(faults.OtherSourcesError, match="limits: hounsfield=True in the data set, False now"):
        decathlon.prepare(source, data, limits=loose, **given)
    found = decathlon.prepare(source, data, limits=loose, on_other_sources="rebuild", **given)
    assert found.info.metadata["bad_cases"] == []
    with pytest.raises(faults.OtherSourcesError, match="limits: hounsfield=False in the data set, True now"):
        decathlon.prepare(source, data, **given)
    # Nothing was left out, so what accepts more finds the same.
    wider = Limits(hounsfield=False, voxels=1 << 31)
    assert decathlon.prepare(source, data, limits=wider, **given).info.metadata == found.info.metadata


def masks(folder, value, cases=3):
    for number in range(cases):
        image, label = arrays(number)
        save(folder / f"images/a{number}.nii.gz", (3 * image[..., 0] - 500).astype(np.int16))
        save(folder / f"labels/a{number}.nii.gz", value(label).astype(np.uint8))


@pytest.mark.parametrize(
    "value, received",
    [(lambda x: 255 * (x > 0), r"\[0, 255\]"), (lambda x: x + (x > 1), r"\[0, 1, 3, 4\]"), (lambda x: 0 * x, r"\[0\]")],
    ids=["0 and 255", "no 2", "nothing"],
)
def test_labels_with_a_gap_are_refused_with_the_list(tmp_path, value, received):
    masks(tmp_path, value)
    with pytest.raises(LayoutError, match=rf"without a gap, .* Received: {received}\. Number"):
        decathlon.prepare(tmp_path, tmp_path / "data", channels=["CT"], normalisation="window")


def test_labels_that_do_not_occur_can_be_named(tmp_path):
    masks(tmp_path, lambda x: x + (x > 1))
    names = ["background", "a", "none", "b", "c"]
    config = decathlon.configure(tmp_path, tmp_path / "data", channels=["CT"], labels=names)
    assert config.task.labels == tuple(names)


@pytest.mark.parametrize(
    "image, label, received",
    [
        (lambda i, x: np.where(x > 0, 40, i), lambda x: x, "40 in nearly all"),
        (lambda i, x: i, lambda x: 0 * x, "no labelled voxel"),
    ],
    ids=["constant", "unlabelled"],
)
def test_a_channel_without_percentiles_is_named_with_its_folder(tmp_path, image, label, received):
    for number in range(3):
        values, truth = arrays(number)
        save(tmp_path / f"images/a{number}.nii.gz", image(3 * values[..., 0] - 500, truth).astype(np.int16))
        save(tmp_path / f"labels/a{number}.nii.gz", label(truth))
    with pytest.raises(LayoutError, match=rf"{tmp_path}: channel 0 \(CT\): .* Received: {received}.*normalisation="):
        decathlon.prepare(tmp_path, tmp_path / "data", channels=["CT"], labels=LABELS)


def test_too_few_cases_for_the_folds_are_refused_before_a_voxel_is_read(tmp_path, monkeypatch):
    write_plain(tmp_path / "source", 3)
    monkeypatch.setattr("datasets.decathlon.fingerprints._look", lambda *a: pytest.fail("read"))
    with pytest.raises(ValueError, match="Received: 3 cases, 5 folds"):
        decathlon.prepare(tmp_path / "source", tmp_path / "data", split="fold-0-of-5", **PLAIN)


def test_a_number_at_the_end_of_a_case_is_its_own_if_its_labels_have_it(tmp_path):
    for number in range(1, 4):
        image, label = arrays(number)
        save(tmp_path / f"images/patient_{number:04}.nii.gz", image[..., 0])
        save(tmp_path / f"labels/patient_{number:04}.nii.gz", label)
    layout = read_layout(tmp_path, ["T1"], LABELS)
    assert [case.name for case in layout.cases] == ["patient_0001", "patient_0002", "patient_0003"]
    assert all(len(case.images) == 1 for case in layout.cases)
    for path in (tmp_path / "labels").iterdir():
        path.rename(path.with_name(f"{path.name.split('.')[0]}_seg.nii.gz"))
    layout = read_layout(tmp_path, ["T1"], LABELS)
    with pytest.raises(volumes.ChannelError, match=r"Is patient_0003\.nii\.gz a case of its own.*needs? that name"):
        TaskReader(task(layout)).check_header(layout.cases[0], Limits())


@pytest.mark.parametrize("name", ["channels", "labels"])
def test_a_text_is_no_list_of_names(tmp_path, name):
    write_plain(tmp_path)
    with pytest.raises(LayoutError, match=rf"{name}: expected a list of names, such as \['CT'\]"):
        read_layout(tmp_path, **{**PLAIN, name: "CT"})


@pytest.mark.parametrize("label", ["labelsTr/..nii.gz", "labelsTr/...nii.gz"])
def test_a_case_whose_name_stands_for_a_folder_is_refused(folder, tmp_path, label):
    copy = shutil.copytree(folder, tmp_path / "copy")
    change(training=[{"image": "imagesTr/case_0.nii.gz", "label": label}])(copy)
    with pytest.raises(volumes.FileNameError, match="a name that stands for a folder"):
        read_layout(copy)
    store = Target(Grid(), BlockGrid(), str(tmp_path / "store"), TaskReader(task(read_layout(folder))))
    for name in (".", "..", "", "a/b"):
        with pytest.raises(ValueError, match="expected the name of a folder"):
            convert(dataclasses.replace(read_layout(folder).cases[0], name=name), store)


def test_the_fingerprint_gives_median_spacing_and_the_intensities_of_the_labelled_voxels(folder, tmp_path):
    layout = read_layout(folder)
    found = fingerprint(layout.cases, task(layout), tmp_path)
    assert (found.spacing, found.labels, found.cut_away) == ((1.5, 1.5, 3.0), (0, 1, 2, 3), (False, False))
    values = np.concatenate([image[label > 0] for image, label in map(arrays, range(4))])
    for channel in range(2):
        low, high, mean, deviation = found.intensities[channel]
        assert (low, high) == pytest.approx(np.percentile(values[:, channel], (0.5, 99.5)).tolist(), rel=1e-4)
        assert (mean, deviation) == pytest.approx((values[:, channel].mean(), values[:, channel].std()), rel=1e-4)


def test_a_spacing_resamples_every_case_to_it(folder, tmp_path):
    config = decathlon.configure(folder, tmp_path, spacing=(3.0, 1.5, 3.0), normalisation="percentiles")
    assert str(config.grid) == "3x1.5x3mm" and config.name == "toy-percentiles-3x1.5x3mm"
    reader = TaskReader(config.task)
    images, labels = reader.read(read_layout(folder).cases[2], Limits())
    made = reader.resample(images, labels, config.task.target(images[0]))
    assert made.image.shape == (6, 12, 10, 2) and set(np.unique(made.label)) <= {0, 1, 2, 3}
    assert all(isinstance(c.normalisation, Percentiles) for c in config.task.channels)


def test_ct_gets_percentiles_or_the_window_asked_for(tmp_path):
    for number in range(3):
        image, label = arrays(number)
        save(tmp_path / f"images/a{number}.nii.gz", (3 * image[..., 0] - 500).astype(np.int16))
        save(tmp_path / f"labels/a{number}.nii.gz", label)
    (channel,) = decathlon.configure(tmp_path, tmp_path / "data", channels=["CT"]).task.channels
    assert isinstance(channel.normalisation, Percentiles)
    config = decathlon.configure(tmp_path, tmp_path / "data", channels=["CT"], normalisation=(-100, 300))
    assert config.task.channels[0].normalisation == Window(-100, 300)
    assert config.task.labels == ("background", "label 1", "label 2", "label 3")


@pytest.mark.parametrize("blocks", [(1, 1, 1), (2, 1, 1)], ids=str)
def test_tfds_reads_what_was_built_by_its_name_however_it_is_stored(folder, tmp_path, blocks):
    """The configuration is none that the builder lists; the examples are volumes, whatever the blocks."""
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


# ---- what is wrong with a folder


def change(**fields):
    def edit(folder):
        path = folder / "dataset.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return edit


@pytest.mark.parametrize(
    "edit, error, message",
    [
        (lambda f: (f / "dataset.json").write_text("{"), LayoutError, "dataset.json: cannot be read"),
        (lambda f: (f / "dataset.json").write_text("[]"), LayoutError, "expected an object. Received: list"),
        (change(labels={"0": "background", "2": "core"}), LayoutError, "labels: expected names .* without a gap"),
        (change(labels={"0": "a", "1": "a"}), LayoutError, "labels: expected names"),
        (change(modality={}), LayoutError, "modality: expected names"),
        (change(training=[{"image": "a"}]), LayoutError, "training: expected a list"),
        (change(training=[{"image": "/etc/a.nii", "label": "b.nii"}]), LayoutError, "expected files inside"),
        (change(training=[{"image": "../a.nii", "label": "b.nii"}]), LayoutError, "expected files inside"),
        (change(training=[]), faults.NoCasesError, "no case found"),
        (change(training=[{"image": "a.nii", "label": "b.nii"}] * 2), faults.DuplicateCaseError, "b is listed twice"),
        (change(channel_names={"0": "T1"}, labels={"a": [1, 2]}), LayoutError, "regions .* not supported"),
        (change(channel_names={"0": "T1"}, labels={"a": 0, "ignore": 1}), LayoutError, "ignore label"),
        (change(channel_names={"0": "T1"}, labels={"a": 0, "b": 0}), LayoutError, "two names have one number"),
        (lambda f: (f / "dataset.json").unlink(), faults.NoCasesError, "expected dataset.json"),
        (shutil.rmtree, faults.NoCasesError, "no such folder"),
    ],
)
def test_a_folder_that_is_no_data_set_is_named(folder, tmp_path, edit, error, message):
    copy = shutil.copytree(folder, tmp_path / "copy")
    edit(copy)
    with pytest.raises(error, match=message):
        read_layout(copy)


def test_a_plain_folder_has_to_name_its_channels(tmp_path):
    write_plain(tmp_path, 1)
    with pytest.raises(LayoutError, match="Pass channels="):
        read_layout(tmp_path)


# ---- what is wrong with a case: named, and in the quarantine


def strange_label(folder):
    label = arrays(1)[1]
    label[0, 0, 0] = 7
    save(folder / "labels/case_1.nii.gz", label)


def crop_channel(folder):
    save(folder / "images/case_1_0001.nii.gz", arrays(1)[0][:-1, ..., 1])


def shift_channel(folder):
    affine = AFFINE.copy()
    affine[0, 3] = 40
    save(folder / "images/case_1_0001.nii.gz", arrays(1)[0][..., 1], affine)


def time_axis(folder):
    save(folder / "images/case_1_0001.nii.gz", arrays(1)[0])


BAD = {
    "label": (strange_label, "LabelValueError", "labels 0 (background), 1 (core), 2 (rim) and 3 (tail). Received: [0"),
    "grid": (crop_channel, "ChannelError", "case_1_0001.nii.gz: expected the shape of case_1_0000.nii.gz"),
    "place": (shift_channel, "ChannelError", "lies up to 40.0 mm away from case_1_0000"),
    "4D": (time_axis, "DimensionError", "expected a three-dimensional image"),
    "no channel": (lambda f: (f / "images/case_1_0001.nii.gz").unlink(), "MissingPairError", "has no channel 1"),
    "no label": (lambda f: (f / "labels/case_1.nii.gz").unlink(), "MissingPairError", "has no labels"),
    "one more": (
        lambda f: save(f / "images/case_1_0002.nii.gz", arrays(1)[0][..., 0]), "ChannelError", "Received: 3 files",
    ),
    "damaged": (
        lambda f: (f / "images/case_1_0000.nii.gz").write_bytes(b"no"), "UnreadableVolumeError", "case_1_0000",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_case_is_named(tmp_path, fault):
    edit, error, message = BAD[fault]
    write_plain(tmp_path, 2)
    edit(tmp_path)
    layout = read_layout(tmp_path, **PLAIN)
    assert len(layout.cases) == 2
    with pytest.raises(volumes.VolumeError) as raised:
        TaskReader(task(layout)).read(layout.cases[1], Limits())
    assert type(raised.value).__name__ == error and message in str(raised.value)


def test_bad_cases_are_left_out_and_listed_and_no_other_is_lost(tmp_path):
    write_plain(tmp_path, 6)
    strange_label(tmp_path)
    (tmp_path / "labels/case_3.nii.gz").unlink()
    builder = decathlon.prepare(tmp_path, tmp_path / "data", on_bad_case="skip", **PLAIN)
    assert {b["case"]: b["error"] for b in builder.info.metadata["bad_cases"]} == {
        "case_1": "LabelValueError", "case_3": "MissingPairError",
    }  # fmt: skip
    kept = [name for names in builder.info.metadata["cases"].values() for name in names]
    assert sorted(kept) == ["case_0", "case_2", "case_4", "case_5"]
    # What the headers tell ends a build at once, before hours of conversion.
    with pytest.raises(faults.MissingPairError, match=r"case_3\.nii\.gz: case case_3 has no labels"):
        decathlon.prepare(tmp_path, tmp_path / "data", **PLAIN)


def test_a_second_component_in_an_nrrd_file_is_refused(tmp_path):
    path = tmp_path / "a.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 4, 4, 2), np.float32), isVector=True), str(path))
    with pytest.raises(volumes.DimensionError, match="give each channel its own file"):
        volumes.read_volume(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(volumes.UnreadableVolumeError, match=r"a\.nrrd: not a"):
        volumes.read_volume(path)


@pytest.mark.skipif(not HIPPOCAMPUS.is_dir(), reason=f"no data at {HIPPOCAMPUS}; set KERAS_SPATIAL_HIPPOCAMPUS")
def test_the_hippocampus_of_the_decathlon_is_read_as_it_is(tmp_path):
    layout = read_layout(HIPPOCAMPUS)
    assert (layout.name, layout.channels, len(layout.cases)) == ("Hippocampus", ("MRI",), 200)
    images, labels = TaskReader(task(layout)).read(layout.cases[0], Limits())
    assert images[0].array.shape == labels.array.shape and set(np.unique(labels.array)) == {0, 1, 2}
