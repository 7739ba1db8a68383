"""What Kubeflow Pipelines hands to steps, and tells of them, is used, or refused by name, whatever is in it."""

import contextlib
import io
import json
import shutil
import unicodedata
from http.server import ThreadingHTTPServer
from pathlib import Path

import json_server
import pytest
import yaml
from fuzzing import FAULTS, damaged, explore
from hypothesis import strategies as st
from kfp.dsl.executor import Executor

from components import resume, storage
from components.cases import open_checked
from components.compare.compare import BaselineError, read_baseline
from components.compare.component import compare
from components.finish.finish import record_run
from components.gather.gather import gather_segmentations
from components.ingest.ingest import ingest_volumes
from components.jobs.description import Description, JobError
from components.jobs.settings import JobSettings, JobSettingsError
from components.results import located
from components.segment.settings import SEEN
from components.sweep.component import sweep
from components.train.settings import TRAINING
from components.validate.settings import Settings, SettingsError, check
from components.validate.validate import places
from datasets.phantom import write_lits_folder
from keras_spatial.volumes import VolumeError
from pipelines import catalogue
from pipelines.cluster import Cluster
from pipelines.console import logged
from pipelines.local import read_journal
from pipelines.settings import load
from pipelines.submission import (
    PackageError,
    Request,
    Server,
    SubmissionError,
    check_package,
    compile_pipeline,
    read_arguments,
    submit,
)

TEXTS = st.one_of(
    st.text(max_size=30),
    # A lone surrogate, which JSON can hold and no file; what a terminal obeys; what a page would run.
    st.sampled_from(
        ["", "\ud800", "\x1b]0;title\x07", "\x1b[2J", "\r", "a\nb", "{{$}}", "<script>", "$x^{$", "file://host/x", "\0"]
        # What reverses the rest of a line, ends it, or shows nothing.
        + ["\u202etxt", "\u2066x\u2069", "\u200f", "\u061c", "a\u2028b", "a\u2029b", "a\x85b", "\U000e0041", "\ufeff"]
    ),
    st.integers(1, 3).map(lambda n: "x" * 10**n),
)
NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([10**400, -1, True]))
DEEP = st.integers(50, 900).map(lambda depth: json.loads("[" * depth + "]" * depth))
VALUES = st.recursive(
    st.one_of(st.none(), NUMBERS, TEXTS, DEEP),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=8,
)


def objects(names):
    """Objects with some of these names, and perhaps others."""
    return st.dictionaries(st.one_of(st.sampled_from(names), TEXTS), VALUES, max_size=6)


DAMAGES = st.builds(
    lambda fault, place, noise: lambda data: bytes(damaged(data, fault, place, noise)),
    st.sampled_from(FAULTS),
    st.floats(0, 1, exclude_max=True),
    st.binary(min_size=1, max_size=24),
)


def obeyed(text):
    """The characters in a text that a terminal obeys, that change what is around them, or that cannot be written."""
    hidden = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return [c for c in text if unicodedata.category(c) in hidden and c not in "\n\t\u200c\u200d"]


# What a step gets


def executed(component, folder, artifacts, parameters, outputs):
    """Run a component as a step of KFP does, with KFP's own executor, and return what that writes about it."""

    def described(name):
        return {"artifacts": [{"name": name, "uri": str(folder / name), "type": {"schemaTitle": "system.Artifact"}}]}

    executor_input = {
        "inputs": {"parameterValues": parameters, "artifacts": artifacts},
        "outputs": {
            "parameters": {"Output": {"outputFile": str(folder / "Output")}},
            "artifacts": {name: described(name) for name in outputs},
            "outputFile": str(folder / "executor_output.json"),
        },
    }
    Executor(executor_input=json.loads(json.dumps(executor_input)), function_to_execute=component).execute()
    return json.loads((folder / "executor_output.json").read_text())


# KFP itself takes one name of metadata for its own.
METADATA = objects(["step_key", "step_seconds", "location", "cases", "accepted", "framework"]).filter(
    lambda metadata: "_kfp_workspace" not in metadata
)


