"""Steps whose corpus is in an object store get a reference, and read only what they need: a real server counts."""

import csv
import functools
import json
import shutil
import time
from pathlib import Path

import keras
import nibabel as nib
import numpy as np
import pytest
from kfp import dsl
from pydantic import TypeAdapter
from volumes.dicom_files import SAMPLES, write_series

from components import resume, storage
from components.cases import open_checked, some_cases
from components.evaluate.needed import needed
from components.gather.gather import gather_segmentations
from components.ingest.component import ingest_folder
from components.ingest.ingest import ingest_volumes
from components.preprocess.component import preprocess
from components.preprocess.preprocess import build_dataset
from components.report.report import earlier_run
from components.results import located
from components.segment.segment import segment_folder
from components.segment.settings import ALL
from components.segment.volumes import batches
from components.study.component import study
from components.sweep.component import sweep
from components.train.train import train_model
from datasets import case_builder
from datasets.cases import ChangedCaseError
from datasets.lits import conversion
from datasets.lits.cases import find_cases
from datasets.phantom import write_lits_folder
from keras_spatial.evaluation import CaseMetrics, evaluate_case
from keras_spatial.inference import NothingToSegment, ResultsCollide, VolumesBelow
from keras_spatial.volumes import Channel, Percentiles, Task, write_task


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "lits"
    write_lits_folder(folder, 4, size=16)
    return folder


def put(folder, url):
    storage.upload(folder, url)
    return url


def names_of(folder):
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())


def test_the_steps_pass_a_reference_and_read_each_file_once(server, bucket, folder, tmp_path, monkeypatch):
    url = put(folder, f"{bucket}/corpus")
    monkeypatch.setenv(resume.STORE_VARIABLE, f"{bucket}/store")
    monkeypatch.setenv(resume.RUN_VARIABLE, "run-1")
    cases, quarantine, dataset = (dsl.Dataset(uri=str(tmp_path / name)) for name in ("cases", "quarantine", "dataset"))

    ingest_folder.python_func(data=url, cases=cases, quarantine=quarantine)
    assert server.below(url) == dict.fromkeys(names_of(folder), 1)
    stored = storage.download(located(cases.path), tmp_path / "stored")
    assert names_of(stored) == ["index.json", "quarantine.csv"]
    assert cases.metadata["source"] == url

    server.reads.clear()
    preprocess.python_func(cases=cases, dataset=dataset, resolution=16)
    assert server.below(url) == dict.fromkeys(names_of(folder), 1)
    ingest_volumes(str(folder), str(tmp_path / "here"), str(tmp_path / "here.html"))
    build_dataset(str(tmp_path / "here"), str(tmp_path / "built"), resolution=16)
    brought = storage.download(located(dataset.path), tmp_path / "brought")
    [made] = brought.glob("lits/*/*/dataset_info.json")
    [wanted] = (tmp_path / "built").glob("lits/*/*/dataset_info.json")
    assert names_of(made.parent) == names_of(wanted.parent)
    for name in names_of(wanted.parent):
        assert (made.parent / name).read_bytes() == (wanted.parent / name).read_bytes()

    server.reads.clear()
    [held_out] = json.loads((made.parent / "metadata.json").read_text())["cases"]["test"]
    with needed(located(cases.path), located(dataset.path)) as (here, near):
        assert [case.number for case in find_cases(here)] == [held_out]
        assert [p.name.split("-")[1] for p in Path(near).rglob("*tfrecord*")] == ["test.tfrecord"]
    assert server.below(url) == {f"volume-{held_out}.nii.gz": 1, f"segmentation-{held_out}.nii.gz": 1}
    records = {name for name in server.below(located(dataset.path)) if "tfrecord" in name}
    assert [name.rpartition("/")[2].split("-")[1] for name in records] == ["test.tfrecord"]

    server.reads.clear()
    small = {"mesh": "rows:2", "layout": "x:rows", "filters": 2, "levels": 2, "epochs": 1, "slices": 0}
    train_model(located(dataset.path), str(tmp_path / "model"), **small)
    records = {name for name in server.below(located(dataset.path)) if "tfrecord" in name}
    assert {name.rpartition("/")[2].split("-")[1] for name in records} <= {"train.tfrecord", "validation.tfrecord"}
    assert not server.below(url)


