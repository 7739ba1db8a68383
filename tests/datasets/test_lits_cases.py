"""Finding and checking cases: every fault of a file has a name, and no damaged file does worse than raise it."""

import gzip
import json
import re
import shutil

import nibabel as nib
import numpy as np
import pytest

from datasets import cases as faults
from datasets.decathlon.layout import LayoutError
from datasets.lits import cases as lits
from datasets.lits.cases import Case, check_case, check_header, find_cases, read_case
from datasets.phantom import write_lits_folder
from keras_spatial import volumes
from keras_spatial.volumes import VolumeError


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    write_lits_folder(folder, 1, size=(20, 18, 16))
    return folder


@pytest.fixture
def folder(good, tmp_path):
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    return tmp_path


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def rewrite(path, change):
    image = nib.load(path)
    array, affine = change(np.asarray(image.dataobj), image.affine.copy())
    nib.save(nib.Nifti1Image(array, affine), path)


def test_batches_and_both_endings_are_found_in_order(tmp_path):
    touch(tmp_path, "Batch 2/volume-10.nii", "Batch 2/segmentation-10.nii", "Batch 1/volume-2.nii.gz",
          "Batch 1/segmentation-2.nii.gz", "notes.nii", ".part-volume-3.nii.gz")  # fmt: skip
    assert [case.number for case in find_cases(tmp_path)] == [2, 10]


def test_batches_behind_links_are_found_once(tmp_path):
    touch(tmp_path, "mnt/volume-10.nii", "mnt/segmentation-10.nii", "lits/b1/volume-2.nii",
          "lits/b1/segmentation-2.nii")  # fmt: skip
    (tmp_path / "lits" / "b2").symlink_to(tmp_path / "mnt")
    (tmp_path / "lits" / "latest").symlink_to("b1")
    (tmp_path / "lits" / "b1" / "loop").symlink_to("..")
    assert [case.number for case in find_cases(tmp_path / "lits")] == [2, 10]


def test_the_decathlon_layout_is_found(tmp_path):
    touch(tmp_path, "Task03_Liver/imagesTr/liver_7.nii.gz", "Task03_Liver/labelsTr/liver_7.nii.gz",
          "Task03_Liver/imagesTs/liver_9.nii.gz", "Task03_Liver/imagesTr/._liver_7.nii.gz")  # fmt: skip
    (case,) = find_cases(tmp_path)
    assert (case.number, case.volume.parent.name, case.segmentation.parent.name) == (7, "imagesTr", "labelsTr")


def describe(folder, labels, channel="CT", training=()):
    (folder / "dataset.json").parent.mkdir(parents=True, exist_ok=True)
    listed = [{"image": f"imagesTr/{name}", "label": f"labelsTr/{name}"} for name in training]
    (folder / "dataset.json").write_text(
        json.dumps({"name": "x", "modality": {"0": channel}, "labels": labels, "training": listed})
    )


def test_the_decathlon_as_nnunet_has_it_is_found(tmp_path):
    touch(tmp_path, "imagesTr/liver_7_0000.nii.gz", "labelsTr/liver_7.nii.gz", "labelsTr/liver_8_0000.nii.gz")
    description = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "tumor": 2}}
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    (case,) = find_cases(tmp_path)
    assert (case.number, case.volume.name, case.segmentation.name) == (7, "liver_7_0000.nii.gz", "liver_7.nii.gz")


@pytest.mark.parametrize("place", ["", "Task99"])
@pytest.mark.parametrize(
    "labels, channel, fits",
    [
        (("background", "liver", "cancer"), "CT", True),
        (("background", "liver", "Liver Tumour"), "CT", True),
        (("background", "tumour", "portal vein"), "CT", False),
        (("background", "liver", "cancer", "portal vein"), "CT", False),
        (("background", "liver"), "CT", False),
        (("background", "liver", "cancer"), "MR", False),
    ],
)
def test_a_description_of_other_data_is_never_ignored(tmp_path, place, labels, channel, fits):
    touch(tmp_path / place, "imagesTr/liver_0.nii.gz", "labelsTr/liver_0.nii.gz")
    describe(tmp_path / place, {str(n): name for n, name in enumerate(labels)}, channel, ["liver_0.nii.gz"])
    if fits:
        assert len(find_cases(tmp_path)) == 1
    else:
        with pytest.raises(LayoutError, match=r"dataset\.json: expected the channel CT, and the labels"):
            find_cases(tmp_path)