def test_a_step_does_its_work_whatever_the_metadata_of_its_artifacts_are(tmp_path, monkeypatch):
    monkeypatch.delenv(resume.STEPS_VARIABLE, raising=False)
    evaluation = tmp_path / "evaluation"
    evaluation.mkdir()
    (evaluation / "metrics.json").write_text(json.dumps({"dice": {"liver": 0.5}, "cases": ["volume-1"]}))
    artifact = {"uri": str(evaluation), "type": {"schemaTitle": "system.Artifact"}}

    def one(name, metadata):
        artifacts = {"evaluation": {"artifacts": [{**artifact, "name": name, "metadata": metadata}]}}
        output = executed(compare, tmp_path / "step", artifacts, {"baseline": "", "tolerance": 0.01}, ["decision"])
        assert output["parameterValues"] == {"Output": True}
        assert json.loads((tmp_path / "step" / "decision").read_text())["accepted"] is True

    explore(one, examples=60, name=TEXTS, metadata=METADATA)

    models = []
    for number, dice in enumerate((0.25, 0.75)):
        (tmp_path / f"model-{number}").mkdir()
        facts = {"learning_rate": 10.0**-number, "best": {"dice": dice}, "history": {"loss": [1.0]}}
        (tmp_path / f"model-{number}" / TRAINING).write_text(json.dumps(facts))
        models.append({"uri": str(tmp_path / f"model-{number}"), "type": {"schemaTitle": "system.Model"}})

    def several(metadata):
        artifacts = [{**m, "name": "m", "metadata": given} for m, given in zip(models, metadata, strict=True)]
        executed(sweep, tmp_path / "step", {"models": {"artifacts": artifacts}}, {"title": ""}, ["table", "summary"])
        assert json.loads((tmp_path / "step" / "table").read_text())[0]["dice"] == 0.75

    explore(several, examples=20, metadata=st.lists(METADATA, min_size=2, max_size=2))


def test_the_seconds_of_a_step_are_a_number_whatever_the_metadata_say():
    class Artifact:
        def __init__(self, metadata):
            self.metadata = metadata

    def one(metadata):
        assert 0 <= resume.seconds_of(Artifact(metadata)) < 1e9

    explore(one, examples=150, metadata=st.one_of(METADATA, st.fixed_dictionaries({"step_seconds": VALUES})))
    assert resume.seconds_of(Artifact({"step_seconds": 12.5})) == 12.5


def test_parameters_of_a_run_are_settings_or_a_named_error():
    def one(values):
        try:
            settings = check(values)
        except SettingsError as error:
            assert 0 < len(str(error)) < 20_000
            str(error).encode("utf-8", "backslashreplace")
            return
        assert all(isinstance(place, str) for place in places(settings).values())

    explore(one, examples=200, values=objects([*Settings.model_fields]))


@pytest.mark.parametrize(
    "damage", ["[" * 100_000, '{"dice": {"liver": 1e999}, "cases": []}', '{"dice": 3, "cases": 3}']
)
def test_the_metrics_of_another_run_that_cannot_be_used_are_named(tmp_path, damage):
    path = tmp_path / "metrics.json"
    path.write_text(damage)
    with pytest.raises(BaselineError, match=f"{path}"):
        read_baseline(path)


def test_the_metrics_of_another_run_are_read_or_named(tmp_path):
    path = tmp_path / "metrics.json"
    whole = json.dumps({"dice": {"liver": 0.5, "lesion": 0.25}, "cases": ["volume-1"]}).encode()

    def one(content):
        path.write_bytes(content)
        try:
            found = read_baseline(path)
        except BaselineError as error:
            assert str(path) in str(error)
            return
        assert all(0 <= abs(value) < float("inf") for value in found["dice"].values())

    jsons = objects(["dice", "cases"]).map(lambda value: json.dumps(value).encode())
    explore(one, examples=150, content=st.one_of(jsons, DAMAGES.map(lambda damage: damage(whole))))


def test_an_artifact_that_refers_to_another_place_is_followed_or_named(tmp_path):
    folder = tmp_path / "artifact"
    folder.mkdir()
    path = folder / storage.REFERENCE
    whole = json.dumps({"location": "s3://bucket/store/step/run/output"}).encode()

    def one(content):
        path.write_bytes(content)
        try:
            place = located(str(folder))
        except storage.StorageError as error:
            assert str(path) in str(error) and len(str(error)) < 2_000
            return
        assert isinstance(place, str) and place

    jsons = st.one_of(objects(["location"]), VALUES).map(lambda value: json.dumps(value).encode())
    explore(
        one, examples=150, content=st.one_of(jsons, DAMAGES.map(lambda damage: damage(whole)), st.just(b"[" * 10**5))
    )
    path.write_bytes(whole)
    assert located(str(folder)) == "s3://bucket/store/step/run/output"