def described(folder):
    """Cases in LiTS's form as those of a described folder, whose intensities have to be examined first."""
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    write_lits_folder(folder / "all", 4, size=16)
    for number in range(4):
        (folder / "all" / f"volume-{number}.nii.gz").rename(folder / "imagesTr" / f"a_{number}.nii.gz")
        (folder / "all" / f"segmentation-{number}.nii.gz").rename(folder / "labelsTr" / f"a_{number}.nii.gz")
    (folder / "all").rmdir()
    training = [{"image": f"./imagesTr/a_{n}.nii.gz", "label": f"./labelsTr/a_{n}.nii.gz"} for n in range(4)]
    names = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "organ", "2": "tumour"}}
    (folder / "dataset.json").write_text(json.dumps({"name": "Organs", **names, "training": training}))
    return folder


@pytest.mark.parametrize("kind", ["lits", "described"])
def test_a_lost_pod_costs_no_case_that_was_converted_though_all_is_in_a_store(
    server, bucket, folder, kind, tmp_path, monkeypatch
):
    source = folder if kind == "lits" else described(tmp_path / "described")
    url, scratch = put(source, f"{bucket}/corpus"), f"{bucket}/scratch"
    monkeypatch.setenv(resume.STORE_VARIABLE, f"{bucket}/store")
    monkeypatch.setenv(resume.SCRATCH_VARIABLE, scratch)
    monkeypatch.setenv(resume.RUN_VARIABLE, "run-1")
    monkeypatch.setattr(storage, "mirrored", functools.partial(storage.mirrored, seconds=0.05))
    cases, quarantine = (dsl.Dataset(uri=str(tmp_path / name)) for name in ("cases", "quarantine"))
    ingest_folder.python_func(data=url, cases=cases, quarantine=quarantine)
    real, converted = case_builder.convert, []

    def uploaded():
        return [name for name in storage.system(scratch).find(scratch) if name.endswith("facts.json")]

    def lose(case, target):
        if len(converted) < 2:
            converted.append(case)
            return real(case, target)
        # When the pod is lost, only what is in the store remains.
        deadline = time.monotonic() + 20
        while len(uploaded()) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        raise RuntimeError(f"the pod is lost, {len(uploaded())} cases are safe")

    monkeypatch.setattr(case_builder, "convert", lose)
    with pytest.raises(RuntimeError, match="the pod is lost, 2 cases are safe"):
        preprocess.python_func(cases=cases, dataset=dsl.Dataset(uri=str(tmp_path / "lost")), resolution=16)
    monkeypatch.setattr(case_builder, "convert", real)
    server.reads.clear()
    dataset = dsl.Dataset(uri=str(tmp_path / "dataset"))
    preprocess.python_func(cases=cases, dataset=dataset, resolution=16)
    safe = {case.name[-1] for case in converted}
    others = [name for name in names_of(source) if name.endswith(".nii.gz") and name[-8] not in safe]
    assert len(others) == 4 and server.below(url) == dict.fromkeys(others, 1)
    build_dataset(located(cases.path), str(tmp_path / "whole"), resolution=16)
    made, whole = (tree_of(f) for f in (storage.download(located(dataset.path), tmp_path / "back"), tmp_path / "whole"))
    assert made == whole
    assert not storage.exists(scratch)


def test_a_store_of_results_that_fails_costs_no_case_that_was_converted(bucket, folder, tmp_path, monkeypatch):
    """Here the volume for what outlives a pod is mounted, and the data set goes to a store."""
    monkeypatch.setenv(resume.STORE_VARIABLE, f"{bucket}/store")
    monkeypatch.setenv(resume.SCRATCH_VARIABLE, str(tmp_path / "volume"))
    cases, quarantine = (dsl.Dataset(uri=str(tmp_path / name)) for name in ("cases", "quarantine"))
    ingest_folder.python_func(data=put(folder, f"{bucket}/corpus"), cases=cases, quarantine=quarantine)

    def full(*_):
        raise storage.StorageError("the store is full")

    with monkeypatch.context() as broken, pytest.raises(storage.StorageError, match="full"):
        broken.setattr(storage, "upload", full)
        preprocess.python_func(cases=cases, dataset=dsl.Dataset(uri=str(tmp_path / "lost")), resolution=16)
    monkeypatch.setattr(conversion, "read_case", lambda *_: pytest.fail("converted again"))
    dataset = dsl.Dataset(uri=str(tmp_path / "dataset"))
    preprocess.python_func(cases=cases, dataset=dataset, resolution=16)
    assert any(name.endswith("dataset_info.json") for name in storage.listing(located(dataset.path))[1])
    assert not list((tmp_path / "volume").iterdir())


