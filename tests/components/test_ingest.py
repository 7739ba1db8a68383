"""Ingest checks every case, and lists the bad ones with their reasons."""

import csv
import errno
import hashlib
import json
import os
import shutil

import nibabel as nib
import numpy as np
import pytest

from components.ingest.ingest import clone_or_copy, ingest_volumes
from components.preprocess.preprocess import build_dataset
from datasets.cases import BadCasesError, NoCasesError, OtherSourcesError
from datasets.lits.cases import read_case
from datasets.phantom import write_lits_folder


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "lits"
    write_lits_folder(folder, cases=3, size=16)
    return folder


def spoil(folder):
    """Truncate case 0, and give case 1 a label of 7."""
    path = folder / "volume-0.nii.gz"
    path.write_bytes(path.read_bytes()[:500])
    image = nib.load(folder / "segmentation-1.nii.gz")
    labels = np.asarray(image.dataobj).copy()
    labels[0, 0, 0] = 7
    nib.save(nib.Nifti1Image(labels, image.affine), folder / "segmentation-1.nii.gz")


def run(folder, tmp_path, on_bad_case):
    cases, quarantine = tmp_path / "out" / "cases", tmp_path / "out" / "quarantine.html"
    return cases, quarantine, ingest_volumes(str(folder), str(cases), str(quarantine), on_bad_case=on_bad_case)


def test_good_cases_are_collected(folder, tmp_path):
    cases, _, metadata = run(folder, tmp_path, "raise")
    assert metadata["quarantine"] == {"usable": 3, "bad": 0}
    assert len(list(cases.glob("*.nii.gz"))) == 6
    assert json.loads((cases / "index.json").read_text())["cases"] == [0, 1, 2]


def test_what_was_checked_is_copied_and_does_not_change_with_the_original(folder, tmp_path):
    cases, _, _ = run(folder, tmp_path, "raise")
    original, copy = folder / "segmentation-0.nii.gz", cases / "segmentation-0.nii.gz"
    kept = copy.read_bytes()
    assert not copy.samefile(original)
    with original.open("r+b") as file:
        file.write(b"another file")
    assert copy.read_bytes() == kept
    digests = json.loads((cases / "index.json").read_text())["sha256"]
    assert digests == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in cases.glob("*.nii.gz")}


def test_where_the_kernel_does_not_copy_python_does(folder, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EXDEV, "no")

    monkeypatch.setattr("components.ingest.ingest.os.copy_file_range", refuse)
    clone_or_copy(folder / "volume-0.nii.gz", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == (folder / "volume-0.nii.gz").read_bytes()


@pytest.mark.parametrize("copied", [0, 1000])
def test_where_the_kernel_ends_early_without_a_word_python_copies(folder, tmp_path, monkeypatch, copied):
    real, left = os.copy_file_range, copied

    def end_early(source, target, count):
        nonlocal left
        done = real(source, target, min(count, left))
        left -= done
        return done

    monkeypatch.setattr("components.ingest.ingest.os.copy_file_range", end_early)
    clone_or_copy(folder / "volume-0.nii.gz", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == (folder / "volume-0.nii.gz").read_bytes()


def test_a_case_that_is_written_while_it_is_checked_is_bad(folder, tmp_path, monkeypatch):
    def read(case, limits):
        found = read_case(case, limits)
        if case.number == 1:
            case.segmentation.touch()
        return found

    monkeypatch.setattr("components.cases.lits.read_case", read)
    cases, _, metadata = run(folder, tmp_path, "skip")
    assert metadata["quarantine"] == {"usable": 2, "bad": 1}
    assert sorted(p.name for p in cases.glob("*-1.nii.gz")) == []
    assert "ChangedCaseError" in (cases / "quarantine.csv").read_text()


def test_files_changed_after_ingest_are_not_built(folder, tmp_path):
    cases, _, _ = run(folder, tmp_path, "raise")
    build_dataset(str(cases), str(tmp_path / "first"), resolution=16)
    shutil.copy(cases / "segmentation-0.nii.gz", tmp_path / "image.nii.gz")
    image = nib.load(tmp_path / "image.nii.gz")
    labels = np.asarray(image.dataobj).copy()
    labels[0, 0, 0] = 1
    nib.save(nib.Nifti1Image(labels, image.affine), cases / "segmentation-0.nii.gz")
    with pytest.raises(OtherSourcesError, match=r"\['segmentation-0\.nii\.gz'\]"):
        build_dataset(str(cases), str(tmp_path / "second"), resolution=16)


def test_bad_cases_are_put_aside_with_their_reasons(folder, tmp_path):
    spoil(folder)
    cases, quarantine, metadata = run(folder, tmp_path, "skip")
    assert metadata["quarantine"] == {"usable": 1, "bad": 2}
    assert sorted(p.name for p in cases.glob("*.nii.gz")) == ["segmentation-2.nii.gz", "volume-2.nii.gz"]
    with (cases / "quarantine.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["volume-0", "volume-1"]
    assert "volume-0.nii.gz" in rows[0]["reason"]
    assert rows[1]["error"] == "LabelValueError"
    assert "LabelValueError" in quarantine.read_text()


def test_a_bad_case_ends_a_strict_run_after_all_were_checked(folder, tmp_path):
    spoil(folder)
    with pytest.raises(BadCasesError, match=r"(?s)2 of 3 cases.*on_bad_case=skip.*volume-0.*volume-1"):
        run(folder, tmp_path, "raise")
    assert (tmp_path / "out" / "quarantine.html").is_file()


def test_no_usable_case_ends_every_run(tmp_path):
    folder = tmp_path / "lits"
    write_lits_folder(folder, cases=1, size=16)
    path = folder / "volume-0.nii.gz"
    path.write_bytes(b"nothing")
    with pytest.raises(BadCasesError, match="1 of 1 cases cannot be used"):
        run(folder, tmp_path, "skip")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(NoCasesError, match="no such folder"):
        run(tmp_path / "missing", tmp_path, "skip")


def test_a_case_without_its_labels_is_put_aside_and_no_other_is_lost(folder, tmp_path):
    (folder / "segmentation-1.nii.gz").unlink()
    with pytest.raises(BadCasesError, match=r"1 of 3 cases.*\n.*MissingPairError: .*volume-1.* has no segmentation"):
        run(folder, tmp_path, "raise")
    cases, _, metadata = run(folder, tmp_path, "skip")
    assert metadata["quarantine"] == {"usable": 2, "bad": 1}
    assert "volume-1,MissingPairError," in (cases / "quarantine.csv").read_text()