def test_the_index_of_checked_cases_gives_the_files_that_were_checked_or_is_named(tmp_path):
    source, cases = tmp_path / "source", tmp_path / "cases"
    write_lits_folder(source, 3, size=16)
    ingest_volumes(str(source), str(cases), str(tmp_path / "q.html"), by_reference=True)
    (index,) = cases.glob("index.json")
    whole = index.read_bytes()
    known = {path.read_bytes() for path in source.iterdir()}

    def one(content):
        index.write_bytes(content)
        try:
            with open_checked(cases) as folder:
                for case in folder.cases:
                    with folder.near(case) as near:
                        assert all(path.read_bytes() in known for path in near.files)
        except (storage.StorageError, VolumeError) as error:
            assert 0 < len(str(error)) < 5_000

    facts = json.loads(whole)

    def changed(name, value):
        return json.dumps({**facts, name: value}).encode()

    def listed(name, value):
        return changed("files", {**facts["files"], name: value})

    names = st.one_of(st.sampled_from([*facts["files"], "../x", "/etc/passwd", "a//b"]), TEXTS)
    fields = st.builds(changed, st.sampled_from([*facts]), VALUES)
    files = st.builds(listed, names, st.one_of(VALUES, st.lists(st.one_of(NUMBERS, TEXTS), min_size=3, max_size=3)))
    bytes_of = DAMAGES.map(lambda damage: damage(whole))
    explore(one, examples=120, content=st.one_of(fields, files, bytes_of, VALUES.map(lambda v: json.dumps(v).encode())))


def test_shares_are_gathered_whatever_they_say_of_their_volumes_or_it_is_named(tmp_path):
    parts = [tmp_path / name for name in ("0", "1")]
    for number, part in enumerate(parts):
        part.mkdir()
        (part / f"segmentation-{number}.nii").write_bytes(b"labels")
        (part / SEEN).write_text(json.dumps({"segmentation-0": "0.nii", "segmentation-1": "1.nii"}))
    whole = (parts[1] / SEEN).read_bytes()

    def one(content):
        (parts[1] / SEEN).write_bytes(content)
        shutil.rmtree(tmp_path / "predictions", ignore_errors=True)
        try:
            gather_segmentations([str(part) for part in parts], str(tmp_path / "predictions"))
        except storage.StorageError as error:
            assert str(parts[1] / SEEN) in str(error) and len(str(error)) < 2_000
            return
        found = {path.name for path in (tmp_path / "predictions").glob("segmentation-*")}
        assert found == {"segmentation-0.nii", "segmentation-1.nii"}

    jsons = st.one_of(st.dictionaries(TEXTS, TEXTS, max_size=4), VALUES).map(lambda value: json.dumps(value).encode())
    explore(one, examples=100, content=st.one_of(jsons, DAMAGES.map(lambda damage: damage(whole))))


def test_a_job_is_read_from_its_json_or_named(tmp_path):
    job = JobSettings(kind="TrainJob", nodes=2, image="i", cpu="2", memory="4Gi", volumes={"lits": "/data"})
    facts = json.loads(job.to_json())
    place = str(tmp_path / "job.json")
    description = Description("train", {}, {}, {}, "facts.json")
    written = json.loads(Path(description.write(place)).read_text())

    def one(text, damage):
        for given in (text, damage(job.to_json().encode()).decode("utf-8", "replace")):
            with contextlib.suppress(JobSettingsError):
                assert isinstance(JobSettings.from_json(given), JobSettings)

    texts = st.one_of(TEXTS, VALUES.map(json.dumps), st.just("[" * 100_000))
    fields = st.builds(lambda name, value: json.dumps({**facts, name: value}), st.sampled_from([*facts]), VALUES)
    explore(one, examples=150, text=st.one_of(texts, fields), damage=DAMAGES)

    def another(value):
        storage.write_json(place, value)
        with contextlib.suppress(JobError):
            assert Description.read(place).step in ("train", "evaluate", "segment")

    finite = VALUES.filter(lambda value: "NaN" not in json.dumps(value) and "Infinity" not in json.dumps(value))
    changes = st.builds(lambda name, value: {**written, name: value}, st.sampled_from([*written]), finite)
    explore(another, examples=100, value=st.one_of(finite, changes))


# What is told of steps


def test_the_end_of_a_run_is_recorded_whatever_kfp_says_of_it(tmp_path, monkeypatch):
    journal = tmp_path / "steps" / resume.JOURNAL
    journal.parent.mkdir()
    monkeypatch.setenv(resume.STEPS_VARIABLE, str(journal.parent))

    def one(facts, run_id, lines):
        journal.write_text("\n".join([json.dumps({"step": "ingest"}), *lines, json.dumps({"step": "train"})]))
        stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict", newline="\n")
        with contextlib.redirect_stdout(stream):
            summary = record_run(str(tmp_path / "record"), run_id=run_id, facts=facts)
        stream.flush()
        said = stream.buffer.getvalue().decode()
        assert said.startswith("finish: result: the run ") and said.count("\n") == 1 and not obeyed(said)
        assert summary["finished_steps"][0] == "ingest" and summary["finished_steps"][-1] == "train"
        written = json.loads((tmp_path / "record" / "run.json").read_text())
        assert {name: written[name] for name in facts} == facts and written["run"] == run_id
        assert all(isinstance(step.seconds, int | float) for step in read_journal(journal.parent))

    facts = st.fixed_dictionaries(
        dict.fromkeys(("state", "pipeline", "task", "error"), TEXTS) | {"error_code": st.integers()}
    )
    objects_of_lines = objects(["step", "seconds", "reused", "outputs"]).map(json.dumps)
    lines = st.lists(st.one_of(objects_of_lines, st.just("[" * 100_000), st.just('{"step"')), max_size=3)
    explore(one, examples=100, facts=facts, run_id=TEXTS, lines=lines)


