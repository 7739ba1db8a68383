"""Many volumes: each has its outcome, and the table of those without a result is up to date."""

import csv
import shutil
from pathlib import Path

import keras
import nibabel as nib
import numpy as np
import pytest
from volumes.dicom_files import SAMPLES, SECRET, write_enhanced, write_series

from keras_spatial.inference import (
    NothingToSegment,
    Outcome,
    Source,
    VolumesBelow,
    find_sources,
    segment_all,
    segment_each,
    write_failed,
)
from keras_spatial.inference.batches import read_failed, write_rows
from keras_spatial.runtimes.storage import OffloadError
from keras_spatial.volumes import read_volume

SIZE = (8, 6, 4)


def fragile(failure=None):
    inputs = keras.Input((*SIZE, 1))
    outputs = keras.layers.Conv3D(3, 1)(inputs)
    return Failing(inputs, outputs, failure)


class Failing(keras.Model):
    """A model that fails at images with a value above 0.9, with any kind of error, like real devices and disks."""

    def __init__(self, inputs, outputs, failure):
        super().__init__(inputs, outputs)
        self.failure = failure

    def predict(self, x, **options):
        if np.max(x) > 0.9:
            if self.failure is None:
                return np.full((*x.shape[:-1], 3), np.nan, np.float32)
            raise self.failure
        return super().predict(x, **options)


