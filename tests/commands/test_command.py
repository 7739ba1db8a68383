"""The command `keras-spatial`, as a user types it."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import highdicom
import keras
import nibabel as nib
import numpy as np
import pytest
from volumes.dicom_files import SECRET, SHAPE, hounsfield, write_series

import keras_spatial as ks
from keras_spatial.volumes import LITS, Channel, Task, Window, read_volume, write_task
from keras_spatial.volumes.pseudonyms import pseudonym
from keras_spatial_command import main

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Classes by intensity: 1 above 0 HU, 2 above 256 HU."""
    inputs = keras.Input((*SHAPE, 1))
    layer = keras.layers.Conv3D(3, 1)
    made = keras.Model(inputs, layer(inputs))
    layer.set_weights([np.array([0, 40, 120], np.float32).reshape(1, 1, 1, 1, 3), np.array([0, -20, -80], np.float32)])
    path = tmp_path_factory.mktemp("model") / "liver.keras"
    made.save(path)
    write_task(path, LITS)
    return str(path)


def nifti(path, array):
    path.parent.mkdir(exist_ok=True, parents=True)
    nib.save(nib.Nifti1Image(array, np.diag([0.8, 0.7, 2.5, 1])), path)
    return path


WANTED = (hounsfield() > 0).astype(np.uint8) + (hounsfield() > 256)


def test_help_answers_in_under_a_second_and_without_tensorflow():
    for arguments in ([], ["segment"], ["evaluate"], ["plan"], ["info"]):
        code = (
            "import sys; from keras_spatial_command import main\ntry: main(sys.argv[1:])\nfinally: print(*sys.modules)"
        )
        command = [sys.executable, "-c", code, *arguments, "--help"]
        started = time.perf_counter()
        before = os.times().children_user
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
        # Processor time, because the machine may be busy with something else.
        assert os.times().children_user - before < 1
        assert time.perf_counter() - started < 10
        assert "usage: keras-spatial" in done.stdout
        assert not {"tensorflow", "keras", "numpy", "keras_spatial"} & set(done.stdout.split())


def test_a_folder_of_files_and_series_is_segmented_and_bad_ones_are_named(model, tmp_path, capfd):
    scans = tmp_path / "scans"
    nifti(scans / "volume-1.nii.gz", hounsfield())
    nifti(scans / "volume-2.nii.gz", hounsfield()).write_bytes(b"damaged")
    series = write_series(scans / SECRET)
    lone = nifti(tmp_path / "volume-3.nii", hounsfield())
    status = main(["segment", model, str(scans), str(lone), str(tmp_path / "none.nii"), "-o", str(tmp_path / "out")])
    said = capfd.readouterr()
    assert status == 1
    assert "2 of 5 volumes have no result" in said.err
    assert SECRET not in said.out + said.err
    results = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert results[0] == "failed.csv"
    assert results[1:3] == ["segmentation-1.nii.gz", "segmentation-3.nii.gz"]
    for name in results[1:]:
        assert np.array_equal(read_volume(tmp_path / "out" / name).array, WANTED)
    assert read_volume(tmp_path / "out" / results[3]).affine == pytest.approx(read_volume(series).affine)
    with (tmp_path / "out" / "failed.csv").open() as file:
        assert {row["volume"] for row in csv.DictReader(file)} == {"volume-2.nii.gz", "none.nii"}


def test_a_series_becomes_a_dicom_segmentation_with_the_names_of_the_classes(model, tmp_path):
    write_series(tmp_path / "study")
    options = ["--format", "dcm", "--classes", "background,liver,lesion", "--mesh", "rows:2, columns:2"]
    assert main(["segment", model, str(tmp_path / "study"), "-o", str(tmp_path / "out"), *options]) == 0
    (path,) = (tmp_path / "out").iterdir()
    found = highdicom.seg.segread(path)
    assert [found.get_segment_description(n).segment_label for n in (1, 2)] == ["liver", "lesion"]
    assert np.array_equal(read_volume(path).array.max(axis=(0, 1)), WANTED.max(axis=(0, 1)))


