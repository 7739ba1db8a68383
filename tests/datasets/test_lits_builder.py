"""The LiTS data set, built with Beam: whole and in blocks, resumed, with bad cases, and on the real CT."""

import gzip
import hashlib
import json
import os
import re
import shutil
import threading
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tensorflow_datasets as tfds

from datasets import case_builder, lits, phantom
from datasets import cases as faults
from datasets.blocks import BlockGrid
from datasets.conversion import Target, convert, find
from datasets.lits import cases, conversion
from datasets.lits.conversion import LitsReader
from datasets.lits.lits_dataset_builder import Builder, LitsConfig
from datasets.locking import exclusive
from keras_spatial import ownership, volumes
from keras_spatial.data import StoreError
from keras_spatial.data.packing import PackedTensor
from keras_spatial.ownership import NoLocks
from keras_spatial.volumes import (
    Grid,
    Limits,
    SpacingError,
    Task,
    Window,
    components,
    hu_window,
    read_volume,
    resampled_affine,
    to_canonical,
)

ROOT = Path(__file__).parents[2]
REAL_CT = Path(os.environ.get("KERAS_SPATIAL_REAL_CT", ROOT.parent / "shared/data/real_ct"))


class LitsTest(tfds.testing.DatasetBuilderTestCase):
    """TFDS's own tests of a builder, on three phantoms with 16 voxels along each axis."""

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


def test_another_window_is_that_of_images_and_task(whole, folder, tmp_path):
    builder = lits.prepare(folder, tmp_path, 16, window=(-160, 240))
    assert builder.config.name == "16-hu-160to240"
    assert builder.target(volumes.Limits()).folder != whole.target(volumes.Limits()).folder
    task = Task.of(builder.info.metadata["task"])
    assert task.channels[0].intensities == Window(-160, 240)
    for ours, paper in zip(examples(builder, "test"), examples(whole, "test"), strict=True):
        hu = 1024 * paper["image"] - 512
        inside = (hu > -512) & (hu < 512)
        expected = np.clip((hu + 160) / 400, 0, 1)
        # Both are stored as float16.
        np.testing.assert_allclose(ours["image"][inside], expected[inside], atol=1e-3)
        assert ours["checksum"] == paper["checksum"]


@pytest.mark.parametrize("blocks", [(2, 2, 1), (1, 4, 2)], ids=str)
def test_blocks_give_the_whole_volumes(whole, folder, tmp_path, blocks):
    builder = lits.prepare(folder, tmp_path, 16, blocks)
    assert list(builder.info.splits) == ["train", "validation", "test"]
    for split in ("train", "validation", "test[:1]"):
        for ours, theirs in zip(examples(builder, split), examples(whole, split), strict=True):
            np.testing.assert_array_equal(ours["image"], theirs["image"])
            np.testing.assert_array_equal(ours["label"], theirs["label"])
    batch, labels = next(iter(builder.as_dataset("train", as_supervised=True, batch_size=2)))
    assert (batch.shape, labels.shape) == ((2, 16, 16, 16, 1), (2, 16, 16, 16))


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
    with pytest.raises(faults.LabelValueError, match=r"segmentation-1\.nii\.gz"):
        lits.prepare(source, data, 16)
    break_case(source, 2)
    with pytest.raises(faults.BadCasesError, match=r"(?s)volume-1: LabelValueError.*volume-2: LabelValueError"):
        lits.prepare(source, data, 16)
    assert not list(data.glob("lits/16/*/dataset_info.json"))

    read = []
    real = conversion.read_case
    monkeypatch.setattr(conversion, "read_case", lambda case, limits: read.append(case.number) or real(case, limits))
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


def correct_in_place(folder, number):
    """Change one label without changing the file's size, as an editor of uncompressed labels does."""
    path = folder / f"segmentation-{number}.nii"
    content = bytearray(path.read_bytes())
    content[-1] = 1
    path.write_bytes(content)


