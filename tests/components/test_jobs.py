"""Jobs of two real processes evaluate and segment like one process, and each reads only its own blocks."""

import io
import json
import re
import sys
import threading

import keras
import kubernetes_server as fake
import nibabel as nib
import numpy as np
import pytest
from kubernetes_server import Frame

import keras_spatial as ks
from components import storage
from components.evaluate.evaluate import evaluate_model
from components.evaluate_job.evaluate_job import evaluate_in_job
from components.jobs.description import Description, JobError
from components.jobs.settings import JobSettings
from components.preprocess.preprocess import build_dataset, open_dataset
from components.segment.segment import segment_folder
from components.segment_job.segment_job import segment_in_job
from components.train import network
from components.train.settings import MODEL, TrainingSettings
from components.train.task import task_of
from datasets.phantom import write_lits_folder
from keras_spatial.launch import launch
from keras_spatial.volumes import Channel, Grid, Percentiles, Task, write_task

PLACED = {"mesh": "rows:2", "layout": "x:rows"}
CLASSES, FLOAT = 3, 4


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Six cases, two of them held out, their data set in the two blocks of the mesh, and a model of its task."""
    root = tmp_path_factory.mktemp("trained")
    write_lits_folder(root / "cases", cases=6, size=20)
    build_dataset(str(root / "cases"), str(root / "dataset"), resolution=16, split="fold-0-of-3", **PLACED)
    keras.utils.set_random_seed(3)
    model = network.make(TrainingSettings(filters=2, levels=2), (16, 16, 16, 1), CLASSES)
    (root / "model").mkdir()
    model.save(root / "model" / MODEL)
    write_task(root / "model" / MODEL, task_of(open_dataset(str(root / "dataset"))))
    return root


def in_pods(volume, run, *arguments, scratch=None, **options):
    """Run a step whose job's two pods are two processes here, and return the lines that they print.

    They share a volume, or a scratch folder at a URL.
    """
    lines = io.StringIO()
    with fake.running() as server:

        def pods(command):
            # As in the pods of a TrainJob, but with the addresses of this machine.
            status = launch([sys.executable, *command[1:]], 2, lines)
            print(lines.getvalue())
            server.frames = [Frame("Failed" if status else "Complete")]

        def created(name, body):
            if body["kind"] == "TrainJob":
                threading.Thread(target=pods, args=(body["spec"]["trainer"]["command"],), daemon=True).start()

        server.created = created
        server.frames = [Frame("Running")]
        volumes = {} if volume is None else {"lits": str(volume)}
        job = JobSettings(kind="TrainJob", nodes=2, image="i", cpu="2", memory="4Gi", volumes=volumes)
        place = scratch or str(volume / "scratch" / "run" / "step-abc")
        facts = run(*arguments, job=job.to_json(), scratch=place, api=fake.api(server), poll=0.1, **options)
    return facts, lines.getvalue()


def same_labels(one, other):
    names = sorted(path.name for path in one.glob("*.nii.gz"))
    assert names and names == sorted(path.name for path in other.glob("*.nii.gz"))
    for name in names:
        found, expected = nib.load(other / name), nib.load(one / name)
        labels = np.asarray(expected.dataobj)
        np.testing.assert_array_equal(np.asarray(found.dataobj), labels, err_msg=name)
        np.testing.assert_array_equal(found.affine, expected.affine)
        assert len(np.unique(labels)) > 1, "labels that could not differ"
    return names


def numbers(text, pattern):
    """The values that each process reports about itself, by its rank."""
    found = {int(m[1]): [int(n) for n in m.groups()[1:]] for m in re.finditer(rf"process (\d) has {pattern}", text)}
    return [found[rank] for rank in sorted(found)]


def test_two_pods_evaluate_as_one_process_does(trained, tmp_path, capsys):
    places = [str(trained / name) for name in ("cases", "dataset", "model")]
    made = {n: [str(tmp_path / n / part) for part in ("evaluation", "predictions")] for n in ("one", "two")}
    expected = evaluate_model(*places, *made["one"], **PLACED, thresholds=True)
    pattern = r"read (\d+) bytes of the data set, and written (\d+) of probabilities"
    [[read, written]] = numbers(capsys.readouterr().out, pattern)
    (tmp_path / "volume").mkdir()
    facts, said = in_pods(tmp_path / "volume", evaluate_in_job, *places, *made["two"], **PLACED, thresholds=True)
    assert facts == expected
    for name in ("cases.json", "cases.csv", "summary.json"):
        texts = [(tmp_path / n / "evaluation" / name).read_text() for n in made]
        assert texts[0] == texts[1]
    scores = [json.loads((tmp_path / n / "evaluation" / "metrics.json").read_text()) for n in made]
    assert [found.pop("processes") for found in scores] == [1, 2]
    assert scores[0] == scores[1] and "threshold_dice" in scores[0]
    names = same_labels(*(tmp_path / n / "predictions" for n in made))
    assert not list((tmp_path / "two" / "predictions").glob(".*"))
    # Each process wrote its own half, and no voxel twice.
    each = numbers(said, pattern)
    assert written == len(names) * 16**3 * CLASSES * FLOAT
    assert [n for _, n in each] == [written // 2] * 2
    assert len(each) == 2 and max(n for n, _ in each) < 0.75 * read


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Three scans on different grids, of which one does not fit into a network, and a file that is no scan."""
    folder = tmp_path_factory.mktemp("scans")
    generator = np.random.default_rng(0)
    affine = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -3], [0, 0, 3.0, 1], [0, 0, 0, 1]])
    for number, shape in enumerate([(20, 18, 14), (9, 30, 12), (16, 12, 10)]):
        hu = generator.normal(0, 300, shape).astype(np.int16)
        nib.save(nib.Nifti1Image(hu, affine), folder / f"volume-{number}.nii.gz")
    (folder / "volume-7.nii.gz").write_bytes(b"no NIfTI")
    return folder


