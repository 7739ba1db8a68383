"""The task of a model is kept in its `.keras` file, and determines how its volumes are prepared."""

import json
import os
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import keras
import nibabel as nib
import numpy as np
import pytest

import keras_spatial as ks
from datasets.lits.conversion import LitsReader
from keras_spatial.inference import Patches, segment
from keras_spatial.volumes import (
    LITS,
    Channel,
    Grid,
    Percentiles,
    Task,
    TaskError,
    Volume,
    Window,
    ZScore,
    read_task,
    read_volume,
    task_of,
    to_canonical,
    write_task,
)

SIZE = (8, 6, 4)
VESSELS = Task("vessels", ("background", "vessel"), (Channel("CT", Percentiles(-50, 350, 100, 80)),))
MESH = "rows:2"


def model_of(size=SIZE, channels=1):
    """A network that gives class 1 to voxels above 0 after normalisation."""
    inputs = keras.Input((*size, channels))
    layer = keras.layers.Conv3D(2, 1)
    model = keras.Model(inputs, layer(inputs))
    kernel = np.zeros((1, 1, 1, channels, 2), np.float32)
    kernel[..., 1] = 50
    layer.set_weights([kernel, np.zeros(2, np.float32)])
    return model


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "vessels.keras"
    model_of().save(path)
    write_task(path, VESSELS)
    return path


@pytest.fixture
def scan(tmp_path):
    """A scan with 40 % of its voxels above 100 HU, and all of them above -512 HU."""
    hu = np.full((10, 6, 4), -100, np.int16)
    hu[:4] = 200
    nib.save(nib.Nifti1Image(hu, np.eye(4)), tmp_path / "scan.nii")
    return tmp_path / "scan.nii"


def test_plain_keras_loads_the_file_without_this_package(file):
    code = (
        "import sys, keras, numpy as np; model = keras.saving.load_model(sys.argv[1]); "
        "assert 'keras_spatial' not in sys.modules; "
        "print(model.predict(np.ones((1, 8, 6, 4, 1), 'float32'), verbose=0)[0, 0, 0, 0].tolist())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code, file], capture_output=True, text=True, check=True, env=environment, cwd=file.parent
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [0, 50]


def test_the_archive_keeps_all_that_keras_wrote(tmp_path):
    path = tmp_path / "m.keras"
    model_of().save(path)
    path.chmod(0o640)
    with zipfile.ZipFile(path) as archive:
        before = {name: archive.read(name) for name in archive.namelist()}
    for task in (VESSELS, LITS):
        write_task(path, task)
        assert read_task(path) == task
    with zipfile.ZipFile(path) as archive:
        assert sorted(archive.namelist()) == sorted([*before, "task.json"])
        assert {name: archive.read(name) for name in before} == before
    assert path.stat().st_mode & 0o777 == 0o640
    assert [p.name for p in tmp_path.iterdir()] == ["m.keras"]


def test_a_loaded_model_is_segmented_by_its_task(file, scan):
    expected = read_volume(scan).array > 100
    for distribution in (None, ks.SpatialParallel(ks.device_mesh(MESH), "x:rows")):
        model = ks.load_model(file, distribution=distribution)
        assert task_of(model) == VESSELS
        np.testing.assert_array_equal(segment(model, scan).labels, expected)
    # An explicit task takes precedence.
    assert segment(model, scan, task="lits").labels.all()
    higher = Task("higher", VESSELS.labels, (Channel("CT", Window(1000, 2000)),))
    assert not segment(model, scan, task=higher).labels.any()
    low = segment(model, scan, intensities=lambda hu: np.asarray(hu, np.float32) + 1000)
    assert low.labels.all()


def test_without_a_task_the_documented_default_is_taken(tmp_path, scan):
    model_of().save(tmp_path / "m.keras")
    model = ks.load_model(tmp_path / "m.keras")
    assert task_of(model) is None and task_of(model_of()) is None
    assert segment(model, scan).labels.all()


def test_a_partitioned_model_that_is_saved_again_takes_its_task_along(file, tmp_path):
    model = ks.load_model(file, distribution=ks.SpatialParallel(ks.device_mesh(MESH), "x:rows"))
    model.save(tmp_path / "again.keras")
    assert read_task(tmp_path / "again.keras") == VESSELS


def test_models_of_different_tasks_are_not_averaged(file, tmp_path, scan):
    model_of().save(tmp_path / "none.keras")
    model_of().save(tmp_path / "other.keras")
    write_task(tmp_path / "other.keras", Task("vessels", VESSELS.labels, (Channel("CT", Window(0, 100)),)))
    for name in ("none", "other"):
        with pytest.raises(ValueError, match="expected the task of the first one"):
            segment([ks.load_model(file), ks.load_model(tmp_path / f"{name}.keras")], scan)
    members = [ks.load_model(file), ks.load_model(file)]
    np.testing.assert_array_equal(segment(members, scan).labels, read_volume(scan).array > 100)


def test_an_earlier_training_has_its_task_beside_the_model(file, tmp_path):
    folder = tmp_path / "training"
    folder.mkdir()
    model_of().save(folder / "model.keras")
    (folder / "task.json").write_text(json.dumps(VESSELS.as_dict()))
    assert read_task(folder) == read_task(folder / "model.keras") == VESSELS
    assert task_of(ks.load_model(folder / "model.keras")) == VESSELS
    # Another file in that folder may be a model of something else.
    model_of().save(folder / "other.keras")
    with pytest.raises(TaskError, match="a model without a task"):
        read_task(folder / "other.keras")
    write_task(folder / "model.keras", LITS)
    assert read_task(folder) == LITS


def rewritten(file, text, **options):
    """Replace the task.json in the file."""
    with zipfile.ZipFile(file) as source:
        kept = {name: source.read(name) for name in source.namelist() if name != "task.json"}
    with zipfile.ZipFile(file, "w") as target:
        for name, content in kept.items():
            target.writestr(name, content)
        target.writestr("task.json", text, **options)


@pytest.mark.parametrize("text", [b"{", b"[]", b"\xff", b'{"name": 1}', b"[" * 100_000])
def test_a_damaged_task_is_named(file, text):
    rewritten(file, text)
    with pytest.raises(TaskError, match=r"vessels\.keras"):
        read_task(file)


def test_a_task_that_unfolds_to_gigabytes_is_not_unfolded(file):
    rewritten(file, bytes(100 << 20), compress_type=zipfile.ZIP_DEFLATED)
    assert file.stat().st_size < 1 << 20
    tracemalloc.start()
    with pytest.raises(TaskError, match=r"at most 1048576 bytes\. Received: 104857600"):
        read_task(file)
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("offset", "value"), [(8, b"\x63\x00"), (6, b"\x01\x00"), (30 + len("task.json"), b"\xff" * 4)]
)
def test_a_task_that_cannot_be_unfolded_is_named(file, offset, value):
    """The files have an unknown compression method, an encrypted member, or a damaged stream."""
    rewritten(file, json.dumps(VESSELS.as_dict()), compress_type=zipfile.ZIP_DEFLATED)
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        local = archive.getinfo("task.json").header_offset
    central = content.rindex(b"PK\x01\x02")
    content[local + offset : local + offset + len(value)] = value
    if offset < 30:
        content[central + offset + 2 : central + offset + 2 + len(value)] = value
    file.write_bytes(content)
    with pytest.raises(TaskError, match=r"vessels\.keras: task\.json in it is damaged"):
        read_task(file)