def test_a_process_of_its_own_makes_the_devices_of_the_mesh(tmp_path):
    ks.models.UNet3D((*SHAPE, 1), 3, filters=2, levels=1).save(tmp_path / "unet.keras")
    nifti(tmp_path / "a.nii", hounsfield())
    command = [sys.executable, "-m", "keras_spatial", "segment", "unet.keras", "a.nii", "-o", "out", "--mesh", "rows:3"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--layout", "x:rows", "--task", "lits"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "1/1 a.nii: out/segmentation-a.nii.gz in" in done.stdout


def test_a_memory_makes_shards_of_one_device_that_leave_nothing_behind(tmp_path, capsys):
    inputs = keras.Input((*SHAPE, 1))
    hidden = keras.layers.Conv3D(32, 3, padding="same", activation="relu")(inputs)
    keras.Model(inputs, keras.layers.Conv3D(3, 1)(hidden)).save(tmp_path / "model.keras")
    scan = nifti(tmp_path / "volume-1.nii.gz", hounsfield())
    command = ["segment", str(tmp_path / "model.keras"), str(scan), "--task", "lits", "-o"]
    assert main([*command, str(tmp_path / "whole")]) == 0
    assert main([*command, str(tmp_path / "out"), "--memory", "80KB"]) == 0
    assert "shards, one after another, on cpu:0" in capsys.readouterr().out
    whole, sharded = (read_volume(tmp_path / name / "segmentation-1.nii.gz").array for name in ("whole", "out"))
    np.testing.assert_array_equal(sharded, whole)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["segmentation-1.nii.gz"]


def test_patches_with_overlap_and_flips_give_the_same(model, tmp_path):
    nifti(tmp_path / "a.nii", hounsfield())
    options = ["--patches", "--overlap", "0.25", "--flips", "x,z"]
    assert main(["segment", model, str(tmp_path / "a.nii"), "-o", str(tmp_path / "out"), *options]) == 0
    assert np.array_equal(read_volume(tmp_path / "out" / "segmentation-a.nii.gz").array, WANTED)


def test_results_that_collide_are_refused_before_the_first(model, tmp_path, capsys):
    for name in ("3.nii", "volume-3.nii.gz"):
        nifti(tmp_path / "scans" / name, hounsfield())
    out = tmp_path / "out"
    assert main(["segment", model, str(tmp_path / "scans"), "-o", str(out)]) == 2
    assert "segmentation-3.nii.gz" in capsys.readouterr().err
    assert not out.exists()
    one = str(tmp_path / "scans" / "3.nii")
    assert main(["segment", model, one, "-o", str(out)]) == 0
    assert main(["segment", model, one, "-o", str(out)]) == 2
    assert "exists" in capsys.readouterr().err
    assert main(["segment", model, one, "-o", str(out), "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--classes", "background,liver"], "expected 3 names"),
        (["--overlap", "0.5"], "--patches"),
        (["--memory", "0.02KB"], "Does not fit"),
        (["--memory", "1KB", "--mesh", "rows:2", "--layout", "x:rows"], "Does not fit"),
        (["--offload", "somewhere"], "--offload is where shards that share a device wait"),
        (["--mesh", "rows:many"], "mesh"),
        (["--format", "dcm"], "has no images"),
    ],
)
def test_arguments_that_do_not_fit_are_named(model, tmp_path, capsys, options, word):
    nifti(tmp_path / "a.nii", hounsfield())
    status = main(["segment", model, str(tmp_path / "a.nii"), "-o", str(tmp_path / "out"), *options])
    said = capsys.readouterr()
    # Only reading a file shows that it is no series: it has no result, but others may.
    assert status == (1 if "dcm" in options else 2)
    assert word in said.err + said.out


def test_a_model_that_is_none_is_named(tmp_path, capsys):
    (tmp_path / "bad.keras").write_bytes(b"no model")
    for name, word in (("none.keras", "no such file"), ("bad.keras", "a model that Keras saved"), (".", "a folder")):
        assert main(["info", str(tmp_path / name)]) == 2
        assert word in capsys.readouterr().err


