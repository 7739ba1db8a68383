"""Ingest converts DICOM cases to NIfTI files on the same grid, and passes on nothing that names a patient."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import from_matvec
from volumes.dicom_files import SECRET, SHAPE, hounsfield, write_enhanced, write_series

from components import storage
from components.cases import open_folder
from components.ingest.ingest import ingest_volumes
from components.preprocess.preprocess import build_dataset
from datasets.cases import BadCasesError
from datasets.decathlon.layout import LayoutError
from keras_spatial.volumes import TaskError, read_volume, to_canonical, write_dicom_segmentation
from keras_spatial.volumes.pseudonyms import pseudonym

NAMES = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "lesion": 2}}


def truth(number):
    label = np.zeros(SHAPE, np.uint8)
    label[2:8, 3:7, 2:4] = 1
    label[3:5, 4:6, 2 : 3 + number % 2] = 2
    return label


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four cases: series with labels as NIfTI, turned as dcm2niix does, and as DICOM segmentation; an enhanced file; a
    NIfTI file."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "labels").mkdir()
    for number in range(4):
        name = f"{SECRET}^{number}" if number < 3 else "plain_3"
        array = hounsfield(seed=number)
        if number == 3:
            nib.save(nib.Nifti1Image(array, np.diag([-1.0, -1, 2, 1])), folder / f"images/{name}.nii.gz")
            nib.save(nib.Nifti1Image(truth(3), np.diag([-1.0, -1, 2, 1])), folder / f"labels/{name}.nii.gz")
            continue
        if number == 2:
            series = write_enhanced(
                folder / f"images/{name}.dcm", array, series=f"1.2.{number}", order=[3, 0, 5, 1, 4, 2]
            )
        else:
            series = write_series(folder / f"images/{name}", array, series=f"1.2.{number}")
        like = read_volume(series)
        if number == 1:
            label, affine = truth(1)[:, ::-1], like.affine @ from_matvec(np.diag([1, -1, 1]), [0, SHAPE[1] - 1, 0])
            nib.save(nib.Nifti1Image(label, affine), folder / f"labels/{name}.nii.gz")
        else:
            write_dicom_segmentation(folder / f"labels/{name}.dcm", truth(number), like, classes=list(NAMES["labels"]))
    return folder


def run(folder, out, **options):
    cases, quarantine = out / "cases", out / "quarantine.html"
    ingest_volumes(str(folder), str(cases), str(quarantine), **options)
    return cases


def no_patient_in(out, *texts):
    for path in out.rglob("*"):
        assert SECRET not in str(path)
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes()
    assert not any(SECRET in text for text in texts)


def names_file(path):
    path.write_text(json.dumps(NAMES))
    return str(path)


@pytest.mark.parametrize("named", ["beside", "given"])
def test_cases_become_nifti_files_on_their_grid_and_are_built(folder, tmp_path, capfd, named):
    if named == "beside":
        folder = shutil.copytree(folder, tmp_path / "copy")
        names_file(folder / "dataset.json")
        cases = run(folder, tmp_path / "out")
    else:
        cases = run(folder, tmp_path / "out", task_file=names_file(tmp_path / "names.json"))
    names = [pseudonym(f"{SECRET}^{number}") for number in range(2)] + [pseudonym(f"{SECRET}^2"), "plain_3"]
    assert sorted(json.loads((cases / "index.json").read_text())["cases"]) == sorted(names)
    for number, name in enumerate(names):
        image, label = (to_canonical(read_volume(cases / part / f"{name}.nii.gz")) for part in ("images", "labels"))
        assert np.array_equal(image.array, hounsfield(seed=number)[::-1, ::-1])
        assert np.array_equal(label.array, truth(number)[::-1, ::-1])
        assert label.affine == pytest.approx(image.affine)
        if number < 3:
            assert image.affine == pytest.approx(
                to_canonical(read_volume(next((folder / "images").glob(f"*{number}*")))).affine
            )
    # The step that follows finds what it needs in the folder, and the files that were checked.
    build_dataset(str(cases), str(tmp_path / "out" / "dataset"), resolution=8)
    no_patient_in(tmp_path / "out", *capfd.readouterr())


def test_cases_of_lits_get_numbers_and_its_names(folder, tmp_path):
    cases = run(folder, tmp_path / "out", task="lits")
    with open_folder(cases) as opened:
        assert opened.reader is None
    index = json.loads((cases / "index.json").read_text())
    assert index["cases"] == [0, 1, 2, 3]
    number = index["numbers"]["plain_3"]
    assert np.array_equal(read_volume(cases / f"volume-{number}.nii.gz").array, hounsfield(seed=3))
    made = build_dataset(str(cases), str(tmp_path / "out" / "dataset"), resolution=8)
    assert sum(map(len, json.loads(made["dataset"]["cases"]).values())) == 4
    assert (tmp_path / "out" / "dataset" / "lits").is_dir()
    no_patient_in(tmp_path / "out")


def test_a_bad_series_is_listed_by_its_pseudonym_and_no_other_is_lost(folder, tmp_path, capfd):
    folder = shutil.copytree(folder, tmp_path / "copy")
    (folder / f"images/{SECRET}^0/{SECRET}003.dcm").unlink()
    (folder / f"labels/{SECRET}^2.dcm").unlink()
    with pytest.raises(BadCasesError) as raised:
        run(folder, tmp_path / "out", on_bad_case="raise", task="lits")
    cases = run(folder, tmp_path / "out", on_bad_case="skip", task="lits")
    table = (cases / "quarantine.csv").read_text()
    for number, error in ((0, "SliceError"), (2, "MissingPairError")):
        assert f"{pseudonym(f'{SECRET}^{number}')},{error}," in table
    assert len(json.loads((cases / "index.json").read_text())["cases"]) == 2
    no_patient_in(tmp_path / "out", str(raised.value), *capfd.readouterr())


def test_a_series_without_liver_is_no_case_of_lits(folder, tmp_path):
    folder = shutil.copytree(folder, tmp_path / "copy")
    nib.save(nib.Nifti1Image(truth(3) * 0, np.diag([-1.0, -1, 2, 1])), folder / "labels/plain_3.nii.gz")
    cases = run(folder, tmp_path / "out", on_bad_case="skip", task="lits")
    assert "plain_3,NoLiverError," in (cases / "quarantine.csv").read_text()


def test_what_names_channels_and_labels_is_asked_for_once(folder, tmp_path):
    with pytest.raises(TaskError, match=r"which name none.*dataset\.json.*--set task="), open_folder(folder):
        pass
    with (
        pytest.raises(LayoutError, match=r"names\.json: cannot be read"),
        open_folder(folder, str(tmp_path / "names.json")),
    ):
        pass
    copy = shutil.copytree(folder, tmp_path / "copy")
    names_file(copy / "dataset.json")
    given = names_file(tmp_path / "names.json")
    twice = r"Received: the task .*, and its dataset\.json\. Leave the task out"
    with pytest.raises(TaskError, match=twice), open_folder(copy, given):
        pass


def test_dicom_of_a_url_becomes_the_same_files(folder, server, bucket, tmp_path):
    local = run(folder, tmp_path / "local", task="lits")
    url = f"{bucket}/study"
    storage.upload(folder, url)
    cases = run(url, tmp_path / "out", task="lits")
    assert set(server.below(url).values()) == {1}
    storage.remove(f"{url}/images/{SECRET}^0/{SECRET}003.dcm")
    skipped = run(url, tmp_path / "out" / "skipped", on_bad_case="skip", task="lits")
    assert sorted(p.name for p in cases.iterdir()) == sorted(p.name for p in local.iterdir())
    for path in local.glob("*.nii.gz"):
        wanted, made = (read_volume(p / path.name) for p in (local, cases))
        assert np.array_equal(made.array, wanted.array) and np.array_equal(made.affine, wanted.affine)
    assert f"{pseudonym(f'{SECRET}^0')},SliceError," in (skipped / "quarantine.csv").read_text()
    no_patient_in(tmp_path / "out")
