"""The fault of a case is named and listed in the quarantine, and no other case is lost."""

import numpy as np
import pytest
import SimpleITK as sitk
from task_folders import (
    AFFINE,
    PLAIN,
    arrays,
    save,
    strange_label,
    task,
    write_plain,
)

from datasets import cases as faults
from datasets import decathlon
from datasets.decathlon.layout import read_layout
from datasets.decathlon.reader import TaskReader
from keras_spatial import volumes
from keras_spatial.volumes import Limits


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
    # Faults in headers end a build at once, before hours of conversion.
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
