"""Steps on a cluster read a corpus in place, on a volume that all of them mount, and notice if it was edited."""

import json
import os
import shutil
from pathlib import Path

import pytest
from kfp import dsl

from components import resume
from components.cases import open_checked, some_cases
from components.ingest.component import ingest_folder
from components.ingest.ingest import ingest_volumes
from components.preprocess.preprocess import build_dataset
from datasets import origins
from datasets.cases import ChangedCaseError
from datasets.lits.cases import find_cases
from datasets.phantom import write_lits_folder


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "volume" / "my lits"
    write_lits_folder(folder, 4, size=16)
    return folder


@pytest.fixture
def described(tmp_path, corpus):
    """The same cases as another task of the Decathlon's layout, whose folder of labels is a link."""
    folder = tmp_path / "volume" / "described"
    (folder / "imagesTr").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (folder / "labelsTr").symlink_to(tmp_path / "elsewhere")
    for number in range(4):
        shutil.copyfile(corpus / f"volume-{number}.nii.gz", folder / "imagesTr" / f"a_{number}.nii.gz")
        shutil.copyfile(corpus / f"segmentation-{number}.nii.gz", folder / "labelsTr" / f"a_{number}.nii.gz")
    training = [{"image": f"./imagesTr/a_{n}.nii.gz", "label": f"./labelsTr/a_{n}.nii.gz"} for n in range(4)]
    names = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "organ", "2": "tumour"}}
    (folder / "dataset.json").write_text(json.dumps({"name": "Organs", **names, "training": training}))
    return folder


def names_of(folder):
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())


def refer(corpus, tmp_path):
    """The folder of the step ingest, as a cluster's."""
    ingest_volumes(str(corpus), str(tmp_path / "cases"), str(tmp_path / "q.html"), by_reference=True)
    return tmp_path / "cases"


def edit(path):
    """Change one byte in place, and set the time of the last change back, as a careful copy does."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("kind", ["corpus", "described"])
def test_a_data_set_by_reference_is_that_of_the_copies_and_no_file_is_copied(kind, request, tmp_path, monkeypatch):
    folder = request.getfixturevalue(kind)
    cases, quarantine = (dsl.Dataset(uri=str(tmp_path / name)) for name in ("referred", "quarantine"))
    ingest_folder.python_func(data=str(folder), cases=cases, quarantine=quarantine, by_reference=True)
    own = ["dataset.json"] if kind == "described" else []
    assert names_of(cases.path) == [*own, "index.json", "quarantine.csv"]
    ingest_volumes(str(folder), str(tmp_path / "copied"), str(tmp_path / "copied.html"))
    assert len(names_of(tmp_path / "copied")) == 8 + len(names_of(cases.path))
    with open_checked(cases.path) as checked:
        for case in checked.cases:
            with checked.near(case) as near:
                assert all(path.is_symlink() and folder in path.readlink().parents for path in near.files)
    for name in ("referred", "copied"):
        build_dataset(str(tmp_path / name), str(tmp_path / f"{name}-data"), resolution=16)
    [made], [wanted] = ((tmp_path / f"{n}-data").glob("*/*/*/dataset_info.json") for n in ("referred", "copied"))
    assert names_of(made.parent) == names_of(wanted.parent)
    for name in names_of(wanted.parent):
        assert (made.parent / name).read_bytes() == (wanted.parent / name).read_bytes(), name


def test_a_case_in_a_format_that_nothing_reads_is_no_reason_to_copy_the_others(corpus, tmp_path):
    folder = tmp_path / "volume" / "plain"
    for name, old in (("images", "volume"), ("labels", "segmentation")):
        (folder / name).mkdir(parents=True)
        for number in range(4):
            shutil.copyfile(corpus / f"{old}-{number}.nii.gz", folder / name / f"a{number}.nii.gz")
    (folder / "images" / "a3.nii.gz").rename(folder / "images" / "a3.mhd")
    names = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1, "tumour": 2}}
    (folder / "dataset.json").write_text(json.dumps(names))
    cases = tmp_path / "cases"
    facts = ingest_volumes(str(folder), str(cases), str(tmp_path / "q.html"), by_reference=True, on_bad_case="skip")
    assert facts["quarantine"] == {"usable": 3, "bad": 1}
    assert names_of(cases) == ["dataset.json", "index.json", "quarantine.csv"]
    with open_checked(cases) as checked:
        assert [case.name for case in checked.cases] == ["a0", "a1", "a2"]


def test_a_file_that_was_edited_since_ends_every_step_that_reads_it(corpus, tmp_path):
    cases = refer(corpus, tmp_path)
    edit(corpus / "segmentation-2.nii.gz")
    changed = rf"{corpus}/segmentation-2\.nii\.gz: expected the file as it was .*Received: SHA-256"
    with pytest.raises(ChangedCaseError, match=changed):
        build_dataset(str(cases), str(tmp_path / "data"), resolution=16)
    with pytest.raises(ChangedCaseError, match=changed), some_cases(cases, {2}):
        pass
    with some_cases(cases, {1}) as here:
        assert [case.number for case in find_cases(here)] == [1]
    (corpus / "volume-1.nii.gz").unlink()
    with pytest.raises(ChangedCaseError, match=r"volume-1\.nii\.gz: .*Received: nothing"), some_cases(cases, {1}):
        pass


def test_a_file_that_is_edited_while_a_step_reads_it_is_noticed(corpus, tmp_path):
    cases = refer(corpus, tmp_path)
    written = pytest.raises(ChangedCaseError, match=r"volume-1\.nii\.gz: .*a file that was written while it was read")
    with written, some_cases(cases, {1}):
        edit(corpus / "volume-1.nii.gz")


def test_cases_that_came_after_the_check_are_none_of_the_run(corpus, tmp_path):
    cases = refer(corpus, tmp_path)
    for part in ("volume", "segmentation"):
        shutil.copyfile(corpus / f"{part}-0.nii.gz", corpus / f"{part}-9.nii.gz")
    with open_checked(cases) as checked:
        assert [case.number for case in checked.cases] == [0, 1, 2, 3]


def test_the_digest_of_a_file_that_is_read_twice_is_compared_once(corpus, tmp_path, monkeypatch):
    cases, read = refer(corpus, tmp_path), []
    digest = origins.sources.digest
    monkeypatch.setattr(origins.sources, "digest", lambda path: read.append(path.name) or digest(path))
    with open_checked(cases) as checked:
        for _ in range(2):
            with checked.near(checked.cases[0]) as near:
                assert near.files[0].stat().st_size
    assert sorted(read) == ["segmentation-0.nii.gz", "volume-0.nii.gz"]


def test_a_file_url_is_the_path_that_it_names(corpus, tmp_path):
    url = f"file://{corpus}"
    assert resume.fingerprint(url) == resume.fingerprint(corpus)
    ingest_volumes(url, str(tmp_path / "cases"), str(tmp_path / "q.html"))
    index = json.loads((tmp_path / "cases" / "index.json").read_text())
    assert index["source"] == str(corpus) and len(index["files"]) == 8