@pytest.mark.parametrize(
    "names, error, message",
    [
        ([], faults.NoCasesError, "no case found"),
        (["a/volume-1.nii", "b/volume-1.nii.gz", "segmentation-1.nii"], faults.DuplicateCaseError, "case 1"),
    ],
)
def test_a_folder_without_whole_cases_is_an_error(tmp_path, names, error, message):
    touch(tmp_path, *names)
    with pytest.raises(error, match=message):
        find_cases(tmp_path)


@pytest.mark.parametrize(
    "names, missing, message",
    [
        (
            ["volume-1.nii", "volume-2.nii", "segmentation-2.nii"],
            "segmentation-1.nii",
            "volume-1.nii: case 1 has no seg",
        ),
        (["a/segmentation-1.nii.gz"], "a/volume-1.nii.gz", "segmentation-1.nii.gz: case 1 has no volume"),
        (["imagesTr/liver_1.nii"], "labelsTr/liver_1.nii", "liver_1.nii: case 1 has no segmentation"),
        (["labelsTr/liver_1.nii"], "imagesTr/liver_1.nii", "liver_1.nii: case 1 has no volume"),
    ],
)
def test_a_missing_file_is_the_fault_of_its_case_alone(tmp_path, names, missing, message):
    touch(tmp_path, *names)
    cases = find_cases(tmp_path)
    assert [case.number for case in cases] == [1, 2][: 1 + any("-2" in name for name in names)]
    assert tmp_path / missing in cases[0].files
    with pytest.raises(faults.MissingPairError, match=message):
        check_header(cases[0])


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(faults.NoCasesError, match="no such folder"):
        find_cases(tmp_path / "nowhere")


def crop(array, affine):
    return array[:-1], affine


def stack(array, affine):
    return np.stack([array, array], -1), affine


def label_three(array, affine):
    array[0, 0, 0] = 3
    return array, affine


def empty(array, affine):
    return np.zeros_like(array), affine


def shift(array, affine):
    affine[2, 3] += 70
    return array, affine


def flip(array, affine):
    affine[0] *= -1
    return array, affine


def not_a_number(array, affine):
    array = array.astype(np.float32)
    array[1, 2, 3] = np.nan
    return array, affine


def pixels(array, affine):
    return np.abs(array) + 1, affine


BAD = [
    ("segmentation", crop, faults.ShapeMismatchError),
    ("volume", stack, volumes.DimensionError),
    ("segmentation", stack, volumes.DimensionError),
    ("segmentation", label_three, faults.LabelValueError),
    ("segmentation", empty, lits.NoLiverError),
    ("segmentation", shift, faults.AffineMismatchError),
    ("segmentation", flip, faults.AffineMismatchError),
    ("volume", not_a_number, volumes.NonFiniteError),
    ("volume", pixels, volumes.IntensityError),
    ("volume", empty, volumes.IntensityError),
]


@pytest.mark.parametrize("part, change, error", BAD, ids=[f"{p}-{c.__name__}" for p, c, _ in BAD])
def test_a_bad_case_is_a_named_error_with_the_file(folder, part, change, error):
    path = folder / f"{part}-0.nii.gz"
    rewrite(path, change)
    with pytest.raises(error, match=re.escape(str(path))):
        check_case(folder / "volume-0.nii.gz", folder / "segmentation-0.nii.gz")


@pytest.mark.parametrize("change", [crop, stack])
def test_what_the_header_tells_is_found_without_reading_voxels(folder, change):
    rewrite(folder / "segmentation-0.nii.gz", change)
    with pytest.raises(VolumeError):
        check_header(find_cases(folder)[0])


def test_a_trailing_axis_of_one_is_dropped(folder):
    rewrite(folder / "volume-0.nii.gz", lambda array, affine: (array[..., None], affine))
    volume, labels = read_case(find_cases(folder)[0])
    assert volume.array.shape == labels.array.shape