def tree_of(folder):
    return {name: (Path(folder) / name).read_bytes() for name in names_of(folder) if "/." not in f"/{name}"}


def test_a_file_that_was_changed_after_it_was_checked_ends_the_step_that_reads_it(bucket, folder, tmp_path):
    url = put(folder, f"{bucket}/corpus")
    ingest_volumes(url, str(tmp_path / "cases"), str(tmp_path / "q.html"))
    storage.upload(folder / "segmentation-1.nii.gz", f"{url}/segmentation-2.nii.gz")
    changed = f"{url}/segmentation-2.nii.gz: expected the file as it was"
    with pytest.raises(ChangedCaseError, match=changed):
        build_dataset(str(tmp_path / "cases"), str(tmp_path / "data"), resolution=16)
    with pytest.raises(ChangedCaseError, match=changed), some_cases(tmp_path / "cases", {2}):
        pass
    with some_cases(tmp_path / "cases", {1}) as here:
        assert [case.number for case in find_cases(here)] == [1]


def test_a_folder_of_a_volume_is_a_reference_too_where_it_is_given_as_a_file_url(folder, tmp_path):
    corpus = tmp_path / "corpus"
    shutil.copytree(folder, corpus)
    ingest_volumes(corpus.as_uri(), str(tmp_path / "cases"), str(tmp_path / "q.html"))
    assert names_of(tmp_path / "cases") == ["index.json", "quarantine.csv"]
    with some_cases(tmp_path / "cases", {1}) as here:
        assert (Path(here) / "volume-1.nii.gz").read_bytes() == (corpus / "volume-1.nii.gz").read_bytes()
    shutil.copyfile(folder / "segmentation-1.nii.gz", corpus / "segmentation-2.nii.gz")
    with pytest.raises(ChangedCaseError, match="segmentation-2"), some_cases(tmp_path / "cases", {2}):
        pass


def test_bad_cases_of_a_url_are_in_the_quarantine_and_no_part_of_the_reference(bucket, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "spoilt")
    path = tmp_path / "spoilt" / "volume-1.nii.gz"
    path.write_bytes(path.read_bytes()[:500])
    url = put(tmp_path / "spoilt", f"{bucket}/corpus")
    facts = ingest_volumes(url, str(tmp_path / "cases"), str(tmp_path / "q.html"), on_bad_case="skip")
    assert facts["quarantine"] == {"usable": 3, "bad": 1}
    [bad] = csv.DictReader((tmp_path / "cases" / "quarantine.csv").open())
    assert bad["case"] == "volume-1" and f"{url}/volume-1.nii.gz" in bad["reason"] and "/tmp" not in bad["reason"]
    with open_checked(tmp_path / "cases") as checked:
        assert [case.number for case in checked.cases] == [0, 2, 3]


def test_a_baseline_at_a_url_is_compared_case_by_case(bucket, tmp_path):
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[1:3, 1:3, 1:3], labels[1, 1, 1] = 1, 2
    scored = evaluate_case(labels, labels, (1.0, 1.0, 1.0), case="volume-0")
    for name in ("metrics.json", "cases.json"):
        (tmp_path / "first").mkdir(exist_ok=True)
        (tmp_path / "first" / name).write_bytes(TypeAdapter(list[CaseMetrics]).dump_json([scored]))
    put(tmp_path / "first", f"{bucket}/first")
    [run], notes = earlier_run(f"{bucket}/first/metrics.json")
    assert (run.title, [metrics.case for metrics in run.metrics], notes) == ("baseline: first", ["volume-0"], [])
    storage.remove(f"{bucket}/first/cases.json")
    runs, [note] = earlier_run(f"{bucket}/first/metrics.json")
    assert not runs and "compared only by its means" in note


