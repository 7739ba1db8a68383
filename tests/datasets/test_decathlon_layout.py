"""Three layouts of a folder are read, and every fault of one has a name."""

import dataclasses
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from task_folders import (
    LABELS,
    LAYOUTS,
    PLAIN,
    arrays,
    change,
    save,
    task,
    write_decathlon,
    write_nnunet,
    write_plain,
)

from datasets import cases as faults
from datasets.blocks import BlockGrid
from datasets.conversion import Target, convert
from datasets.decathlon.layout import LayoutError, read_layout, read_names
from datasets.decathlon.reader import TaskReader
from keras_spatial import volumes
from keras_spatial.volumes import LITS, Grid, Limits


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    write_decathlon(folder)
    return folder


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
    with pytest.raises(volumes.ChannelError, match=r"If patient_0003\.nii\.gz is a case of its own.* the same name"):
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
        (change(channel_names={"0": "T1"}, labels={"a": 0, "b": 0}), LayoutError, "two names have the same number"),
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


NNUNET = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {name: number for number, name in enumerate(LABELS)}}
DECATHLON = {"modality": {"0": "T1", "1": "T2"}, "labels": {str(number): name for number, name in enumerate(LABELS)}}


@pytest.mark.parametrize("names", [NNUNET, DECATHLON], ids=["nnU-Net", "Decathlon"])
def test_a_plain_folder_may_hold_the_names_of_its_channels_and_labels(tmp_path, names):
    write_plain(tmp_path, ending=".mha")
    (tmp_path / "dataset.json").write_text(json.dumps({"name": "Mine", **names}))
    layout = read_layout(tmp_path)
    assert (layout.name, layout.channels, layout.labels) == ("Mine", ("T1", "T2"), LABELS)
    assert [len(case.images) for case in layout.cases] == [2] * 4
    assert read_names(tmp_path / "dataset.json") == (("T1", "T2"), LABELS)


def test_names_stand_in_the_task_of_a_model_as_well(tmp_path):
    path = tmp_path / "task.json"
    path.write_text(json.dumps(LITS.as_dict()))
    assert read_names(path) == (("CT",), ("background", "liver", "lesion"))
    path.write_text(json.dumps({**LITS.as_dict(), "labels": ["liver"]}))
    with pytest.raises(LayoutError, match=r"task\.json.*2 to 256 different names"):
        read_names(path)
    path.write_text(json.dumps({"labels": {"a": 0}}))
    with pytest.raises(LayoutError, match="modality: expected names"):
        read_names(path)


@pytest.mark.parametrize("beside", ["case_1.raw", "Thumbs.db", "case_1.json", ".hidden.mhd"])
def test_a_case_in_a_format_that_nothing_reads_is_named_and_not_passed_over(tmp_path, beside):
    write_plain(tmp_path, 1)
    for part, name in (("images", "case_1_0000"), ("images", "case_1_0001"), ("labels", "case_1")):
        (tmp_path / part / f"{name}.mhd").write_text("ObjectType = Image")
        (tmp_path / part / beside).write_bytes(b"0")
    # One that was converted, and whose original is still there.
    (tmp_path / "labels/case_0.mhd").write_text("ObjectType = Image")
    layout = read_layout(tmp_path, **PLAIN)
    assert [case.name for case in layout.cases] == ["case_0", "case_1"]
    TaskReader(task(layout)).check_header(layout.cases[0], Limits())
    with pytest.raises(
        volumes.UnreadableVolumeError, match=r"case_1_0000\.mhd: expected .* ends in \.mhd\. Convert it"
    ):
        TaskReader(task(layout)).check_header(layout.cases[1], Limits())


def test_a_case_of_another_ending_than_nnu_nets_description_names_is_not_passed_over(tmp_path):
    write_nnunet(tmp_path, 2)
    for part, name in (("imagesTr", "case_1_0000"), ("imagesTr", "case_1_0001"), ("labelsTr", "case_1")):
        path = tmp_path / part / f"{name}.nii.gz"
        nib.save(nib.load(path), path.with_name(f"{name}.nii"))
        path.unlink()
    shutil.copy(tmp_path / "labelsTr/case_0.nii.gz", tmp_path / "labelsTr/case_0.nrrd")
    layout = read_layout(tmp_path)
    assert [(case.name, case.label.name) for case in layout.cases] == [
        ("case_0", "case_0.nii.gz"), ("case_1", "case_1.nii")
    ]  # fmt: skip
    for case in layout.cases:
        TaskReader(task(layout)).check_header(case, Limits())


def test_names_in_a_folder_that_is_no_data_set_are_told_only_of_volumes(tmp_path, monkeypatch):
    """The names of other folders may be those of patients."""
    for name in ("Images", "ROENTGEN^WILHELM", "ROENTGEN^ANNA"):
        (tmp_path / name).mkdir()
    (tmp_path / "a.nii.gz").touch()
    with pytest.raises(faults.NoCasesError, match=r"\['Images', 'a\.nii\.gz'\] and 2 other files or folders$"):
        read_layout(tmp_path)
    monkeypatch.setenv("KERAS_SPATIAL_IDENTIFIERS", "keep")
    with pytest.raises(faults.NoCasesError, match="ROENTGEN"):
        read_layout(tmp_path)


def test_a_channel_too_many_and_endings_in_capitals_are_seen_in_nnu_nets_layout(tmp_path):
    write_nnunet(tmp_path)
    images = tmp_path / "imagesTr"
    shutil.copy(images / "case_1_0001.nii.gz", images / "case_1_0002.nii.gz")
    (images / "case_2_0001.nii.gz").rename(images / "case_2_0001.NII.GZ")
    (tmp_path / "labelsTr/case_2.nii.gz").rename(tmp_path / "labelsTr/case_2.NII.GZ")
    layout = read_layout(tmp_path)
    with pytest.raises(volumes.ChannelError, match=r"case_1_0002.*expected 2 channels \(T1, T2\)\. Received: 3 files"):
        TaskReader(task(layout)).check_header(layout.cases[1], Limits())
    TaskReader(task(layout)).check_header(layout.cases[2], Limits())