def says_nothing(path):
    """Write a header that says nothing about the space, as in MIC-DKFZ/nnUNet#2751."""
    rewrite(path, lambda array, _: (array, np.array([[1.0, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1], [0, 0, 0, 1]])))


def says_nothing_in_itk(path):
    rewrite(path, lambda array, _: (array, np.diag([-1.0, -1.0, 1.0, 1.0])))


def has_no_code(path):
    image = nib.load(path)
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), path)


@pytest.mark.parametrize("change", [says_nothing, says_nothing_in_itk, has_no_code])
@pytest.mark.parametrize("number", [48, 53])
def test_in_the_known_cases_the_affine_of_the_volume_counts(folder, number, change):
    change(folder / "segmentation-0.nii.gz")
    volume, labels = read_case(Case(number, folder / "volume-0.nii.gz", folder / "segmentation-0.nii.gz"))
    np.testing.assert_array_equal(labels.affine, volume.affine)
    with pytest.raises(faults.AffineMismatchError):
        read_case(Case(54, folder / "volume-0.nii.gz", folder / "segmentation-0.nii.gz"))


@pytest.mark.parametrize("change", [shift, flip])
@pytest.mark.parametrize("number", [48, 50, 53])
def test_a_wrong_place_is_an_error_whatever_the_number_of_the_case(folder, number, change):
    rewrite(folder / "segmentation-0.nii.gz", change)
    with pytest.raises(faults.AffineMismatchError):
        read_case(Case(number, folder / "volume-0.nii.gz", folder / "segmentation-0.nii.gz"))


def damage(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """Write one damaged copy of a NIfTI file."""
    raw = bytearray(gzip.decompress(data))
    match kind:
        case "truncated gzip":
            return data[: int(rng.integers(0, len(data) - 1))]
        case "flipped bits in gzip":
            out = bytearray(data)
            out[int(rng.integers(10, len(out)))] ^= 1 << int(rng.integers(0, 8))
            return bytes(out)
        case "random bytes":
            return rng.bytes(int(rng.integers(1, 4000)))
        case "truncated":
            return bytes(raw[: int(rng.integers(0, len(raw) - 1))])
        case "sizes":
            raw[40:56] = rng.integers(-32768, 32768, 8).astype("<i2").tobytes()
        case "data type":
            raw[70:74] = rng.integers(3000, 32768, 2).astype("<i2").tobytes()
        case "magic":
            raw[344:348] = rng.bytes(4)
        case "offset":
            raw[108:112] = np.array([rng.choice([-1e9, 1e9, np.nan, np.inf, 1e30])], "<f4").tobytes()
        case "affine":
            raw[280:328] = np.full(12, rng.choice([np.nan, np.inf, 0.0]), "<f4").tobytes()
        case "scale":
            raw[112:120] = np.array([1e38, rng.choice([-1e38, 0.0])], "<f4").tobytes()
    return bytes(raw)


KINDS = ["truncated gzip", "flipped bits in gzip", "random bytes", "truncated", "sizes", "data type", "magic",
         "offset", "affine", "scale"]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_no_damaged_file_does_worse_than_a_named_error(good, tmp_path, kind):
    """Thirty files of each kind, 300 in all; damage to bytes that carry no meaning may leave the case as it was."""
    data = (good / "volume-0.nii.gz").read_bytes()
    truth, _ = read_case(find_cases(good)[0])
    rng = np.random.default_rng(KINDS.index(kind))
    errors = 0
    for _ in range(30):
        damaged = damage(data, kind, rng)
        path = tmp_path / ("volume-0.nii.gz" if damaged[:2] == b"\x1f\x8b" else "volume-0.nii")
        path.write_bytes(damaged)
        try:
            volume, _ = read_case(Case(0, path, good / "segmentation-0.nii.gz"))
        except VolumeError as error:
            assert type(error) is not VolumeError
            assert path.name in str(error) or "segmentation-0" in str(error)
            errors += 1
        else:
            np.testing.assert_array_equal(volume.array, truth.array)
    assert errors >= 25
