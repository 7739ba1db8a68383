"""The settings with which `python -m pipelines demo` trains, which depend on the data."""

import json

import nibabel
import numpy as np
import pytest

from pipelines import __main__ as commands

IMAGE = nibabel.Nifti1Image(np.zeros((8, 8, 8), "int16"), np.eye(4))


def _lits(folder):
    for number in range(3):
        nibabel.save(IMAGE, folder / f"volume-{number}.nii.gz")
        nibabel.save(IMAGE, folder / f"segmentation-{number}.nii.gz")


def _plain(folder):
    for name in ("images", "labels"):
        (folder / name).mkdir()
        for number in range(3):
            nibabel.save(IMAGE, folder / name / f"case_{number}.nii.gz")


def _decathlon(folder):
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir()
        for number in range(3):
            nibabel.save(IMAGE, folder / name / f"case_{number}.nii.gz")
    described = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "organ"}, "tensorImageSize": "3D"}
    pairs = [{"image": f"imagesTr/case_{n}.nii.gz", "label": f"labelsTr/case_{n}.nii.gz"} for n in range(3)]
    (folder / "dataset.json").write_text(json.dumps({**described, "training": pairs, "test": []}))


@pytest.mark.parametrize(
    ("write", "chosen", "window"),
    [
        (None, [], (-160, 240)),
        (_lits, [], (-160, 240)),
        (_plain, ["--set", "task=lits"], (-160, 240)),
        (_decathlon, [], (-512, 512)),
    ],
    ids=["phantoms", "LiTS", "plain", "Decathlon"],
)
def test_ct_is_seen_through_the_livers_window_and_other_data_as_they_describe_themselves(
    write, chosen, window, tmp_path, monkeypatch
):
    found = {}
    monkeypatch.setattr(commands, "_run", lambda name, settings, *others: found.update(settings=settings))
    if write is not None:
        write(tmp_path)

    assert commands.cli(["demo", *([] if write is None else ["--data", str(tmp_path)]), *chosen]) == 0

    assert found["settings"].window == window
