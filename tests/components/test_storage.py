"""Folders and results in an object store: a real S3-compatible server on loopback, and a volume."""

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import boto3
import kubernetes_server as fake
import pytest
import s3_server
import s3fs
import tensorflow as tf
from kfp import dsl

from components import resume, storage
from components.base import component
from components.ingest.component import ingest_folder
from components.jobs import heartbeat
from components.jobs.description import Description
from components.jobs.settings import JobSettings
from components.jobs.worker import _near
from components.results import located
from components.train_job.train_job import train_in_job
from keras_spatial.launch import free_ports
from pipelines import local
from pipelines.parameters import pipeline
from pipelines.resources import Resources
from pipelines.settings import load
from pipelines.shared import begin

TRAINING = {
    "mesh": "rows:2",
    "layout": "x:rows",
    "filters": 2,
    "levels": 2,
    "dropout": 0.0,
    "epochs": 2,
    "batch_size": 1,
    "learning_rate": 0.003,
    "minutes": 0.0,
    "seed": 0,
    "backup_steps": 50,
    "slices": 0,
}


@pytest.fixture(scope="module")
def server():
    with s3_server.running() as server:
        yield server


@pytest.fixture
def bucket(server, monkeypatch, tmp_path):
    """URL of an empty folder in a bucket."""
    return s3_server.bucket_of(server, monkeypatch, tmp_path)


@pytest.fixture(params=["volume", "s3"])
def place(request, tmp_path):
    """A folder of a mounted volume, or a URL."""
    return request.getfixturevalue("bucket") if request.param == "s3" else str(tmp_path / "volume")


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "data"
    (path / "deep" / "er").mkdir(parents=True)
    (path / "volume-0.nii.gz").write_bytes(b"0" * 1000)
    (path / "deep" / "er" / "ünï.txt").write_text("text")
    (path / "empty").write_bytes(b"")
    return path


def test_a_folder_comes_back_as_it_went(bucket, folder, tmp_path):
    storage.upload(folder, storage.join(bucket, "data"))
    assert tree(storage.download(storage.join(bucket, "data"), tmp_path / "back")) == tree(folder)


def test_what_lies_behind_a_link_to_a_folder_comes_back(bucket, folder, tmp_path):
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "labelsTr").symlink_to(folder / "deep")
    storage.upload(tmp_path / "linked", storage.join(bucket, "linked"))
    back = storage.download(storage.join(bucket, "linked"), tmp_path / "back")
    assert tree(back) == {"labelsTr/er/ünï.txt": b"text"}


def test_a_file_comes_back_under_its_name(bucket, folder, tmp_path):
    url = storage.join(bucket, "volume-0.nii.gz")
    storage.upload(folder / "volume-0.nii.gz", url)
    near = storage.local(url, tmp_path / "cache")
    assert near.name == "volume-0.nii.gz"
    assert near.read_bytes() == b"0" * 1000


def test_a_path_is_used_where_it_is(folder):
    assert storage.local(str(folder)) == folder


@pytest.mark.parametrize("name", ["/tmp/{}/evil", "../evil", "deep/../../evil", "deep//evil", "./evil"])
def test_an_object_that_would_be_written_outside_of_the_folder_is_refused(bucket, folder, tmp_path, name):
    url = storage.join(bucket, "data")
    storage.upload(folder, url)
    key = f"{url.removeprefix('s3://bucket/')}/{name.format(tmp_path.name)}"
    # As anybody may who can write there: fsspec itself would tidy up the name.
    boto3.client("s3").put_object(Bucket="bucket", Key=key, Body=b"evil")
    before = tree(tmp_path)
    with pytest.raises(storage.StorageError, match=r"data: expected objects .* below a folder. Received: '.*evil'"):
        storage.download(url, tmp_path / "back")
    assert tree(tmp_path) == before
    assert not Path("/tmp", tmp_path.name).exists()


def test_the_mark_of_an_empty_folder_is_no_file(bucket, folder, tmp_path):
    url = storage.join(bucket, "data")
    storage.upload(folder, url)
    for mark in ("", "deep/", "marked/"):
        boto3.client("s3").put_object(Bucket="bucket", Key=f"{url.removeprefix('s3://bucket/')}/{mark}", Body=b"")
    assert tree(storage.download(url, tmp_path / "back")) == tree(folder)