@pytest.fixture
def scans(tmp_path):
    """Three volumes, of which the second one is brighter than the others."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for number, high in enumerate((100, 500, 100)):
        hu = np.full(SIZE, -300, np.int16)
        hu[2:4] = high
        nib.save(nib.Nifti1Image(hu, np.eye(4)), folder / f"{number}.nii")
    return folder


FAILURES = [
    None,
    OSError(28, "No space left on device"),
    MemoryError("8 GB"),
    OffloadError("the disk is full"),
    RuntimeError("x" * 100_000),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda f: type(f).__name__)
def test_whatever_one_volume_raises_stops_no_other(scans, tmp_path, failure):
    lines: list[str] = []
    outcomes = segment_all(fragile(failure), find_sources([scans]), tmp_path / "out", lines.append)
    assert [outcome.reason is None for outcome in outcomes] == [True, False, True]
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == [
        "failed.csv",
        "segmentation-0.nii.gz",
        "segmentation-2.nii.gz",
    ]
    with (tmp_path / "out" / "failed.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["volume"] == "1.nii" and row["reason"] == outcomes[1].reason and len(row["reason"]) < 1000
    assert type(failure).__name__ in row["reason"] if failure else "finite" in row["reason"]
    assert len(lines) == 3 and "1.nii: left out" in lines[1]


def test_the_table_is_written_however_it_ends(scans, tmp_path):
    nib.save(nib.Nifti1Image(np.zeros(SIZE, np.int16), np.eye(4)), scans / "0.nii")
    with pytest.raises(KeyboardInterrupt):
        segment_all(fragile(KeyboardInterrupt()), find_sources([scans]), tmp_path / "out", lambda line: None)
    assert "0.nii" in (tmp_path / "out" / "failed.csv").read_text()


def test_the_path_of_a_series_is_in_no_message(tmp_path):
    write_series(tmp_path / SECRET)
    failure = PermissionError(13, "Permission denied", str(tmp_path / SECRET / "1.dcm"))
    lines: list[str] = []
    (found,) = segment_all(fragile(failure), find_sources([tmp_path / SECRET]), tmp_path / "out", lines.append)
    assert found.reason == "PermissionError: Permission denied"
    assert SECRET not in (tmp_path / "out" / "failed.csv").read_text() + "".join(lines)


def test_an_enhanced_file_is_a_series_and_its_name_comes_out_nowhere(tmp_path):
    path = write_enhanced(tmp_path / f"{SECRET}.dcm")
    (source,) = find_sources([path])
    (same,) = find_sources([tmp_path])
    assert source.name == same.name and SECRET not in source.name + source.stem
    assert read_volume(source.volume).array.shape == (12, 10, 6)
    single = next(write_series(tmp_path / "s", series="1.9").iterdir())
    lines: list[str] = []
    (found,) = segment_all(fragile(), find_sources([single]), tmp_path / "out", lines.append)
    assert "Give the folder of the series instead" in str(found.reason)
    assert SECRET not in "".join(lines)


def test_a_model_that_fits_no_volume_is_refused_before_the_first(scans, tmp_path):
    inputs = keras.Input((*SIZE, 2))
    with pytest.raises(ValueError, match="expected one input"):
        segment_each(keras.Model(inputs, inputs), find_sources([scans]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def outcome(name, reason=None):
    return Outcome(Source(Path(name)), None, reason, 0.0)


def test_the_table_lists_what_has_no_result_yet(tmp_path):
    table = write_failed(tmp_path, [outcome("a.nii", "bad"), outcome("b.nii", "bad"), outcome("c.nii")])
    assert table is not None
    write_failed(tmp_path, [outcome("a.nii"), outcome("c.nii", "worse")])
    with table.open() as file:
        assert list(csv.reader(file)) == [["volume", "reason"], ["b.nii", "bad"], ["c.nii", "worse"]]
    assert write_failed(tmp_path, [outcome("b.nii"), outcome("c.nii")]) is None
    assert not table.exists()


class Unwritable:
    def __str__(self):
        raise OSError(28, "No space left on device")


def test_a_table_that_cannot_be_written_leaves_the_one_before(tmp_path):
    write_rows(tmp_path, [("a.nii", "bad")])
    with pytest.raises(OSError, match="No space left"):
        write_rows(tmp_path, [("a.nii", "bad"), ("b.nii", Unwritable())])
    assert read_failed(tmp_path) == [("a.nii", "bad")]
    assert [path.name for path in tmp_path.iterdir()] == ["failed.csv"]


@pytest.mark.parametrize("text", ["", "\xff", "name,why\na,b\n", "volume,reason\nonly one\n"])
def test_a_table_of_somebody_else_is_replaced(tmp_path, text):
    (tmp_path / "failed.csv").write_bytes(text.encode("latin-1"))
    table = write_failed(tmp_path, [outcome("a.nii", "bad")])
    assert table is not None and table.read_text().split() == ["volume,reason", "a.nii,bad"]


@pytest.mark.parametrize("name", ["SCAN.NII.GZ", "scan.Nii", "SCAN.MHA", "Scan.NRRD"])
def test_endings_are_the_same_in_capitals(tmp_path, name):
    (tmp_path / name).touch()
    (source,) = find_sources([tmp_path])
    assert source.name == name and source.stem == f"segmentation-{name.split('.')[0]}"


@pytest.mark.parametrize(
    "write, reason",
    [
        (lambda path: path.write_bytes(b"damaged"), "not a DICOM file; copy or download it again"),
        (
            lambda path: shutil.copy(SAMPLES / "reportsi.dcm", path),
            "holds no image. Received: a DICOM object of another kind",
        ),
    ],
    ids=["damaged", "report"],
)
def test_a_dicom_file_without_a_volume_is_a_source_whose_name_comes_out_nowhere(tmp_path, write, reason):
    path = tmp_path / f"{SECRET}.dcm"
    write(path)
    lines: list[str] = []
    (found,) = segment_all(fragile(), find_sources([path]), tmp_path / "out", lines.append)
    assert reason in str(found.reason)
    assert SECRET not in "".join(lines) + found.source.stem + (tmp_path / "out" / "failed.csv").read_text()


def test_volumes_in_formats_that_nothing_reads_are_named_and_not_passed_over(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in ("a.mhd", "a.raw", "b.mgz", "b.nii.gz", "notes.txt"):
        (folder / name).write_bytes(b"damaged")
    sources = find_sources([folder])
    assert [source.name for source in sources] == ["a.mhd", "b.nii.gz"]
    outcomes = segment_all(fragile(), sources, tmp_path / "out", lambda line: None)
    assert "Received: one that ends in .mhd. Convert it" in str(outcomes[0].reason)
    assert [row[0] for row in read_failed(tmp_path / "out")] == ["a.mhd", "b.nii.gz"]


def test_volumes_below_a_folder_are_named(tmp_path):
    (tmp_path / "sub" / "deeper").mkdir(parents=True)
    with pytest.raises(NothingToSegment):
        find_sources([tmp_path])
    (tmp_path / "sub" / "deeper" / "volume.NII").touch()
    (tmp_path / "sub" / "segmentation-1.nii").touch()
    (tmp_path / "volume.nii").touch()
    with pytest.raises(VolumesBelow, match=r"1 folder below it: sub/deeper \(1\)"):
        find_sources([tmp_path])
    assert [source.name for source in find_sources([tmp_path / "sub" / "deeper"])] == ["volume.NII"]
