"""The pipeline segments many volumes with only the model's file, by path or URL, and names whatever does not fit."""

import json

import keras
import nibabel as nib
import numpy as np
import pytest

from keras_spatial.volumes import Channel, Percentiles, Task, write_task
from pipelines.__main__ import cli

SIZE = (8, 6, 4)
VESSELS = Task("vessels", ("background", "vessel"), (Channel("CT", Percentiles(-50, 350, 100, 80)),))


def run(tmp_path, *assignments, name="batch_inference"):
    options = [part for assignment in assignments for part in ("--set", assignment)]
    return cli(["run", name, "--run-dir", str(tmp_path / "run"), *options])


@pytest.fixture
def data(tmp_path):
    """A CT of which 40 % is vessel."""
    (tmp_path / "data").mkdir()
    hu = np.full((10, 6, 4), -100, np.int16)
    hu[:4] = 200
    nib.save(nib.Nifti1Image(hu, np.eye(4)), tmp_path / "data" / "scan.nii")
    return tmp_path / "data"


@pytest.fixture
def model(tmp_path):
    """A network that gives class 1 to voxels above 0 after normalisation."""
    inputs = keras.Input((*SIZE, 1))
    layer = keras.layers.Conv3D(2, 1)
    made = keras.Model(inputs, layer(inputs))
    layer.set_weights([np.array([0, 50], np.float32).reshape(1, 1, 1, 1, 2), np.zeros(2, np.float32)])
    made.save(tmp_path / "model.keras")
    return tmp_path / "model.keras"


def test_a_file_alone_by_url_is_segmented_by_its_task(tmp_path, data, model):
    write_task(model, VESSELS)
    assert run(tmp_path, f"data={data}", f"model=file://{model}", "mesh=rows:1", "layout=x:rows") == 0
    labels = np.asarray(nib.load(tmp_path / "run" / "segmentations" / "segmentation-scan.nii.gz").dataobj)
    assert labels[:4].all() and not labels[4:].any()


def test_a_model_without_a_task_is_refused_before_the_first_step(tmp_path, data, model, capsys):
    assert run(tmp_path, f"data={data}", f"model={model}") == 2
    said = capsys.readouterr().err
    assert "expected a model that knows its task" in said and "--set task=lits" in said
    assert run(tmp_path, f"data={data}", f"model={model}", f"task={tmp_path / 'none.json'}") == 2
    assert "none.json" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_task_may_be_given_and_a_share_may_have_nothing_to_do(tmp_path, data, model, capsys):
    (tmp_path / "vessels.json").write_text(json.dumps(VESSELS.as_dict()))
    given = f"task={tmp_path / 'vessels.json'}"
    assert run(tmp_path, f"data={data}", f"model={model}", given, "shares=2", "mesh=rows:1", "layout=x:rows") == 0
    labels = np.asarray(nib.load(tmp_path / "run" / "segmentations" / "segmentation-scan.nii.gz").dataobj)
    assert labels[:4].all() and not labels[4:].any()
    assert "Segmented 1 volume into" in capsys.readouterr().out
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "no volume is left for the share" in log and "gather: result: 1 segmentation of 2 shares" in log


def test_files_of_channels_are_one_case_for_each_share(tmp_path, capsys):
    inputs = keras.Input((*SIZE, 2))
    layer = keras.layers.Conv3D(2, 1)
    made = keras.Model(inputs, layer(inputs))
    layer.set_weights([np.array([[0, 0], [0, 50]], np.float32).reshape(1, 1, 1, 2, 2), np.zeros(2, np.float32)])
    made.save(tmp_path / "model.keras")
    channels = tuple(Channel(name, Percentiles(-50, 350, 100, 80)) for name in ("T1", "T2"))
    write_task(tmp_path / "model.keras", Task("vessels", VESSELS.labels, channels))
    (tmp_path / "data").mkdir()
    image = np.full((10, 6, 4), -100, np.int16)
    image[:4] = 200
    for name in ("a_0000", "a_0001", "b_0000", "b_0001", "c_0001"):
        array = image if name.endswith("1") else -image
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "data" / f"{name}.nii.gz")
    given = (f"data={tmp_path / 'data'}", f"model={tmp_path / 'model.keras'}", "shares=2")
    assert run(tmp_path, *given, "mesh=rows:1", "layout=x:rows") == 0
    results = tmp_path / "run" / "segmentations"
    assert sorted(path.name for path in results.iterdir()) == ["a.nii.gz", "b.nii.gz", "failed.csv"]
    labels = np.asarray(nib.load(results / "a.nii.gz").dataobj)
    assert labels[:4].all() and not labels[4:].any()
    assert 'c,"ChannelError: expected one file for each of the 2 channels' in (results / "failed.csv").read_text()


@pytest.mark.parametrize("place", ["model=file:///no/model.keras", "data=file:///no/data", "task=file:///no/task.json"])
def test_a_url_with_nothing_behind_it_is_named_as_it_was_given(tmp_path, data, model, capsys, place):
    write_task(model, VESSELS)
    assert run(tmp_path, f"data={data}", f"model={model}", place) == 2
    setting, _, url = place.partition("=")
    assert f"{setting}: nothing is at this URL. Received: {url!r}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_store_that_cannot_be_opened_is_named(tmp_path, data, capsys):
    assert run(tmp_path, f"data={data}", "model=nowhere://bucket/model.keras") == 2
    assert "nowhere://bucket/model.keras: cannot be opened" in capsys.readouterr().err


def test_volumes_below_the_folder_are_named(tmp_path, data, model, capsys):
    (data / "sub").mkdir()
    (data / "scan.nii").rename(data / "sub" / "scan.nii")
    assert run(tmp_path, f"data={data}", f"model={model}", "task=lits") == 2
    assert "sub (1)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "word"),
    [
        ({"background": 0, "mean": 1}, "mean"),
        ({"background": 0}, "2 to 256"),
        ({"background": 0, "zone-1": 1, "zone 1": 2}, "zone"),
    ],
)
def test_names_of_classes_that_cannot_be_used_are_named_before_the_first_step(tmp_path, capsys, labels, word):
    (tmp_path / "data" / "imagesTr").mkdir(parents=True)
    (tmp_path / "data" / "labelsTr").mkdir()
    (tmp_path / "data" / "labelsTr" / "a.nii.gz").touch()
    description = {"channel_names": {"0": "T1"}, "labels": labels, "file_ending": ".nii.gz"}
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(description))
    assert run(tmp_path, f"data={tmp_path / 'data'}", name="lits_segmentation") == 2
    said = capsys.readouterr().err
    assert "TaskError" in said and word in said and str(tmp_path / "data") in said