SIZE = (8, 6, 4)


@pytest.fixture
def model(tmp_path):
    """A network that gives class 1 to voxels above 0 after normalisation."""
    inputs = keras.Input((*SIZE, 1))
    layer = keras.layers.Conv3D(2, 1)
    made = keras.Model(inputs, layer(inputs))
    layer.set_weights([np.array([0, 50], np.float32).reshape(1, 1, 1, 1, 2), np.zeros(2, np.float32)])
    made.save(tmp_path / "model.keras")
    write_task(
        tmp_path / "model.keras", Task("a", ("background", "b"), (Channel("CT", Percentiles(-50, 350, 100, 80)),))
    )
    return str(tmp_path / "model.keras")


def write_scans(folder):
    folder.mkdir()
    for number in range(4):
        hu = np.full((10, 6, 4), -100, np.int16)
        hu[: number + 2] = 200
        nib.save(nib.Nifti1Image(hu, np.eye(4)), folder / f"scan-{number}.nii.gz")
    path = folder / "scan-3.nii.gz"
    path.write_bytes(path.read_bytes()[:60])


def test_a_share_of_a_batch_reads_its_own_files_alone(server, bucket, model, tmp_path):
    write_scans(tmp_path / "scans")
    url = put(tmp_path / "scans", f"{bucket}/scans")
    options = {"mesh": "rows:1", "layout": "x:rows"}
    for share, own in (("0-of-2", (0, 2)), ("1-of-2", (1, 3)), ("4-of-9", ())):
        server.reads.clear()
        facts = segment_folder(url, model, str(tmp_path / share), share=share, **options)
        assert server.below(url) == {f"scan-{number}.nii.gz": 1 for number in own}
        assert facts["predictions"] == {"segmented": len(own) - (3 in own), "failed": int(3 in own)}
    [failed] = csv.DictReader((tmp_path / "1-of-2" / "failed.csv").open())
    assert failed["volume"] == "scan-3.nii.gz" and "/tmp" not in failed["reason"]
    segment_folder(str(tmp_path / "scans"), model, str(tmp_path / "all"), **options)
    for number in range(3):
        name = f"segmentation-scan-{number}.nii.gz"
        made, wanted = (np.asarray(nib.load(tmp_path / f / name).dataobj) for f in (f"{number % 2}-of-2", "all"))
        np.testing.assert_array_equal(made, wanted)


def test_dicom_series_of_a_url_are_brought_by_their_folders(server, bucket, tmp_path):
    for number in range(2):
        write_series(tmp_path / "scans" / f"patient-{number}", series=f"1.2.{number}")
    (tmp_path / "scans" / "README").write_text("No volume.")
    url = put(tmp_path / "scans", f"{bucket}/scans")
    assert len([source for batch in batches(url, ALL) for source in batch.sources]) == 2
    server.reads.clear()
    assert [len(batch.sources) for batch in batches(url, "1-of-3")] == [1]
    assert {name.partition("/")[0] for name in server.below(url)} == {"patient-1"}


def test_channels_of_a_case_at_a_url_are_brought_together(server, bucket, tmp_path):
    write_scans(tmp_path / "scans")
    for number, name in enumerate(("a_0000", "a_0001", "b_0000", "b_0001")):
        (tmp_path / "scans" / f"scan-{number}.nii.gz").rename(tmp_path / "scans" / f"{name}.nii.gz")
    url = put(tmp_path / "scans", f"{bucket}/scans")
    server.reads.clear()
    [[source]] = [batch.sources for batch in batches(url, "1-of-2", channels=("T1", "T2"))]
    assert source.name == "b" and [path.name for path in source.files] == ["b_0000.nii.gz", "b_0001.nii.gz"]
    assert {name for name in server.below(url) if name.startswith("a_")} == set()