def test_labels_are_compared_whatever_their_format_and_orientation(tmp_path, capsys):
    volume = read_volume(write_series(tmp_path / "series"))
    ks.volumes.write_labels(tmp_path / "p" / "segmentation-1.dcm", WANTED, volume)
    turned = nib.Nifti1Image(WANTED, volume.affine).as_reoriented([[1, -1], [0, 1], [2, 1]])
    (tmp_path / "t").mkdir()
    nib.save(turned, tmp_path / "t" / "labels-1.nii.gz")
    half = WANTED.copy()
    half[:6] = 0
    nifti(tmp_path / "p" / "prediction-2.nii", half)
    nifti(tmp_path / "t" / "labels-2.nii", WANTED)
    out = tmp_path / "evaluation"
    names = ["--classes", "background,liver,lesion"]
    assert main(["evaluate", str(tmp_path / "p"), str(tmp_path / "t"), "-o", str(out), *names]) == 0
    summary = json.loads((out / "summary.json").read_text())
    expected = 2 * np.sum(half == 1) / (np.sum(half == 1) + np.sum(WANTED == 1))
    assert summary["classes"]["liver"]["dice"]["value"] == pytest.approx((1 + expected) / 2)
    with (out / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["dice"]) for row in rows if row["case"] != "2"] == [1.0, 1.0]
    assert "liver" in capsys.readouterr().out


def test_what_cannot_be_compared_is_named_and_stops_no_other(tmp_path, capsys):
    nifti(tmp_path / "p" / "1.nii", WANTED)
    nifti(tmp_path / "t" / "1.nii", WANTED)
    nifti(tmp_path / "p" / "2.nii", WANTED[1:])
    nifti(tmp_path / "t" / "2.nii", WANTED[:, 1:])
    nifti(tmp_path / "t" / "3.nii", WANTED)
    assert main(["evaluate", str(tmp_path / "p"), str(tmp_path / "t")]) == 1
    said = capsys.readouterr()
    assert "DimensionError" in said.out
    assert "without a prediction" in said.out
    assert "2 cases" in said.err
    assert main(["evaluate", str(tmp_path / "p" / "none"), str(tmp_path / "t")]) == 2


def test_a_case_that_does_not_fit_into_memory_stops_no_other(tmp_path, capsys, monkeypatch):
    for name in ("1.nii", "2.nii"):
        nifti(tmp_path / "p" / name, WANTED)
        nifti(tmp_path / "t" / name, WANTED)
    compare = ks.evaluation.evaluate_classes

    def without_memory(*arguments, case):
        if case == "1":
            raise MemoryError("Unable to allocate 80 GiB")
        return compare(*arguments, case=case)

    monkeypatch.setattr("keras_spatial.commands.evaluate.evaluate_classes", without_memory)
    out = tmp_path / "out"
    assert main(["evaluate", str(tmp_path / "p"), str(tmp_path / "t"), "-o", str(out)]) == 1
    assert "1: left out: MemoryError: Unable to allocate 80 GiB" in capsys.readouterr().out
    with (out / "cases.csv").open() as file:
        assert {row["case"] for row in csv.DictReader(file)} == {"2"}


def test_names_of_files_cannot_control_the_terminal(model, tmp_path, capsys):
    """Names such as those that a folder from elsewhere may have: they clear the screen, or reverse what follows."""
    name, shown = "\x1b[2J\u202e\u2028b", r"\x1b[2J\u202e\u2028b"
    nifti(tmp_path / "labels" / f"{name}.nii.gz", WANTED)
    nifti(tmp_path / "predictions" / f"{name}.nii.gz", WANTED)
    given = [str(tmp_path / "predictions"), str(tmp_path / "labels")]
    assert main(["evaluate", *given]) == 0
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / f"{name}.nii.gz").write_text("no volume")
    assert main(["segment", model, str(tmp_path / "scans"), "-o", str(tmp_path / "out")]) == 1
    (tmp_path / f"{name}.keras").write_text("no model")
    assert main(["info", str(tmp_path / f"{name}.keras")]) == 2
    said = capsys.readouterr()
    assert not {"\x1b", "\u202e", "\u2028"} & {*said.out, *said.err}
    assert said.out.count(shown) >= 2 and shown in said.err


