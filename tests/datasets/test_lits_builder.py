"""The LiTS data set, built with Beam: whole and in blocks, resumed, with bad cases, and on the real CT."""

import os
import shutil
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tensorflow_datasets as tfds

from datasets import lits, phantom
from datasets.blocks import BlockGrid
from datasets.lits import cases, conversion
from datasets.lits.conversion import Grid, Target, convert, resampled_affine
from datasets.lits.lits_dataset_builder import Builder, LitsConfig
from keras_spatial.volumes import components, read_volume, to_canonical

ROOT = Path(__file__).parents[2]
REAL_CT = Path(os.environ.get("KERAS_SPATIAL_REAL_CT", ROOT.parent / "shared/data/real_ct"))


class LitsTest(tfds.testing.DatasetBuilderTestCase):
    """The conventions of TFDS, on three phantoms of 16 voxels an axis."""

    DATASET_CLASS = Builder
    EXAMPLE_DIR = ROOT / "datasets/lits/dummy_data"
    BUILDER_CONFIG_NAMES_TO_TEST = ("64", "native")
    SPLITS = {"train": 1, "validation": 1, "test": 1}  # noqa: RUF012
    SKIP_TF1_GRAPH_MODE = True


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    phantom.write_lits_folder(folder, 4, size=(30, 28, 24))
    return folder


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    return lits.prepare(folder, tmp_path_factory.mktemp("whole"), 16)


def examples(builder, split):
    return list(builder.as_dataset(split).as_numpy_iterator())


def test_examples_have_the_promised_form(whole):
    (example,) = examples(whole, "test")
    assert (example["image"].shape, example["image"].dtype) == ((16, 16, 16, 1), np.float32)
    assert (example["label"].shape, example["label"].dtype) == ((16, 16, 16), np.uint8)
    assert 0 <= example["image"].min() < example["image"].max() <= 1
    assert set(np.unique(example["label"])) == {0, 1, 2}
    assert example["case"] == b"volume-3"
    assert len(example["checksum"]) == 64


def test_examples_map_back_to_the_patient(whole, folder):
    (example,) = examples(whole, "test")
    volume = to_canonical(read_volume(folder / "volume-3.nii.gz"))
    np.testing.assert_array_equal(example["original_shape"], volume.array.shape)
    np.testing.assert_allclose(example["spacing"] * 16, np.array(volume.spacing) * volume.array.shape, rtol=1e-5)
    # The centre of the field of view is the same point of the patient on both grids.
    ours = example["affine"] @ [7.5, 7.5, 7.5, 1]
    theirs = volume.affine @ [*((n - 1) / 2 for n in volume.array.shape), 1]
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_the_window_is_that_of_the_paper(whole, folder):
    native = to_canonical(read_volume(folder / "volume-3.nii.gz")).array
    (example,) = examples(whole, "test")
    assert example["image"].mean() == pytest.approx(np.clip(native / 1024 + 0.5, 0, 1).mean(), abs=0.02)


@pytest.mark.parametrize("blocks", [(2, 2, 1), (1, 4, 2)], ids=str)
def test_blocks_give_the_whole_volumes(whole, folder, tmp_path, blocks):
    builder = lits.prepare(folder, tmp_path, 16, blocks)
    assert len(builder.info.splits) == 3 * np.prod(blocks)
    for split in ("train", "validation", "test[:1]"):
        for ours, theirs in zip(examples(builder, split), examples(whole, split), strict=True):
            np.testing.assert_array_equal(ours["image"], theirs["image"])
            np.testing.assert_array_equal(ours["label"], theirs["label"])
    batch, labels = next(iter(builder.as_dataset("train", as_supervised=True, batch_size=2)))
    assert (batch.shape, labels.shape) == ((2, 16, 16, 16, 1), (2, 16, 16, 16))
    block = next(iter(builder.as_dataset("train_0_1_0")))
    assert tuple(block["label"].shape) == tuple(16 // n for n in blocks)
    with pytest.raises(ValueError, match="shuffle_files"):
        builder.as_dataset("train", shuffle_files=True)


def test_isotropic_and_native_grids(folder, tmp_path):
    native = lits.prepare(folder, tmp_path, None, blocks=(1, 3, 1))
    assert examples(native, "test")[0]["label"].shape == (30, 28, 24)
    (example,) = examples(lits.prepare(folder, tmp_path, None, spacing=15.0), "test")
    np.testing.assert_allclose(example["spacing"], 15, rtol=0.05)


def test_several_worker_processes_give_the_same(whole, folder, tmp_path):
    options = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]
    builder = lits.prepare(folder, tmp_path, 16, beam_options=options)
    for ours, theirs in zip(examples(builder, "train"), examples(whole, "train"), strict=True):
        np.testing.assert_array_equal(ours["image"], theirs["image"])


def break_case(folder, number):
    path = folder / f"segmentation-{number}.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) + np.uint8(5), image.affine), path)