def test_what_a_process_downloads_lies_where_nobody_else_could_have_put_it(bucket, folder, tmp_path):
    """Another user of the machine can make any folder in /tmp before, and a number of a process comes again."""
    url = storage.join(bucket, "data")
    storage.upload(folder, url)
    program = (
        "import json, os, stat, sys\n"
        "from pathlib import Path\n"
        "from components import storage\n"
        "place = storage.local(sys.argv[1])\n"
        "own = Path(sys.argv[2]) / place.relative_to(sys.argv[2]).parts[0]\n"
        "names = sorted(p.name for p in place.iterdir())\n"
        "print(json.dumps([own.name, stat.S_IMODE(own.stat().st_mode), os.getpid(), names]))"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", program, url, str(tmp_path)]
    own, mode, number, names = json.loads(subprocess.check_output(command, env=environment))
    assert str(number) not in own and mode == 0o700
    assert names == ["deep", "empty", "volume-0.nii.gz"]
    assert not (tmp_path / own).exists(), "it is removed with the process"


def test_what_is_not_there_is_named(bucket, tmp_path):
    with pytest.raises(storage.StorageError, match=r"s3://bucket/.*/none: nothing is there"):
        storage.download(storage.join(bucket, "none"), tmp_path / "x")


def test_a_store_that_refuses_is_named(bucket, tmp_path):
    with pytest.raises(storage.StorageError, match=r"s3://no-such-bucket/x: .*Look at the address, the credentials"):
        storage.upload(__file__, "s3://no-such-bucket/x")


def test_a_store_that_cannot_be_reached_is_named_and_costs_no_job_its_signs_of_life(bucket, monkeypatch, capsys):
    """Its client raises errors that are none of the system's: the job must neither be deleted nor be left alone."""
    port = free_ports(1)[0]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 1)
    s3fs.S3FileSystem.clear_instance_cache()
    place = storage.join(bucket, "heartbeat")
    try:
        with pytest.raises(storage.StorageError, match=r"heartbeat: .*Could not connect"):
            storage.read_json(place)
        assert heartbeat._read(place) is None
        heartbeat.beat(place)
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
    assert "heartbeat: cannot be written" in capsys.readouterr().out


def test_an_unknown_kind_of_store_is_named():
    with pytest.raises(storage.StorageError, match=r"ssss://x: cannot be opened.*expected one of \['gcs', 'gs'"):
        storage.local("ssss://x")


def test_a_fingerprint_changes_with_content_of_the_same_size(bucket, folder):
    storage.upload(folder, storage.join(bucket, "data"))
    before = resume.fingerprint(storage.join(bucket, "data"))
    assert resume.fingerprint(storage.join(bucket, "data")) == before
    (folder / "volume-0.nii.gz").write_bytes(b"1" * 1000)
    storage.upload(folder, storage.join(bucket, "data"))
    assert resume.fingerprint(storage.join(bucket, "data")) != before


def test_json_is_absent_until_it_is_there(place):
    assert storage.read_json(storage.join(place, "record.json")) is None
    storage.write_json(storage.join(place, "record.json"), {"a": 1})
    assert storage.read_json(storage.join(place, "record.json")) == {"a": 1}
    storage.remove(place)
    storage.remove(place)
    assert storage.read_json(storage.join(place, "record.json")) is None


def test_backups_outlive_the_machine_that_wrote_them(bucket, tmp_path):
    url = storage.join(bucket, "work")
    with storage.mirrored(url, tmp_path / "first", seconds=0.05) as work:
        (work / "backup.npz").write_bytes(b"step 50")
        # The machine could be lost from here on.
        deadline = time.monotonic() + 20
        while not storage.exists(url) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert storage.download(url, tmp_path / "elsewhere").joinpath("backup.npz").read_bytes() == b"step 50"
        (work / "backup.npz").write_bytes(b"step 100")
    with storage.mirrored(url, tmp_path / "second", uploads=False) as work:
        assert (work / "backup.npz").read_bytes() == b"step 100"


def test_a_folder_that_cannot_be_written_says_what_an_administrator_has_to_change(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        storage.StorageError, match=r"cannot be written by user \d+, groups .* belongs to user .*fsGroup"
    ):
        storage.writable(tmp_path / "file" / "folder")