def test_dicom_segmentations_are_compared_whatever_slices_each_covers(tmp_path):
    volume = read_volume(write_series(tmp_path / "series"))
    depth = volume.array.shape[2]
    labels = {name: np.zeros(volume.array.shape, np.uint8) for name in ("p", "t")}
    labels["p"][2:6, 2:6, 0 : depth - 1] = 1
    labels["t"][2:6, 2:6, 2:depth] = 1
    for name, array in labels.items():
        ks.volumes.write_labels(tmp_path / name / "1.dcm", array, volume)
    assert main(["evaluate", str(tmp_path / "p"), str(tmp_path / "t"), "-o", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "summary.json").read_text())["classes"]["class 1"]["dice"]["value"]
    both, sizes = np.sum(labels["p"] & labels["t"]), np.sum(labels["p"]) + np.sum(labels["t"])
    assert found == pytest.approx(2 * both / sizes)


def test_the_names_of_dicom_files_come_out_of_an_evaluation_only_if_they_are_asked_for(tmp_path, capsys, monkeypatch):
    volume = read_volume(write_series(tmp_path / "series"))
    files = [f"{SECRET}.dcm", f"{SECRET}2.dcm", f"{SECRET}3.dcm"]
    for name in files[:2]:
        ks.volumes.write_labels(tmp_path / "t" / name, WANTED, volume)
    (tmp_path / "t" / files[2]).write_bytes(b"damaged")
    for name in (files[0], files[2]):
        ks.volumes.write_labels(tmp_path / "p" / name.replace(".dcm", ".nii.gz"), WANTED, volume)
    out = tmp_path / "out"
    assert main(["evaluate", str(tmp_path / "p"), str(tmp_path / "t"), "-o", str(out)]) == 1
    written = "".join(path.read_text() for path in out.iterdir())
    said = capsys.readouterr()
    assert SECRET not in said.out + said.err + written
    assert "without a prediction" in said.out and "not a DICOM file" in said.out
    name = pseudonym(SECRET)
    assert f"{name}: Dice class 1 1.000" in said.out and name in written
    monkeypatch.setenv("KERAS_SPATIAL_IDENTIFIERS", "")
    assert main(["evaluate", str(tmp_path / "p"), str(tmp_path / "t"), "--identifiers", "keep"]) == 1
    monkeypatch.setenv("KERAS_SPATIAL_IDENTIFIERS", "")
    assert f"{SECRET}: Dice class 1 1.000" in capsys.readouterr().out
    # A result of `segment` has a pseudonym already.
    for part in ("a", "b"):
        ks.volumes.write_labels(tmp_path / part / "segmentation-0123456789abcdef.dcm", WANTED, volume)
    assert main(["evaluate", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert "0123456789abcdef: Dice" in capsys.readouterr().out


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_a_place_for_results_that_is_a_file_is_refused_before_any_work(tmp_path, capsys, out):
    for part in ("p", "t"):
        nifti(tmp_path / part / "1.nii", WANTED)
    (tmp_path / "file").write_text("mine")
    assert main(["evaluate", str(tmp_path / "p"), str(tmp_path / "t"), "-o", str(tmp_path / out)]) == 2
    said = capsys.readouterr()
    assert "expected a folder for the results" in said.err and "Dice" not in said.out
    assert (tmp_path / "file").read_text() == "mine"


def test_a_file_that_holds_no_labels_is_named(tmp_path, capsys):
    nifti(tmp_path / "p" / "1.nii", WANTED + np.float32(0.5))
    nifti(tmp_path / "t" / "1.nii", WANTED)
    assert main(["evaluate", str(tmp_path / "p"), str(tmp_path / "t")]) == 2
    assert f"{tmp_path / 'p' / '1.nii'}: expected integers" in capsys.readouterr().out


def test_info_says_what_a_model_is_and_needs(model, capsys):
    assert main(["info", model, "--mesh", "rows:2"]) == 2
    assert "columns" in capsys.readouterr().err
    assert main(["info", model, "--mesh", "rows:2", "--layout", "x:rows"]) == 0
    said = capsys.readouterr().out
    for word in ("12, 10, 6, 1", "classes", "3", "6 (24 B)", "1 x 1 x 1 voxels", "memory in all"):
        assert word in said


def bright(path, task=None):
    """A network with one channel that gives class 1 to voxels above 0 after normalisation."""
    inputs = keras.Input((*SHAPE, 1))
    layer = keras.layers.Conv3D(2, 1)
    made = keras.Model(inputs, layer(inputs))
    layer.set_weights([np.array([0, 50], np.float32).reshape(1, 1, 1, 1, 2), np.zeros(2, np.float32)])
    made.save(path)
    if task is not None:
        write_task(path, task)
    return str(path)


def test_the_task_in_the_file_decides_and_nothing_is_assumed_without_one(tmp_path, capsys):
    hu = np.full(SHAPE, -200, np.int16)
    hu[:4] = 100
    scan, out = str(nifti(tmp_path / "a.nii", hu)), tmp_path / "out"
    task = Task("vessels", ("background", "vessel"), (Channel("CT", Window(0, 200)),))
    assert main(["segment", bright(tmp_path / "v.keras", task), scan, "-o", str(out)]) == 0
    assert np.array_equal(read_volume(out / "segmentation-a.nii.gz").array, hu > 0)
    # In LiTS's window -200 HU counts as bright, so with it the whole volume would be vessel.
    unknown = bright(tmp_path / "unknown.keras")
    assert main(["segment", unknown, scan, "-o", str(tmp_path / "none")]) == 2
    said = capsys.readouterr().err
    assert "expected a model that knows its task" in said and "--task lits" in said and "write_task" in said
    assert not (tmp_path / "none").exists()
    (tmp_path / "other.json").write_text(json.dumps(task.as_dict()))
    assert main(["segment", unknown, scan, "-o", str(tmp_path / "given"), "--task", str(tmp_path / "other.json")]) == 0
    assert np.array_equal(read_volume(tmp_path / "given" / "segmentation-a.nii.gz").array, hu > 0)
    assert main(["segment", unknown, scan, "-o", str(tmp_path / "lits"), "--task", "lits"]) == 0
    assert read_volume(tmp_path / "lits" / "segmentation-a.nii.gz").array.all()


def test_a_model_that_does_not_fit_its_task_is_refused_before_the_first(tmp_path, capsys):
    scan = str(nifti(tmp_path / "a.nii", hounsfield()))
    assert main(["segment", bright(tmp_path / "m.keras", LITS), scan, "-o", str(tmp_path / "out")]) == 2
    assert "scores of the 3 classes" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_repaired_volume_leaves_the_table_of_failures(model, tmp_path):
    scans, out = tmp_path / "scans", tmp_path / "out"
    nifti(scans / "good.nii", hounsfield())
    bad = nifti(scans / "bad.nii", hounsfield())
    worse = nifti(scans / "worse.nii", hounsfield())
    whole = bad.read_bytes()
    for path in (bad, worse):
        path.write_bytes(b"damaged")
    assert main(["segment", model, str(scans), "-o", str(out)]) == 1
    bad.write_bytes(whole)
    assert main(["segment", model, str(bad), "-o", str(out), "--overwrite"]) == 0
    with (out / "failed.csv").open() as file:
        assert [row["volume"] for row in csv.DictReader(file)] == ["worse.nii"]
    worse.write_bytes(whole)
    assert main(["segment", model, str(scans), "-o", str(out), "--overwrite"]) == 0
    assert not (out / "failed.csv").exists()


def test_volumes_in_folders_below_are_named_and_not_left_out(model, tmp_path, capsys):
    nifti(tmp_path / "scans" / "a.nii", hounsfield())
    nifti(tmp_path / "scans" / "sub" / "b.NII.GZ", hounsfield())
    nifti(tmp_path / "scans" / "results" / "segmentation-a.nii.gz", WANTED)
    assert main(["segment", model, str(tmp_path / "scans"), "-o", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "1 folder below it: sub (1)" in said and "results" not in said


@pytest.fixture(scope="module")
def two_channels(tmp_path_factory):
    """A network that gives class 1 to voxels above 0 in its second channel."""
    inputs = keras.Input((*SHAPE, 2))
    layer = keras.layers.Conv3D(2, 1)
    made = keras.Model(inputs, layer(inputs))
    layer.set_weights([np.array([[0, 0], [0, 50]], np.float32).reshape(1, 1, 1, 2, 2), np.zeros(2, np.float32)])
    path = tmp_path_factory.mktemp("two") / "zones.keras"
    made.save(path)
    channels = (Channel("T1", Window(0, 1000)), Channel("T2", Window(0, 200)))
    write_task(path, Task("zones", ("background", "zone"), channels))
    return str(path)


def images_of_case(folder, case):
    first, second = np.full(SHAPE, 500, np.int16), np.full(SHAPE, -100, np.int16)
    second[:4] = 100
    return [nifti(folder / f"{case}_{number:04}.nii.gz", array) for number, array in enumerate((first, second))]


def test_files_of_the_channels_are_one_case(two_channels, tmp_path):
    first, second = images_of_case(tmp_path / "imagesTs", "case")
    for inputs in ([str(tmp_path / "imagesTs")], [str(second), str(first)]):
        assert main(["segment", two_channels, *inputs, "-o", str(tmp_path / "out"), "--overwrite"]) == 0
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["case.nii.gz"]
        labels = read_volume(tmp_path / "out" / "case.nii.gz").array
        assert labels[:4].all() and not labels[4:].any()


def test_a_case_whose_channels_do_not_fit_is_listed_and_the_others_are_segmented(two_channels, tmp_path, capsys):
    scans = tmp_path / "imagesTs"
    for case in ("good", "lacking", "more", "cropped", "moved", "damaged"):
        images_of_case(scans, case)
    (scans / "lacking_0000.nii.gz").unlink()
    nifti(scans / "more_0002.nii.gz", np.zeros(SHAPE, np.int16))
    nifti(scans / "cropped_0001.nii.gz", np.zeros(SHAPE, np.int16)[1:])
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.int16), np.diag([2.0, 0.7, 2.5, 1])), scans / "moved_0001.nii.gz")
    (scans / "damaged_0001.nii.gz").write_bytes(b"damaged")
    assert main(["segment", two_channels, str(scans), "-o", str(tmp_path / "out")]) == 1
    assert "5 of 6 volumes have no result" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["failed.csv", "good.nii.gz"]
    with (tmp_path / "out" / "failed.csv").open() as file:
        reasons = {row["volume"]: row["reason"] for row in csv.DictReader(file)}
    expected = (
        "ChannelError: expected one file for each of the 2 channels (T1, T2), from {0}_0000 to {0}_0001. Received: "
    )
    assert reasons["lacking"] == expected.format("lacking") + "lacking_0001.nii.gz"
    assert reasons["more"] == expected.format("more") + "more_0000.nii.gz, more_0001.nii.gz, more_0002.nii.gz"
    assert "ChannelError" in reasons["cropped"] and "expected the shape of cropped_0000.nii.gz" in reasons["cropped"]
    assert "ChannelError" in reasons["moved"] and "register the channels to one grid" in reasons["moved"]
    assert "UnreadableVolumeError" in reasons["damaged"] and "damaged_0001.nii.gz" in reasons["damaged"]


def test_a_number_at_the_end_belongs_to_the_name_where_a_file_has_all_channels(model, two_channels, tmp_path):
    for name in ("patient_0000", "patient_0001"):
        nifti(tmp_path / "whole" / f"{name}.nii.gz", np.full((*SHAPE, 2), 100, np.int16))
        nifti(tmp_path / "single" / f"{name}.nii.gz", hounsfield())
    assert main(["segment", two_channels, str(tmp_path / "whole"), "-o", str(tmp_path / "out")]) == 0
    assert main(["segment", model, str(tmp_path / "single"), "-o", str(tmp_path / "one")]) == 0
    for folder in ("out", "one"):
        names = sorted(path.name for path in (tmp_path / folder).iterdir())
        assert names == ["segmentation-patient_0000.nii.gz", "segmentation-patient_0001.nii.gz"]


def test_info_names_the_task(model, tmp_path, capsys):
    assert main(["info", model]) == 0
    said = capsys.readouterr().out
    assert "LiTS: background, liver, lesion" in said and "0000 CT" in said
    assert main(["info", bright(tmp_path / "m.keras")]) == 0
    assert "not in the file" in capsys.readouterr().out