def test_bad_cases_end_the_build_with_their_names_and_the_good_ones_are_kept(folder, tmp_path, monkeypatch):
    source, data = tmp_path / "source", tmp_path / "data"
    shutil.copytree(folder, source)
    break_case(source, 1)
    with pytest.raises(cases.LabelValueError, match=r"segmentation-1\.nii\.gz"):
        lits.prepare(source, data, 16)
    break_case(source, 2)
    with pytest.raises(cases.BadCasesError, match=r"(?s)volume-1: LabelValueError.*volume-2: LabelValueError"):
        lits.prepare(source, data, 16)
    assert not list(data.glob("lits/16/*/dataset_info.json"))

    read = []
    real = conversion.read_case
    monkeypatch.setattr(conversion, "read_case", lambda case: read.append(case.number) or real(case))
    for number in (1, 2):
        shutil.copy(folder / f"segmentation-{number}.nii.gz", source)
    builder = lits.prepare(source, data, 16)
    assert sorted(read) == [1, 2]
    assert len(examples(builder, "train")) == 2
    assert not list(data.glob("lits/converted/*/*"))


def test_bad_cases_can_be_left_out_and_are_listed(folder, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(folder, source)
    break_case(source, 1)
    (source / "volume-2.nii.gz").write_bytes((source / "volume-2.nii.gz").read_bytes()[:2000])
    phantom.write_lits_folder(tmp_path / "more", 5, size=16)
    for part in ("volume", "segmentation"):
        shutil.copy(tmp_path / f"more/{part}-4.nii.gz", source)
    builder = lits.prepare(source, tmp_path / "data", 16, on_bad_case="skip")
    assert builder.info.metadata["cases"] == {"train": [0], "validation": [3], "test": [4]}
    bad = {row["case"]: row["error"] for row in builder.info.metadata["bad_cases"]}
    assert bad == {"volume-1": "LabelValueError", "volume-2": "UnreadableVolumeError"}


def test_a_data_set_of_other_files_is_not_taken_for_this_one(folder, tmp_path):
    lits.prepare(folder, tmp_path / "data", 16)
    phantom.write_lits_folder(tmp_path / "other", 3, size=16)
    with pytest.raises(lits.OtherSourcesError, match="volume-0"):
        lits.prepare(tmp_path / "other", tmp_path / "data", 16)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"resolution": 4}, "resolution: .*Received: 4"),
        ({"resolution": 64, "spacing": 1.0}, "Received: resolution=64, spacing=1.0"),
        ({"resolution": 64, "blocks": (3, 1, 1)}, "divisors of the resolution 64"),
        ({"blocks": (0, 1, 1)}, "blocks: "),
        ({"split": "fold-9"}, "'fold-9'"),
        ({"on_bad_case": "ignore"}, "'ignore'"),
    ],
)
def test_wrong_configurations_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        LitsConfig(**arguments)


def test_the_resampled_affine_keeps_the_corners_of_the_field_of_view():
    affine = np.array([[2.0, 0, 0, 5], [0, 3, 0, -7], [0, 0, 4, 11], [0, 0, 0, 1]])
    coarse = resampled_affine(affine, (10, 20, 30), (5, 8, 40))
    np.testing.assert_allclose(affine @ [-0.5, -0.5, -0.5, 1], coarse @ [-0.5, -0.5, -0.5, 1])
    np.testing.assert_allclose(affine @ [9.5, 19.5, 29.5, 1], coarse @ [4.5, 7.5, 39.5, 1])


def test_every_lesion_survives_halving_the_resolution(tmp_path):
    phantom.write_lits_folder(tmp_path, 4, size=64, difficulty="hard")
    for case in cases.find_cases(tmp_path):
        _, packed = convert(case, Target(Grid(resolution=32), BlockGrid(), str(tmp_path / "store"))).block((0, 0, 0))
        label = np.frombuffer(zlib.decompress(packed.data), np.uint8).reshape(packed.shape)
        lesions, count = components(to_canonical(read_volume(case.segmentation)).array == 2)
        fine = label.repeat(2, 0).repeat(2, 1).repeat(2, 2)
        assert set(lesions[fine == 2]) - {0} == set(range(1, count + 1))


@pytest.mark.skipif(not REAL_CT.is_dir(), reason=f"the real CT is not at {REAL_CT}; set KERAS_SPATIAL_REAL_CT")
def test_a_single_real_ct_builds_with_a_warning(tmp_path):
    builder = lits.prepare(REAL_CT, tmp_path, 32, (2, 2, 1))
    assert "training, validation and test case at once" in builder.info.metadata["warnings"][0]
    train, validation, test = (examples(builder, s)[0] for s in ("train", "validation", "test"))
    np.testing.assert_array_equal(train["image"], test["image"])
    np.testing.assert_array_equal(train["label"], validation["label"])
    # The liver is on the patient's right, which is the upper half of the first axis.
    assert np.mean(np.nonzero(train["label"] == 1)[0]) > 16
