"""Results of steps in a shared store, on a volume or in a bucket, and what an interrupted step leaves there."""

import functools
import time
from pathlib import Path

import pytest
import tensorflow as tf
from folders import tree

from components import resume, storage
from components.results import located


class Artifact:
    """An artifact as KFP gives it to a step, with a path in the pod itself."""

    def __init__(self, path, metadata=None):
        self.path, self.metadata, self.uri = str(path), dict(metadata or {}), str(path)


class Steps:
    """Two steps, each in its own pod, of which the first one makes something large."""

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
        """The artifacts of one run of both steps, by name."""
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
        """The records that a TensorBoard on another machine reads from each event file."""
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
    with pytest.raises(resume.OtherCodeError, match=r"compiled from code 0123456789abcdef, but the image has .*digest"):
        resume.step("make", print, outputs={})