def slices_of(folder, numbers, series):
    """Some of the slices of a series, in a folder."""
    write_series(folder / "all", series=series)
    for number, path in enumerate(sorted((folder / "all").iterdir())):
        if number in numbers:
            path.rename(folder / path.name)
    shutil.rmtree(folder / "all")


def test_folders_of_folders_are_shared_where_there_are_more_shares_than_folders(server, bucket, tmp_path):
    """An archive is often one folder: a single pod would get it all, and the others nothing."""
    for number in range(3):
        write_series(tmp_path / "scans" / "archive" / f"patient-{number}" / "study", series=f"1.2.{number}")
    url = put(tmp_path / "scans", f"{bucket}/scans")
    names = set()
    for share in range(2):
        server.reads.clear()
        names |= {source.stem for batch in batches(url, f"{share}-of-2") for source in batch.sources}
        patients = {name.split("/")[1] for name in server.below(url)}
        assert patients == ({"patient-0", "patient-2"}, {"patient-1"})[share]
    assert names == {source.stem for batch in batches(url, ALL) for source in batch.sources}
    assert len(names) == 3


def test_a_series_that_ends_in_the_next_of_the_folders_that_are_shared_is_refused_by_two_headers_of_each(
    server, bucket, tmp_path
):
    """Archives fill folders with as many files as fit. Nothing is segmented in vain."""
    for part in range(3):
        folder = tmp_path / "scans" / f"part-{part}"
        slices_of(folder, range(3), f"1.2.{part}")
        slices_of(folder / "z", range(3, 6), f"1.2.{part + 1}")
        (folder / "DICOMDIR").write_bytes(b"the directory of a medium")
    url = put(tmp_path / "scans", f"{bucket}/scans")
    server.reads.clear()
    server.heads.clear()
    for share in range(2):
        with pytest.raises(
            ResultsCollide, match=r"in one folder, .* Received: DICOM series [0-9a-f]{16} in two of them"
        ):
            list(batches(url, f"{share}-of-2"))
    assert not server.below(url)
    assert sum(server.heads.values()) == 2 * 3 * 2


@pytest.mark.parametrize("name", ["a.dcm", "z.dcm"], ids=["first", "last"])
@pytest.mark.parametrize("object_of", ["test-SR.dcm", "liver_1frame.dcm"], ids=["report", "segmentation"])
def test_objects_that_are_no_images_may_be_of_one_series_in_all_folders(bucket, tmp_path, object_of, name):
    for part in range(2):
        folder = write_series(tmp_path / "scans" / f"part-{part}", series=f"1.2.{part}")
        shutil.copy(SAMPLES / object_of, folder / name)
    url = put(tmp_path / "scans", f"{bucket}/scans")
    shares = [[source for batch in batches(url, f"{n}-of-2") for source in batch.sources] for n in range(2)]
    assert [[len(source.volume.slices) for source in sources] for sources in shares] == [[6], [6]]


def test_a_header_that_the_store_forbids_to_read_ends_every_share(server, bucket, tmp_path):
    for part in range(2):
        write_series(tmp_path / "scans" / f"part-{part}", series=f"1.2.{part}")
    url = put(tmp_path / "scans", f"{bucket}/scans")
    forbidden = f"{url}/part-1/{sorted(p.name for p in (tmp_path / 'scans' / 'part-1').iterdir())[0]}"
    server.forbid(forbidden)
    for share in range(2):
        with pytest.raises(storage.StorageError, match=f"^{forbidden}: PermissionError: .*Look at the address"):
            list(batches(url, f"{share}-of-2"))


def test_a_series_in_two_of_the_folders_that_are_shared_is_refused(bucket, model, tmp_path):
    """Each half would be a volume of its own, whose segmentation lacks the slices of the other half."""
    for part in range(2):
        folder = tmp_path / "scans" / "patient" / f"part-{part}"
        slices_of(folder / "m", range(3 * part, 3 * part + 3), "1.2.3")
        # The first and the last file of each folder are of a whole series.
        slices_of(folder / "a", range(3), f"1.9.{part}")
        slices_of(folder / "z", range(3, 6), f"1.9.{part}")
    url = put(tmp_path / "scans", f"{bucket}/scans")
    [sources] = [batch.sources for batch in batches(url, ALL)]
    assert [len(source.volume.slices) for source in sources] == [6, 6, 6]
    options = {"mesh": "rows:1", "layout": "x:rows"}
    parts = [str(tmp_path / f"{share}") for share in range(2)]
    for share, folder in enumerate(parts):
        segment_folder(url, model, folder, share=f"{share}-of-2", **options)
    with pytest.raises(ResultsCollide, match="expected shares without common volumes"):
        gather_segmentations(parts, str(tmp_path / "all"))
    with pytest.raises(ResultsCollide, match="expected all files of a DICOM series in one folder"):
        list(batches(f"{url}/patient", ALL))