@pytest.fixture
def uncompressed(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / "source" / path.stem).parent.mkdir(exist_ok=True)
        (tmp_path / "source" / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    return tmp_path / "source"


def test_labels_corrected_in_place_are_never_taken_for_the_old_ones(uncompressed, tmp_path):
    path = uncompressed / "segmentation-0.nii"
    old, size = lits.prepare(uncompressed, tmp_path / "data", 16), path.stat().st_size
    before = examples(old, "train")[0]["label"]
    correct_in_place(uncompressed, 0)
    assert path.stat().st_size == size
    with pytest.raises(lits.OtherSourcesError, match=r"on_other_sources=\"rebuild\".*\['volume-0'\]"):
        lits.prepare(uncompressed, tmp_path / "data", 16)
    new = lits.prepare(uncompressed, tmp_path / "data", 16, on_other_sources="rebuild")
    after = examples(new, "train")[0]["label"]
    assert before[-1, -1, -1] == 0 or before.sum() != after.sum()
    assert new.info.metadata["sources"]["volume-0"][1] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert lits.prepare(uncompressed, tmp_path / "data", 16).info.metadata == new.info.metadata


def test_the_digests_of_files_that_have_not_changed_are_not_computed_again(folder, whole, tmp_path, monkeypatch):
    lits.prepare(folder, tmp_path, 16)
    later = time.time_ns() + 10**10
    monkeypatch.setattr("datasets.sources.time.time_ns", lambda: later)
    lits.prepare(folder, tmp_path, 16)
    monkeypatch.setattr("datasets.sources.digest", lambda path: pytest.fail(f"{path} was read again"))
    lits.prepare(folder, tmp_path, 16)


def rewrite_header(path, **fields):
    image = nib.load(path)
    data = bytearray(gzip.decompress(path.read_bytes()))
    block = np.frombuffer(bytes(data[:348]), image.header_class.template_dtype).copy()
    for name, value in fields.items():
        block[name][0] = value
    path.write_bytes(gzip.compress(block.tobytes() + bytes(data[348:])))


MICROMETRES = {"sform_code": 0, "qform_code": 0, "xyzt_units": 0, "pixdim": [1, 9e3, 9e3, 9e3, 0, 0, 0, 0]}
ZERO = {**MICROMETRES, "pixdim": [1, 0, 0, 0, 0, 0, 0, 0]}


@pytest.mark.parametrize("fields", [MICROMETRES, ZERO], ids=["micrometres", "zero"])
def test_spacing_that_no_scanner_has_leaves_out_the_case_and_not_the_build(folder, tmp_path, fields):
    source = shutil.copytree(folder, tmp_path / "source")
    for part in ("volume", "segmentation"):
        rewrite_header(source / f"{part}-1.nii.gz", **fields)
    builder = lits.prepare(source, tmp_path / "data", None, spacing=15.0, on_bad_case="skip")
    (bad,) = builder.info.metadata["bad_cases"]
    assert (bad["case"], bad["error"]) == ("volume-1", "SpacingError")
    with pytest.raises(SpacingError, match=r"volume-1\.nii\.gz"):
        lits.prepare(source, tmp_path / "data", None, spacing=15.0)


def test_a_grid_that_is_too_large_is_refused_before_it_is_allocated(folder, tmp_path):
    limits = Limits(grid_voxels=100_000)
    with pytest.raises(faults.BadCasesError, match=r"volume-0: LimitError.*at most 100000 voxels.*0\.1mm"):
        lits.prepare(folder, tmp_path, None, spacing=0.1, limits=limits)


def test_values_of_0_to_1_are_refused_and_can_be_accepted(folder, tmp_path):
    source = shutil.copytree(folder, tmp_path / "source")
    path = source / "volume-1.nii.gz"
    image = nib.load(path)
    scaled = hu_window(image.get_fdata())
    nib.save(nib.Nifti1Image(scaled / scaled.max(), image.affine), path)
    with pytest.raises(volumes.IntensityError, match=r"volume-1\.nii\.gz: .*Received: 0 to .*hounsfield=False\)"):
        lits.prepare(source, tmp_path / "data", 16)
    builder = lits.prepare(source, tmp_path / "data", 16, limits=Limits(hounsfield=False))
    assert builder.info.metadata["bad_cases"] == []


@pytest.mark.parametrize(
    ("fault", "name"), [(MemoryError("1.1 TiB"), "CaseTooLargeError"), (ZeroDivisionError("x"), "UnusableCaseError")]
)
def test_no_fault_of_one_case_ends_a_build_that_skips_bad_cases(folder, tmp_path, monkeypatch, fault, name):
    real = conversion.whole_hounsfield

    def fail(array, shape):
        if array.shape == failing:
            raise fault
        return real(array, shape)

    source = shutil.copytree(folder, tmp_path / "source")
    for part in ("volume", "segmentation"):
        image = nib.load(source / f"{part}-1.nii.gz")
        nib.save(image.slicer[:, :, 1:], source / f"{part}-1.nii.gz")
    failing = to_canonical(read_volume(source / "volume-1.nii.gz")).array.shape
    monkeypatch.setattr(conversion, "whole_hounsfield", fail)
    builder = lits.prepare(source, tmp_path / "data", 16, on_bad_case="skip")
    (bad,) = builder.info.metadata["bad_cases"]
    assert (bad["case"], bad["error"]) == ("volume-1", name)


def test_a_case_that_changes_while_it_is_read_is_bad(folder, tmp_path, monkeypatch):
    source = shutil.copytree(folder, tmp_path / "source")
    real = conversion.read_case

    def edit(case, limits):
        found = real(case, limits)
        if case.number == 1:
            case.segmentation.touch()
        return found

    monkeypatch.setattr(conversion, "read_case", edit)
    with pytest.raises(faults.ChangedCaseError, match="written while it was read"):
        lits.prepare(source, tmp_path / "data", 16)


def test_too_few_cases_for_the_folds_are_refused_before_a_case_is_converted(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(conversion, "read_case", lambda *a: pytest.fail("converted"))
    with pytest.raises(ValueError, match="Received: 4 cases, 5 folds"):
        lits.prepare(folder, tmp_path, 16, split="fold-0-of-5")


def test_a_case_that_was_converted_under_other_limits_is_checked_again(folder, tmp_path):
    case = cases.find_cases(folder)[0]
    loose = Target(Grid(16), BlockGrid(), str(tmp_path), LitsReader(), Limits(hounsfield=False))
    convert(case, loose)
    assert find(case, loose) is not None
    assert find(case, Target(Grid(16), BlockGrid(), str(tmp_path), LitsReader(), Limits())) is None


@pytest.mark.parametrize("damage", ["facts.json", "blocks.bin"])
def test_a_converted_case_that_is_damaged_is_converted_again(folder, tmp_path, damage):
    case = cases.find_cases(folder)[0]
    target = Target(Grid(16), BlockGrid(), str(tmp_path), LitsReader())
    whole = convert(case, target)
    path = whole.folder / damage
    path.write_bytes(path.read_bytes()[:-9])
    assert find(case, target) is None
    again = convert(case, target)
    assert find(case, target).facts == again.facts == json.loads(json.dumps(whole.facts))


@pytest.mark.parametrize("name", ["metadata.json", "dataset_info.json", "features.json"])
@pytest.mark.parametrize("content", [None, b"", b'{"a'])
def test_a_damaged_data_set_is_named(folder, whole, tmp_path, name, content):
    target = tmp_path / "lits" / whole.builder_config.name / str(whole.version)
    shutil.copytree(whole.data_dir, target)
    (target / name).unlink()
    if content is not None:
        (target / name).write_bytes(content)
    with pytest.raises(StoreError, match=rf"{target}.*build it again"):
        lits.prepare(folder, tmp_path, 16)


def test_two_builders_in_one_folder_do_not_meet(folder, tmp_path):
    (tmp_path / "lits").mkdir()
    with (
        exclusive(tmp_path / "lits" / ".lock-16-blocks-1x1x1"),
        pytest.raises(lits.BuildInProgressError, match="another"),
    ):
        lits.prepare(folder, tmp_path, 16)
    assert lits.prepare(folder, tmp_path, 16).info.splits


def test_a_lost_pod_that_goes_on_and_its_successor_do_not_convert_into_one_folder(folder, tmp_path, monkeypatch):
    """Each has a disk of its own for the data set; the converted cases lie on a volume that both have mounted."""
    monkeypatch.setattr(case_builder, "LOST_SECONDS", 0.1)
    real, refused = case_builder.convert, []
    message = r"another process .* give another work folder\. If the machine .* known to be lost, remove .*/\.lock-\S+ "

    def meanwhile(case, target):
        with pytest.raises(lits.BuildInProgressError, match=message) as error:
            lits.prepare(folder, tmp_path / "second", 16, work=tmp_path / "work")
        refused.append(error)
        return real(case, target)

    monkeypatch.setattr(case_builder, "convert", meanwhile)
    lits.prepare(folder, tmp_path / "first", 16, work=tmp_path / "work")
    assert len(refused) == 4
    monkeypatch.setattr(case_builder, "convert", real)
    monkeypatch.setattr(conversion, "read_case", lambda *_: pytest.fail("converted again"))
    assert lits.prepare(folder, tmp_path / "second", 16, work=tmp_path / "work").info.splits


def test_a_lock_that_outlives_its_machine_on_the_volume_is_waited_for(tmp_path, caplog):
    """As a network file system does until the lease of the lost machine has expired."""
    builder = Builder(config="64", data_dir=str(tmp_path / "data"))
    work = builder.work = tmp_path / "work"
    work.mkdir()
    held = ownership.lock(work / f".lock-{builder._converted_name}")
    release = threading.Timer(0.5, os.close, [held])
    release.start()
    with builder.ownership():
        release.join()
    [waits] = [record.getMessage() for record in caplog.records if "waiting" in record.getMessage()]
    assert re.search(rf"/work/\.lock-\S+ is held by process {os.getpid()} of .*; waiting up to 120 s", waits)


def test_converted_cases_do_not_stay_if_another_process_builds_the_data_set_meanwhile(folder, tmp_path, monkeypatch):
    """That one cannot remove them, because the process that waited for it holds the locks by then."""
    real, calls = lits.Builder.find_cases, []

    def find_cases(self, place):
        calls.append(place)
        if len(calls) == 1:
            with monkeypatch.context() as locked:
                locked.setattr("datasets.preparing._remove_converted", lambda builder: None)
                lits.prepare(folder, tmp_path / "data", 16)
        return real(self, place)

    monkeypatch.setattr(lits.Builder, "find_cases", find_cases)
    builder = lits.prepare(folder, tmp_path / "data", 16)
    assert builder.info.splits["train"].num_examples and len(calls) > 2
    assert not list(tmp_path.glob("data/lits/converted/*"))


def test_a_volume_for_converted_cases_that_has_no_locks_is_warned_of(folder, tmp_path, monkeypatch):
    def without(lock, *given, **named):
        if lock.parent == tmp_path / "work":
            raise NoLocks(38, "lies on a file system that does not support locks", str(lock))
        return exclusive(lock, *given, **named)

    monkeypatch.setattr(case_builder, "exclusive", without)
    with pytest.warns(UserWarning, match="not support locks.*Nothing prevents another process from converting"):
        assert lits.prepare(folder, tmp_path / "data", 16, work=tmp_path / "work").info.splits


def test_names_that_are_not_utf8_are_refused(folder, tmp_path):
    with pytest.raises(volumes.FileNameError, match=r"\\xff"):
        lits.prepare(folder, tmp_path / "a\udcff", 16)
    shutil.copytree(folder, tmp_path / "source" / "a\udcff")
    for name in ("source", "source/a\udcff"):
        with pytest.raises(volumes.FileNameError, match=r"\\xff"):
            lits.prepare(tmp_path / name, tmp_path / "data", 16)


def test_tfds_own_command_is_told_who_builds_at_a_url(tmp_path):
    builder = Builder(config="64", data_dir=str(tmp_path))
    builder.home = "gs://bucket/lits"
    with pytest.raises(ValueError, match=r"gs://bucket/lits: expected a folder of the file system.*prepare take one"):
        builder._generate_splits(None, tfds.download.DownloadConfig())


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"resolution": 4}, "resolution: .*Received: 4"),
        ({"resolution": 64, "spacing": 1.0}, "Received: resolution=64, spacing=1.0"),
        ({"resolution": 64, "blocks": (3, 1, 1)}, "divisors of the resolution 64"),
        ({"blocks": (0, 1, 1)}, "blocks: "),
        ({"split": "fold-9"}, "'fold-9'"),
        ({"on_bad_case": "ignore"}, "'ignore'"),
        ({"window": (240, -160)}, "low below high. Received: low=240"),
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
        target = Target(Grid(resolution=32), BlockGrid(2, 1, 1), str(tmp_path / "store"), LitsReader())
        _, packed = convert(case, target).packed()
        label = PackedTensor(shape=(32,) * 3, dtype=np.uint8, stored=np.uint8, blocks=(2, 1, 1)).decode_stored(
            packed.data
        )
        lesions, count = components(to_canonical(read_volume(case.segmentation)).array == 2)
        fine = label.repeat(2, 0).repeat(2, 1).repeat(2, 2)
        assert set(lesions[fine == 2]) - {0} == set(range(1, count + 1))


@pytest.mark.skipif(not REAL_CT.is_dir(), reason=f"the real CT is not at {REAL_CT}; set KERAS_SPATIAL_REAL_CT")
def test_a_single_real_ct_builds_with_a_warning(tmp_path):
    builder = lits.prepare(REAL_CT, tmp_path, 32, (2, 2, 1))
    assert "is used for training, validation and test" in builder.info.metadata["warnings"][0]
    train, validation, test = (examples(builder, s)[0] for s in ("train", "validation", "test"))
    np.testing.assert_array_equal(train["image"], test["image"])
    np.testing.assert_array_equal(train["label"], validation["label"])
    # The liver is on the patient's right, which is the upper half of the first axis.
    assert np.mean(np.nonzero(train["label"] == 1)[0]) > 16