def test_what_is_no_keras_file_gets_no_task(tmp_path):
    (tmp_path / "m.keras").write_bytes(b"no archive")
    for name in ("m.keras", "none.keras", "."):
        with pytest.raises(TaskError, match=r"expected the \.keras file of a model"):
            write_task(tmp_path / name, VESSELS)
    assert (tmp_path / "m.keras").read_bytes() == b"no archive"


@pytest.mark.parametrize("shape", [(9, 7, 5), (8, 8, 8), (4, 12, 8)])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_a_scan_of_lits_is_prepared_as_its_data_set_is(shape, dtype):
    hu = (np.random.default_rng(0).normal(0, 1500, shape)).astype(dtype)
    volume = to_canonical(Volume(hu, np.diag([-1.0, 1, 2, 1]), nib.Nifti1Header(), Path("volume-0.nii")))
    labels = Volume(np.zeros(shape, np.uint8), volume.affine, volume.header, volume.path)
    for grid in (Grid(8), Grid(spacing=1.5), Grid()):
        task = Task("LiTS", LITS.labels, LITS.channels, grid, "lits")
        stored = LitsReader().resample([volume], labels, task.target(volume))
        np.testing.assert_array_equal(task.image([volume]), stored.network_input(stored.image))


def test_a_grid_that_is_given_with_patches_replaces_that_of_the_task(scan):
    half = Task("half", VESSELS.labels, VESSELS.channels, Grid(spacing=2.0))
    expected = read_volume(scan).array > 100
    fine = segment(model_of(), scan, task=half, patches=Patches(grid=(10, 6, 4))).labels
    np.testing.assert_array_equal(fine, expected)


def test_the_zscore_of_mr_is_not_hounsfield(tmp_path):
    path = tmp_path / "mr.keras"
    model_of().save(path)
    write_task(path, Task("mr", ("background", "bright"), (Channel("T2", ZScore()),)))
    image = np.full((8, 6, 4), 10, np.float32)
    image[2:] = 90
    nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / "mr.nii")
    np.testing.assert_array_equal(segment(ks.load_model(path), tmp_path / "mr.nii").labels, image > 50)