def test_files_beside_a_folder_of_the_same_name_as_theirs_are_another_share(bucket, tmp_path):
    slices_of(tmp_path / "scans", range(3), "1.2.3")
    slices_of(tmp_path / "scans" / "scans", range(3, 6), "1.2.3")
    url = put(tmp_path / "scans", f"{bucket}/scans")
    with pytest.raises(ResultsCollide, match="expected all files of a DICOM series in one folder"):
        list(batches(url, ALL))


@pytest.mark.parametrize("step", ["sweep", "study"])
def test_of_a_model_the_steps_that_compare_trainings_read_one_small_file(server, bucket, tmp_path, monkeypatch, step):
    monkeypatch.setenv(resume.STORE_VARIABLE, f"{bucket}/store")
    models = []
    for number, rate in enumerate((0.1, 0.01)):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "model.keras").write_bytes(b"large")
        course = {"history": {"loss": [2.0, 1.0]}, "best": {"epoch": 1, "dice": rate}, "seconds": 1.0}
        facts = {
            "learning_rate": rate,
            "resolution": number,
            "epochs": 2,
            "mesh": "a:1",
            "layout": "",
            "peak_bytes": {},
        }
        (tmp_path / f"{number}" / "training.json").write_text(json.dumps({**facts, **course}))
        model = dsl.Model(uri=str(tmp_path / f"reference-{number}"), metadata={"step_key": f"{number}"})
        Path(model.path).mkdir()
        storage.write_json(
            f"{model.path}/reference.json", {"location": put(tmp_path / f"{number}", f"{bucket}/{number}")}
        )
        models.append(model)
    made = {name: dsl.Artifact(uri=str(tmp_path / name)) for name in ("table", "summary", "page")}
    server.reads.clear()
    if step == "sweep":
        del made["page"]
        assert sweep.python_func(models=models, **made) == 0.1
    else:
        del made["summary"]
        evaluations = [
            dsl.Artifact(uri=str(tmp_path / f"scores-{n}"), metadata={"step_key": f"e{n}"}) for n in range(2)
        ]
        labels = np.ones((4, 4, 4), np.uint8)
        for evaluation in evaluations:
            Path(evaluation.path).mkdir()
            scored = evaluate_case(labels, labels, (1.0, 1.0, 1.0), case="volume-0")
            (Path(evaluation.path) / "cases.json").write_bytes(TypeAdapter(list[CaseMetrics]).dump_json([scored]))
            (Path(evaluation.path) / "metrics.json").write_text(json.dumps({"dice": {"liver": 1.0}}))
        study.python_func(models=models, evaluations=evaluations, **made)
    assert {name for number in range(2) for name in server.below(f"{bucket}/{number}")} == {"training.json"}
    assert len(json.loads(Path(made["table"].path).read_text())) == 2


def test_a_url_of_one_volume_and_urls_without_any(bucket, tmp_path):
    write_scans(tmp_path / "scans")
    url = put(tmp_path / "scans" / "scan-0.nii.gz", f"{bucket}/scan-0.nii.gz")
    assert [source.name for batch in batches(url, ALL) for source in batch.sources] == ["scan-0.nii.gz"]
    with pytest.raises(NothingToSegment, match=f"{bucket}/none: no such file or folder"):
        list(batches(f"{bucket}/none", ALL))
    put(tmp_path / "scans", f"{bucket}/deep/er")
    with pytest.raises(VolumesBelow, match=f"{bucket}/deep: expected the volumes in the folder itself"):
        list(batches(f"{bucket}/deep", ALL))