def scan_model(path, task):
    keras.utils.set_random_seed(5)
    inputs = keras.Input((16, 16, 8, 1))
    x = keras.layers.Conv3D(4, 3, padding="same", activation="relu")(inputs)
    keras.Model(inputs, keras.layers.Conv3D(CLASSES, 1)(x)).save(path)
    if task is not None:
        write_task(path, task)
    return str(path)


def test_two_processes_segment_as_one_does(scans, tmp_path, capfd):
    """At the task's spacing one scan is larger than the network's input, so it is predicted in windows."""
    channel = Channel("CT", Percentiles(-200, 300, 0, 100))
    model = scan_model(tmp_path / "m.keras", Task("t", ("a", "b", "c"), (channel,), Grid(spacing=2.0)))
    for count in (1, 2):
        facts = segment_folder(str(scans), model, str(tmp_path / str(count)), processes=count, **PLACED)
        assert facts == {"predictions": {"segmented": 3, "failed": 1}}
    assert len(same_labels(tmp_path / "1", tmp_path / "2")) == 3
    assert (tmp_path / "1" / "failed.csv").read_text() == (tmp_path / "2" / "failed.csv").read_text()
    assert not list((tmp_path / "2").glob(".*"))
    said = capfd.readouterr().out
    assert said.count("segment: 4/4 volume-7.nii.gz: left out") == 2, "each line once a run"
    each = numbers(said, r"read (\d+) bytes of images, and written (\d+) of probabilities and (\d+) of labels")
    (read, written, labels), other = each
    assert other[:2] == [read, written]
    # For each voxel of one half of each window: its intensity, and the score of each class.
    assert written == read * CLASSES
    assert labels + other[2] == sum(int(np.prod(nib.load(p).shape)) for p in sorted(scans.glob("volume-[012]*")))