# Steps whose results lie in a store


class Artifact:
    """As KFP gives it: a path of the pod's own."""

    def __init__(self, path, metadata=None):
        self.path, self.metadata, self.uri = str(path), dict(metadata or {}), str(path)


class Steps:
    """Two steps in pods of their own, of which the first makes something large."""

    def __init__(self, tmp_path):
        self.folder, self.calls, self.pods = tmp_path / "pods", [], 0

    def make(self, cases, summary):
        self.calls.append("make")
        Path(cases).mkdir(parents=True)
        (Path(cases) / "volume-0.nii").write_bytes(b"v" * 10_000)
        Path(summary).write_text("1 case")
        return {"cases": {"usable": 1}}

    def use(self, cases, result):
        self.calls.append("use")
        Path(result).write_text(str(sum(len(v) for v in tree(cases).values())))

    def run(self):
        """One run of both; the artifacts, by name."""
        self.pods += 1
        pod = self.folder / str(self.pods)
        pod.mkdir(parents=True)
        cases, summary, result = (Artifact(pod / name) for name in ("cases", "summary", "result"))
        resume.step("make", self.make, outputs={"cases": cases, "summary": summary}, stored=("cases",))
        # KFP carries what is in the artifact's folder, and its metadata, to another pod.
        resume.step("use", self.use, inputs={"cases": cases}, outputs={"result": result})
        return {"cases": cases, "summary": summary, "result": result}


@pytest.fixture
def steps(place, tmp_path, monkeypatch):
    monkeypatch.setenv(resume.STORE_VARIABLE, place)
    monkeypatch.setenv(resume.RUN_VARIABLE, "run-1")
    return Steps(tmp_path)


def test_large_results_are_passed_on_by_reference(steps, place):
    made = steps.run()
    assert list(tree(made["cases"].path)) == [storage.REFERENCE]
    assert located(made["cases"].path).startswith(place)
    assert made["cases"].metadata["location"].startswith(place)
    assert Path(made["summary"].path).read_text() == "1 case"
    assert Path(made["result"].path).read_text() == "10000"


def test_a_run_takes_from_the_store_what_an_earlier_one_has_made(steps, monkeypatch):
    first = steps.run()
    monkeypatch.setenv(resume.RUN_VARIABLE, "run-2")
    second = steps.run()
    assert steps.calls == ["make", "use"]
    assert Path(second["result"].path).read_text() == "10000"
    assert Path(second["summary"].path).read_text() == "1 case"
    assert second["cases"].metadata == first["cases"].metadata


def test_other_code_is_other_results(steps, monkeypatch):
    steps.run()
    monkeypatch.setattr(resume, "code_version", lambda: "other")
    steps.run()
    assert steps.calls == ["make", "use"] * 2


def test_a_step_that_was_interrupted_is_not_taken_for_finished(steps, monkeypatch):
    def full(cases, summary):
        Path(cases).mkdir(parents=True)
        raise OSError("disk is full")

    made = Artifact(steps.folder / "x"), Artifact(steps.folder / "y")
    with pytest.raises(OSError, match="disk is full"):
        resume.step("make", full, outputs=dict(zip(("cases", "summary"), made, strict=True)), stored=("cases",))
    monkeypatch.setenv(resume.RUN_VARIABLE, "run-2")
    steps.run()
    assert steps.calls == ["make", "use"]


def test_results_that_were_deleted_are_made_again(steps, place, monkeypatch):
    first = steps.run()
    storage.remove(located(first["cases"].path))
    monkeypatch.setenv(resume.RUN_VARIABLE, "run-2")
    assert Path(steps.run()["result"].path).read_text() == "10000"
    # The small result of the second step is still there.
    assert steps.calls == ["make", "use", "make"]