def test_any_line_of_a_step_is_logged_and_shown_without_what_a_terminal_obeys(tmp_path):
    marks = st.sampled_from(
        ["Executing task '{}'", "Task '{}' finished with status SUCCESS", "Task '{}' finished with status FAILURE",
         "    {}: 3/{}", "{}: result: {}", "train: epoch {}/10 {}", "train: 7/10 {}", "[launch] {}", "[0] train: {}"]
    )  # fmt: skip
    written = st.builds(lambda mark, text: mark.replace("{}", text), marks, TEXTS)

    def one(lines):
        stream, log = io.StringIO(), tmp_path / "log.txt"
        log.unlink(missing_ok=True)
        with contextlib.redirect_stdout(stream), logged(log) as tee:
            for line in lines:
                print(line)
        assert not obeyed(stream.getvalue())
        assert not obeyed(log.read_text(encoding="utf-8"))
        tee.error()

    explore(one, examples=150, lines=st.lists(st.one_of(written, TEXTS), max_size=8))


class Api(json_server.Handler):
    """KFP's API server, which tells of the run what the test wants, and then that it has failed."""

    def do_GET(self):
        if "/runs/" in self.path:
            self.answer(self.server.told.pop(0) if self.server.told else {"run_id": "r1", "state": "FAILED"})
        else:
            self.answer({"experiments": [{"experiment_id": "e1", "display_name": "keras-spatial"}]})

    def do_POST(self):
        self.body()
        self.answer({"run_id": "r1", "experiment_id": "e1", "state": "PENDING"})


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    pipeline = catalogue.build("batch_inference", load(None, ["data=/data", "model=/model"]), Cluster())
    return compile_pipeline(pipeline, tmp_path_factory.mktemp("package") / "batch.yaml")


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    server.told = []
    with json_server.running(server):
        yield server


def test_what_a_server_tells_of_a_run_is_shown_without_what_a_terminal_obeys(server, package):
    place = Server(f"http://127.0.0.1:{server.server_port}", "imaging", "secret")

    def one(answer):
        server.told = [answer]
        stream = io.StringIO()
        with contextlib.redirect_stdout(stream), pytest.raises(SubmissionError) as failed:
            submit(package, place, Request("night"), wait=True, any_version=True, poll=0.0)
        said = stream.getvalue() + str(failed.value)
        assert not obeyed(said) and "secret" not in said

    error = st.fixed_dictionaries({"code": NUMBERS, "message": st.one_of(TEXTS, VALUES)})
    task = st.fixed_dictionaries({"display_name": TEXTS, "state": st.one_of(TEXTS, st.just("FAILED")), "error": error})
    run = st.fixed_dictionaries(
        {"run_id": TEXTS, "state": st.one_of(st.sampled_from(["RUNNING", "FAILED", "CANCELED"]), TEXTS)},
        optional={"run_details": st.fixed_dictionaries({"task_details": st.lists(task, max_size=3)}), "error": error},
    )
    finite = st.one_of(run, run, run, VALUES).filter(lambda v: "Infinity" not in json.dumps(v))
    explore(one, examples=40, answer=finite)


def test_a_damaged_package_is_named_or_a_pipeline(package, tmp_path):
    whole = next(yaml.safe_load_all(package.read_text()))
    path = tmp_path / "package.yaml"

    def places_of(value, at=()):
        yield at
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for name, part in inner:
            yield from places_of(part, (*at, name))

    every = [place for place in places_of(whole) if place]

    def one(place, value, gone, text):
        changed = json.loads(json.dumps(whole))
        inner = changed
        for name in place[:-1]:
            inner = inner[name]
        if gone:
            del inner[place[-1]]
        else:
            inner[place[-1]] = value
        path.write_text(json.dumps(changed))
        try:
            spec = check_package(path)
            read_arguments(spec, [f"layout={text}", f"data={text}"])
        except PackageError as error:
            assert 0 < len(str(error)) < 30_000

    explore(one, examples=8, place=st.sampled_from(every), value=VALUES, gone=st.booleans(), text=TEXTS)
    path.write_text(json.dumps({**whole, "components": "\ud800"}))
    with pytest.raises(PackageError, match="is not a KFP pipeline"):
        check_package(path)
    shutil.copy(package, path)
    path.write_bytes(path.read_bytes()[:-500])
    with contextlib.suppress(PackageError):
        check_package(path)
