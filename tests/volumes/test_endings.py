"""All readers and writers share one list of file endings, in which case does not matter."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from datasets.decathlon.layout import read_layout
from datasets.decathlon.reader import TaskReader
from datasets.lits.cases import find_cases
from keras_spatial._paths import LABELS, VOLUMES, ending_of, partial, stem_of
from keras_spatial.volumes import Channel, Limits, Task, ZScore, read_volume, write_labels
from keras_spatial_command import main


def nifti(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    small = path.with_name(f"small{ending_of(path, VOLUMES)}")
    nib.save(nib.Nifti1Image(array, np.eye(4)), small)
    return small.rename(path)


@pytest.mark.parametrize(
    ("name", "ending", "stem"),
    [
        ("SCAN.NII.GZ", ".nii.gz", "SCAN"),
        ("a.b.Nii", ".nii", "a.b"),
        ("x.MHA", ".mha", "x"),
        ("x.nii.gz.bak", "", "x.nii.gz.bak"),
        ("nii.gz", "", "nii.gz"),
    ],
)
def test_endings_and_stems(name, ending, stem):
    assert ending_of(name, VOLUMES) == ending and stem_of(name, VOLUMES) == stem
    assert ending_of(Path("folder.nii") / name, LABELS) == ending


def test_what_is_written_has_an_ending_by_which_writers_know_the_format():
    assert partial(Path("OUT.NII.GZ")).name.endswith(".nii.gz")


@pytest.mark.parametrize("name", ["OUT.NII.GZ", "Out.Nii", "out.nii.gz"])
def test_labels_are_written_and_read_in_capitals(tmp_path, name):
    volume = read_volume(nifti(tmp_path / "SCAN.NII.GZ", np.zeros((3, 4, 5), np.int16)))
    labels = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    path = write_labels(tmp_path / "out" / name, labels, volume)
    assert [p.name for p in path.parent.iterdir()] == [name]
    np.testing.assert_array_equal(read_volume(path).array, labels)
    assert (path.read_bytes()[:2] == b"\x1f\x8b") == name.lower().endswith(".gz")


@pytest.mark.parametrize("name", ["SCAN.NRRD", "Scan.MHA"])
def test_itk_files_are_read_in_capitals(tmp_path, name):
    small = tmp_path / name.lower()
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((2, 3, 4), np.int16)), str(small))
    assert read_volume(small.rename(tmp_path / name)).array.shape == (4, 3, 2)


def test_data_sets_and_comparisons_find_files_in_capitals(tmp_path):
    labels = np.ones((3, 4, 5), np.uint8)
    for part in ("images", "labels"):
        nifti(tmp_path / "plain" / part / "A.NII.GZ", labels)
    (case,) = read_layout(tmp_path / "plain", ["T1"], ["background", "a"]).cases
    assert case.name == "A" and all(path.exists() for path in case.files)
    for name in ("volume-3.NII", "segmentation-3.NII.GZ"):
        nifti(tmp_path / "lits" / name, labels)
    assert [found.number for found in find_cases(tmp_path / "lits")] == [3]
    assert main(["evaluate", str(tmp_path / "plain" / "images"), str(tmp_path / "plain" / "labels")]) == 0


def test_files_of_nnunet_in_capitals_are_found(tmp_path):
    for name in ("imagesTr/A_0000.NII.GZ", "labelsTr/A.NII.GZ"):
        nifti(tmp_path / name, np.ones((3, 4, 5), np.uint8))
    description = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    layout = read_layout(tmp_path)
    assert [path.name for path in layout.cases[0].files] == ["A_0000.NII.GZ", "A.NII.GZ"]
    TaskReader(Task(layout.name, layout.labels, (Channel("T1", ZScore()),))).check_header(layout.cases[0], Limits())