def test_a_store_that_fails_after_a_training_does_not_cost_its_backup(place, tmp_path, monkeypatch):
    monkeypatch.setenv(resume.STORE_VARIABLE, place)
    monkeypatch.setenv(resume.RUN_VARIABLE, "run-1")
    monkeypatch.setenv(resume.SCRATCH_VARIABLE, str(tmp_path / "scratch"))

    def train(model, scratch):
        (Path(scratch) / "backup.npz").write_bytes(b"state")
        Path(model).write_text("model")

    def full(*arguments):
        raise storage.StorageError("the store is full")

    monkeypatch.setattr(resume.results.Results, "finish", full)
    with pytest.raises(storage.StorageError, match="the store is full"):
        resume.step("train", train, outputs={"model": Artifact(tmp_path / "model")}, scratch=True)
    assert [p.name for p in (tmp_path / "scratch").rglob("*.npz")] == ["backup.npz"]


def test_tensorboards_logs_are_in_the_store_while_a_training_writes_them(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv(resume.STORE_VARIABLE, bucket)
    monkeypatch.setenv(resume.RUN_VARIABLE, "run-1")
    monkeypatch.setattr(storage, "mirrored", functools.partial(storage.mirrored, seconds=0.05))
    attempts = []

    def records():
        """What a TensorBoard elsewhere reads of each event file."""
        files = [f"s3://{name}" for name in storage.system("s3://").find(f"{bucket}") if "tfevents" in name]
        near = [str(storage.download(file, tmp_path / file.rsplit("/", 1)[-1])) for file in files]
        return [sum(1 for _ in tf.data.TFRecordDataset(path)) for path in near]

    def train(model):
        writer = tf.summary.create_file_writer(f"{model}/logs/train", filename_suffix=f".{len(attempts)}")
        for step in range(3):
            with writer.as_default():
                tf.summary.scalar("loss", 1.0 / (step + 1), step=step)
            writer.flush()
            # The first record of a file is its version.
            wanted = [*attempts, step + 2]
            deadline = time.monotonic() + 10
            while records() != wanted:
                assert time.monotonic() < deadline, (records(), wanted)
                time.sleep(0.05)
        attempts.append(4)
        if len(attempts) == 1:
            raise RuntimeError("killed")

    def attempt():
        resume.step("train", train, outputs={"model": Artifact(tmp_path / "model")}, live={"model": "logs"})

    with pytest.raises(RuntimeError, match="killed"):
        attempt()
    attempt()
    assert records() == [4, 4]


def test_a_record_that_is_cut_off_is_none(steps, place):
    steps.run()
    if storage.is_url(place):
        pytest.skip("an object appears whole")
    for record in Path(place).glob("*/record.json"):
        record.write_bytes(record.read_bytes()[:20])
    assert storage.read_json(str(next(Path(place).glob("make-*/record.json")))) is None


def test_scratch_has_a_folder_for_each_run_and_leaves_nothing(place, tmp_path, monkeypatch):
    monkeypatch.setenv(resume.SCRATCH_VARIABLE, place)
    seen = []

    def train(model, scratch):
        seen.append((Path(scratch) / "backup.npz").exists())
        (Path(scratch) / "backup.npz").write_bytes(b"state")
        if len(seen) % 2:
            raise RuntimeError("killed")
        Path(model).write_text("model")

    for run in ("run-1", "run-1", "run-2", "run-2"):
        monkeypatch.setenv(resume.RUN_VARIABLE, run)
        try:
            resume.step("train", train, outputs={"model": Artifact(tmp_path / f"{run}.keras")}, scratch=True)
        except RuntimeError:
            continue
        assert storage.read_json(storage.join(place, run, "x")) is None
    # The second attempt of a run finds the first one's backup, and another run does not.
    assert seen == [False, True, False, True]
    assert storage.is_url(place) or not [p for p in Path(place).rglob("*") if p.is_file()]


def test_a_step_of_other_code_than_the_packages_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv(resume.CODE_VARIABLE, "0123456789abcdef")
    with pytest.raises(resume.OtherCodeError, match=r"compiled from code 0123456789abcdef, and the image has .*digest"):
        resume.step("make", print, outputs={})


# What KFP has imported


def imported_step(imported, **folders):
    """What a step that reads an imported folder is given, and the step's key."""
    made, seen = dsl.Artifact(uri=tempfile.mkdtemp()), []
    resume.step("read", lambda **given: seen.append(given), outputs={"made": made}, folders=folders, imported=imported)
    given = seen[0]
    given.pop("made")
    return given, made.metadata["step_key"]


def test_what_kfps_launcher_has_brought_is_read_where_it_is(bucket, folder, tmp_path):
    storage.upload(folder, storage.join(bucket, "corpus"))
    artifact = dsl.Dataset(uri=storage.join(bucket, "corpus"))
    # As the launcher does; here it may not write to /s3.
    artifact.custom_path = str(folder)
    given, key = imported_step({"data": artifact}, data=artifact.uri)
    assert given == {"data": str(folder)}
    storage.write_json(storage.join(bucket, "corpus", "volume-0.nii.gz"), "other")
    assert imported_step({"data": artifact}, data=artifact.uri)[1] != key


def test_what_kfps_local_runner_leaves_at_its_url_is_brought_here(bucket, folder):
    storage.upload(folder, storage.join(bucket, "corpus"))
    given, _ = imported_step({"data": dsl.Dataset(uri=storage.join(bucket, "corpus"))}, data="")
    assert tree(given["data"]) == tree(folder)


def test_without_an_imported_artifact_the_path_counts(folder):
    assert imported_step({"data": None}, data=str(folder))[0] == {"data": str(folder)}


@component
def names_of(data: dsl.Input[dsl.Dataset], names: dsl.Output[dsl.Artifact]):
    """Write down what is in an imported folder."""
    from pathlib import Path

    from components.resume import step

    def write(data, names):
        Path(names).write_text(" ".join(sorted(path.name for path in Path(data).iterdir())))

    step("names", write, inputs={"data": data}, outputs={"names": names})


def test_a_local_run_imports_its_corpus(bucket, folder, tmp_path, recwarn):
    storage.upload(folder, storage.join(bucket, "corpus"))
    settings = load(None, [f"data={bucket}/corpus"])

    @pipeline("first-steps", "The first steps of a pipeline.", settings, (ingest_folder,))
    def first_steps(p):
        start = begin("lits_segmentation", p, settings, Resources(None))
        names_of(data=start.imported["data"])

    [done] = local.run(first_steps, tmp_path / "run")
    assert done.path("names").read_text() == "deep empty volume-0.nii.gz"
    assert not [warning for warning in recwarn if "remote file" in str(warning.message)]


# A job of several pods whose folders lie in a store


def test_a_job_may_share_a_url_in_place_of_a_volume(bucket, tmp_path):
    """The launching step and each of the pods have nothing in common but the store."""
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "cases").write_text("cases")
    scratch = storage.join(bucket, "run-1", "train_job-abc")

    def made(name, body):
        if body["kind"] == "TrainJob":
            job = Description.read(body["spec"]["trainer"]["command"][-1])
            for number in (1, 0):
                pod(job, number == 0)
            storage.write_json(job.facts, {})

    def pod(job, first):
        with _near(job, first) as places:
            dataset, model, work = (places[name] for name in ("dataset", "model", "work"))
            # Training brings only the splits that it reads, and so gets the URL.
            assert storage.read_bytes(storage.join(dataset, "cases")) == b"cases"
            (Path(work) / "backup.npz").write_bytes(b"state")
            Path(model, "logs").mkdir(parents=True, exist_ok=True)
            Path(model, "logs", "events").write_bytes(b"logs" if first else b"")
            facts = dict.fromkeys(("framework", "mesh", "layout", "resolution", "epochs", "parameters", "processes"), 1)
            course = {"history": {"loss": [2.0, 1.0]}, "best": {"epoch": 1, "dice": 0.5}, "seconds": 1.0}
            (Path(model) / "training.json").write_text(json.dumps({**facts, **course, "steps_per_epoch": 1}))

    with fake.running() as server:
        server.created = made
        server.frames = [fake.Frame("Complete")]
        job = JobSettings(kind="TrainJob", nodes=2, image="i", cpu="2", memory="4Gi")
        result = train_in_job(
            str(tmp_path / "dataset"),
            str(tmp_path / "model"),
            job=job.to_json(),
            scratch=scratch,
            api=fake.api(server),
            poll=0.01,
            **TRAINING,
        )
    assert result["model"]["final_loss"] == 1.0
    assert isinstance(storage.read_json(storage.join(scratch, "heartbeat")), float)
    assert storage.download(storage.join(scratch, "work"), tmp_path / "work").joinpath("backup.npz").exists()
    assert (tmp_path / "model" / "logs" / "events").read_bytes() == b"logs"