def test_two_pods_segment_as_one_process_does(scans, tmp_path):
    model = scan_model(tmp_path / "m.keras", None)
    (tmp_path / "volume").mkdir()
    expected = segment_folder(str(scans), model, str(tmp_path / "one"), task="lits", **PLACED)
    two = str(tmp_path / "two")
    facts, _ = in_pods(tmp_path / "volume", segment_in_job, str(scans), model, two, task="lits", **PLACED)
    assert facts == expected
    assert len(same_labels(tmp_path / "one", tmp_path / "two")) == 3
    assert "no NIfTI" not in (tmp_path / "two" / "failed.csv").read_text()


@pytest.fixture
def no_volume(bucket, monkeypatch):
    """The scratch folder of a job whose pods share nothing but an object store."""
    # The processes reach the store on this machine.
    monkeypatch.setenv("KERAS_SPATIAL_NETWORK", "shared")
    return storage.join(bucket, "run", "step-abc")


def test_two_pods_that_share_nothing_but_a_store_evaluate_as_one_process_does(trained, tmp_path, no_volume):
    places = [str(trained / name) for name in ("cases", "dataset", "model")]
    made = {n: [str(tmp_path / n / part) for part in ("evaluation", "predictions")] for n in ("one", "two")}
    expected = evaluate_model(*places, *made["one"], **PLACED)
    for name in ("failed.csv", "volume-99.nii.gz"):
        storage.write_json(storage.join(no_volume, "predictions", name), "from an attempt that failed")
    facts, said = in_pods(None, evaluate_in_job, *places, *made["two"], scratch=no_volume, **PLACED)
    assert facts == expected
    for name in ("cases.json", "cases.csv", "summary.json"):
        texts = [(tmp_path / n / "evaluation" / name).read_text() for n in made]
        assert texts[0] == texts[1]
    names = same_labels(*(tmp_path / n / "predictions" for n in made))
    assert not (tmp_path / "two" / "predictions" / "failed.csv").exists()
    each = numbers(said, r"read (\d+) bytes of the data set, and written (\d+) of probabilities")
    assert [n for _, n in each] == [len(names) * 16**3 * CLASSES * FLOAT // 2] * 2
    assert not storage.exists(storage.join(no_volume, "shared"))


def test_two_pods_that_share_nothing_but_a_store_segment_as_one_process_does(scans, tmp_path, no_volume):
    channel = Channel("CT", Percentiles(-200, 300, 0, 100))
    model = scan_model(tmp_path / "m.keras", Task("t", ("a", "b", "c"), (channel,), Grid(spacing=2.0)))
    expected = segment_folder(str(scans), model, str(tmp_path / "one"), **PLACED)
    two = str(tmp_path / "two")
    facts, _ = in_pods(None, segment_in_job, str(scans), model, two, scratch=no_volume, **PLACED)
    assert facts == expected
    assert len(same_labels(tmp_path / "one", tmp_path / "two")) == 3
    assert "no NIfTI" not in (tmp_path / "two" / "failed.csv").read_text()
    assert not storage.exists(storage.join(no_volume, "shared"))


def test_a_damaged_description_is_named(tmp_path):
    (tmp_path / "job.json").write_text('{"step": "rm"}')
    with pytest.raises(JobError, match="expected the JSON of a job with"):
        Description.read(str(tmp_path / "job.json"))


def test_several_processes_need_one_partitioned_model(monkeypatch, tmp_path, scans):
    monkeypatch.setattr(ks.processes, "_current", ks.processes.Processes((("worker", 0), ("worker", 1)), 0))
    model = keras.saving.load_model(scan_model(tmp_path / "m.keras", None), compile=False)
    sources = ks.inference.find_sources([scans])
    with pytest.raises(ValueError, match=r"one partitioned model, without flips and memory\. Received: 1 model"):
        ks.inference.segment_each(model, sources, tmp_path / "out", flips=("x",), task="lits")
