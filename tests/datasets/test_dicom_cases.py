"""DICOM series as images of a data set: folders take the place of files, and no patient's name leaks."""

import json
import logging
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import from_matvec
from volumes.dicom_files import SECRET, SHAPE, hounsfield, write_series

from datasets import decathlon
from datasets.cases import Case, without_names
from datasets.sources import Digests, digest, identity
from keras_spatial.data import Box, Store
from keras_spatial.volumes import read_volume, write_dicom_segmentation
from keras_spatial.volumes.pseudonyms import pseudonym

GIVEN = {"channels": ["CT"], "labels": ["background", "bone"], "intensities": (-1000, 1000)}


def truth(number):
    label = np.zeros(SHAPE, np.uint8)
    label[2:8, 3:7, 2 : 4 + number % 2] = 1
    return label


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three series: labels in the order of the slices, turned as dcm2niix does, and as a DICOM segmentation."""
    folder = tmp_path_factory.mktemp("study")
    for number in range(3):
        name = f"{SECRET}^{number}"
        series = write_series(folder / f"images/{name}", hounsfield(seed=number), series=f"1.2.{number}")
        like = read_volume(series)
        (folder / "labels").mkdir(exist_ok=True)
        if number == 2:
            write_dicom_segmentation(folder / f"labels/{name}.dcm", truth(number), like, classes=["background", "bone"])
            continue
        label, affine = truth(number), like.affine
        if number == 1:
            label, affine = label[:, ::-1], affine @ from_matvec(np.diag([1, -1, 1]), [0, SHAPE[1] - 1, 0])
        nib.save(nib.Nifti1Image(label, affine), folder / f"labels/{name}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def built(folder, tmp_path_factory):
    return decathlon.prepare(folder, tmp_path_factory.mktemp("data"), **GIVEN)


def test_series_are_cases_with_labels_however_these_are_turned(built):
    names = [pseudonym(f"{SECRET}^{number}") for number in range(3)]
    assert sorted(name for cases in built.info.metadata["cases"].values() for name in cases) == sorted(names)
    for split, (name,) in built.info.metadata["cases"].items():
        number = names.index(name)
        image, label = Store(built, split).read(0, Box((0, 0, 0), SHAPE))
        # The series runs to the left and to the back, the data set to the right and to the front.
        np.testing.assert_array_equal(label, truth(number)[::-1, ::-1])
        expected = hounsfield(seed=number)[::-1, ::-1] / 2000 + 0.5
        np.testing.assert_allclose(image[..., 0], np.clip(expected, 0, 1), atol=1e-3)


def test_the_name_of_a_folder_does_not_come_out(built, folder, caplog, capsys):
    caplog.set_level(logging.DEBUG)
    again = decathlon.prepare(folder, built.data_path.parents[2], **GIVEN)
    assert SECRET not in json.dumps(dict(again.info.metadata))
    assert SECRET not in caplog.text + "".join(capsys.readouterr())
    for path in Path(built.data_path).parents[2].rglob("*"):
        assert SECRET not in str(path) and not (path.is_file() and SECRET.encode() in path.read_bytes())


DAMAGES = {
    "no labels": (lambda f, n: (f / f"labels/{n}.nii.gz").unlink(), "MissingPairError"),
    "labels in a folder": (
        lambda f, n: ((f / f"labels/{n}.nii.gz").unlink(), (f / f"labels/{n}").mkdir()), "MissingPairError"
    ),
    "no series": (lambda f, n: shutil.rmtree(f / f"images/{n}"), "MissingPairError"),
    "a slice missing": (lambda f, n: (f / f"images/{n}/{SECRET}002.dcm").unlink(), "SliceError"),
    "no slices": (lambda f, n: [p.unlink() for p in (f / f"images/{n}").iterdir()], "UnreadableVolumeError"),
    "two series": (lambda f, n: write_series(f / f"images/{n}/more", series="1.2.99"), "SeriesError"),
    "a slice twice": (
        lambda f, n: shutil.copy(f / f"images/{n}/{SECRET}000.dcm", f / f"images/{n}/x.dcm"), "SliceError"
    ),
    "labels elsewhere": (
        lambda f, n: nib.save(nib.Nifti1Image(truth(0), np.eye(4)), f / f"labels/{n}.nii.gz"), "AffineError"
    ),
}  # fmt: skip


def test_what_is_wrong_with_a_series_is_listed_and_no_case_is_lost(folder, tmp_path):
    source = shutil.copytree(folder, tmp_path / "source")
    for name, (damage, _) in DAMAGES.items():
        shutil.copytree(source / f"images/{SECRET}^0", source / f"images/{SECRET} {name}")
        shutil.copy(source / f"labels/{SECRET}^0.nii.gz", source / f"labels/{SECRET} {name}.nii.gz")
        damage(source, f"{SECRET} {name}")
    builder = decathlon.prepare(source, tmp_path / "data", on_bad_case="skip", **GIVEN)
    bad = {case["case"]: case for case in builder.info.metadata["bad_cases"]}
    expected = {pseudonym(f"{SECRET} {name}"): error for name, (_, error) in DAMAGES.items()}
    assert {name: case["error"] for name, case in bad.items()} == expected
    assert not any(SECRET in case["reason"] for case in bad.values())
    assert "Received: a folder. If there is a DICOM" in bad[pseudonym(f"{SECRET} labels in a folder")]["reason"]
    assert sum(map(len, builder.info.metadata["cases"].values())) == 3


def test_an_edit_of_one_slice_is_seen(folder, tmp_path):
    source = shutil.copytree(folder / f"images/{SECRET}^0", tmp_path / "source")
    before, known = digest(source), identity(source)
    path = sorted(source.iterdir())[3]
    path.rename(source / "other.dcm")
    assert digest(source) == before and identity(source) != known
    content = bytearray((source / "other.dcm").read_bytes())
    content[-1] ^= 1
    (source / "other.dcm").write_bytes(content)
    assert digest(source) != before
    assert Digests(tmp_path / "cache.json")[source] == digest(source)


def test_names_are_replaced_where_they_are_words_and_nowhere_else(folder):
    case = Case("1", (folder / "images/MAY",), folder / "labels/MAY.nii.gz")
    text = f"{folder}/images/MAY: slices of MAY lie apart, MAYBE one is missing; see MAY.nii.gz"
    shown = without_names(case, text)
    assert "MAYBE one is missing" in shown
    assert "MAY:" not in shown and "of MAY" not in shown and "MAY.nii" not in shown
    letter = Case("1", (folder / "images/a",), folder / "labels/a.nii.gz")
    assert without_names(letter, "a slice is missing") == "a slice is missing"
