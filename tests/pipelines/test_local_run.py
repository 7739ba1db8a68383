"""The pipelines, really run: phantoms and a real CT to report, each step failing once, and resumed."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from datasets.phantom import write_lits_folder
from pipelines.__main__ import cli

FAULTS = Path(__file__).parent / "faults"
REAL_CT = Path(os.environ.get("KERAS_SPATIAL_REAL_CT", Path(__file__).parents[3] / "shared" / "data" / "real_ct"))
TRAINING = ["filters=2", "levels=2", "epochs=1", "phantoms=3", "phantom_size=16"]
SMALL = {
    "lits_segmentation": ["resolution=16", *TRAINING],
    "resolution_study": ["resolutions=8,16", *TRAINING],
}
real_ct = pytest.mark.skipif(not REAL_CT.is_dir(), reason=f"no real CT at {REAL_CT}; set KERAS_SPATIAL_REAL_CT")

# What goes wrong in successive commands: the step, and how it fails. A step on which no other depends does not keep the
# others from finishing, so two of them fail at once.
SEGMENTATION = (
    {"ingest": "killed"},
    {"preprocess": "limit"},
    {"train": "killed"},
    {"evaluate": "disk"},
    {"report": "disk", "compare": "killed"},
    {"export": "disk"},
)
STUDY = ({"phantom": "limit"}, {"study": "disk"})
INFERENCE = ({"segment": "killed"},)
SAID = {"disk": "No space left on device", "limit": "File too large", "killed": "Killed"}


@dataclass(frozen=True)
class Attempt:
    """One command: its exit status, its output, and the steps that finished, with whether earlier results were
    reused.
    """

    status: int
    error: str
    steps: tuple[tuple[str, bool], ...]

    @property
    def done(self):
        return [name for name, reused in self.steps if not reused]


def run(name, folder, *extra):
    options = [part for assignment in [*SMALL.get(name, []), *extra] for part in ("--set", assignment)]
    return cli(["run", name, "--run-dir", str(folder), *options])


def journal(folder):
    path = folder / "steps" / "journal.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return tuple((entry["step"], entry["reused"]) for entry in map(json.loads, lines))


def attempts(name, folder, faults, capture, *extra):
    """Run a pipeline until it succeeds: every command but the last has its faults, and resumes after the previous
    one.
    """
    result = []
    for fault in [*faults, {}]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(FAULTS))
            patch.setenv("TEST_FAULT", ",".join(f"{step}={kind}" for step, kind in fault.items()))
            with capture() as said:
                status = run(name, folder, *extra)
        result.append(Attempt(status, said.err, journal(folder)))
    return result


@pytest.fixture(scope="module")
def capture(request):
    """Capture what commands write to standard error, for fixtures of the whole module."""
    import contextlib
    import io

    @dataclass
    class Said:
        err: str = ""

    @contextlib.contextmanager
    def captured():
        said, stream = Said(), io.StringIO()
        with contextlib.redirect_stderr(stream):
            yield said
        said.err = stream.getvalue()

    return captured


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Phantoms, and the real CT as the held-out case, if it is available."""
    folder = tmp_path_factory.mktemp("data")
    write_lits_folder(folder, cases=3, size=16)
    if REAL_CT.is_dir():
        for part in ("volume", "segmentation"):
            (folder / f"{part}-2.nii.gz").unlink()
            (folder / f"{part}-2.nii.gz").symlink_to(REAL_CT / f"{part}-0.nii.gz")
    return folder


@pytest.fixture(scope="module")
def segmentation(tmp_path_factory, data, capture):
    """`lits_segmentation` with training in two processes: its folder, and the attempts by the step that failed."""
    folder = tmp_path_factory.mktemp("segmentation")
    return folder, attempts("lits_segmentation", folder, SEGMENTATION, capture, f"data={data}", "processes=2")


@pytest.fixture(scope="module")
def study(tmp_path_factory, capture):
    folder = tmp_path_factory.mktemp("study")
    return folder, attempts("resolution_study", folder, STUDY, capture)


def check_attempts(faults, made, order):
    """Every attempt failed at its step, named it and its error, and repeated nothing."""
    *failed, last = made
    for fault, attempt in zip(faults, failed, strict=True):
        assert attempt.status == 1
        # If two steps failed at once, the message is about one of them.
        [named] = [step for step in fault if f"Inner task failed: '{step}" in attempt.error]
        assert f"{named}: started" in attempt.error or SAID[fault[named]] in attempt.error
        assert not {name for name, _ in attempt.steps} & set(fault)
        assert "The same command resumes" in attempt.error
    assert last.status == 0
    assert sorted(name for name, _ in last.steps) == sorted(order)
    # Every step was done once over all attempts; those of a loop once per turn.
    assert sorted(step for attempt in made for step in attempt.done) == sorted(order)


def test_each_step_of_the_chain_may_fail_and_nothing_is_done_twice(segmentation):
    order = ["ingest", "preprocess", "train", "evaluate", "report", "compare", "export"]
    check_attempts(SEGMENTATION, segmentation[1], order)


def test_a_run_leaves_its_results_in_its_folder(segmentation):
    folder = segmentation[0]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics["dice"]) == {"liver", "lesion"}
    assert all(0 <= value <= 1 for value in metrics["dice"].values())
    assert metrics["mesh"] == "rows:2, columns:2"
    assert metrics["cases"] == ["volume-2"]
    assert {"train", "evaluate", "this_run"} <= set(metrics["seconds"])
    assert metrics["accepted"] is True
    assert "<html" in (folder / "report.html").read_text()
    assert "training, process 0 of 2" in (folder / "report.html").read_text()
    assert (folder / "model.keras").stat().st_size > 0
    assert list((folder / "tensorboard").rglob("events.out.tfevents.*"))
    assert list((folder / "scratch").iterdir()) == []


def test_a_training_logs_metrics_for_the_user_interface(segmentation):
    said = json.loads(max(segmentation[0].glob("artifacts/*/train/executor_output.json")).read_text())
    [metrics] = said["artifacts"]["metrics"]["artifacts"]
    training = json.loads(next(segmentation[0].glob("artifacts/*/train/model/training.json")).read_text())
    assert metrics["metadata"] == {
        "best_validation_dice": training["best"]["dice"],
        "best_epoch": 1,
        "final_loss": training["history"]["loss"][0],
        "seconds_per_step": round(training["seconds"] / training["steps_per_epoch"], 4),
    }


def test_no_other_machine_reached_the_processes_of_the_training(segmentation):
    log = (segmentation[0] / "log.txt").read_text()
    assert "waits up to 300 s for all 2 processes" in log
    # Their warning if another machine could reach them.
    assert "without any authentication" not in log


def test_the_exit_handler_says_how_the_last_attempts_ended(segmentation):
    records = [json.loads(p.read_text()) for p in sorted(segmentation[0].glob("artifacts/*/finish/record/run.json"))]
    assert [record["state"] for record in records] == ["FAILED"] * len(SEGMENTATION) + ["SUCCEEDED"]
    assert records[2]["finished_steps"] == ["ingest", "preprocess"]
    assert set(records[4]["finished_steps"]) == {"ingest", "preprocess", "train", "evaluate"}


@real_ct
def test_the_held_out_case_is_the_real_ct_on_its_own_grid(segmentation):
    predictions = list(segmentation[0].glob("artifacts/*/evaluate/predictions/prediction-2.nii.gz"))
    assert predictions
    assert nib.load(predictions[-1]).shape == nib.load(REAL_CT / "volume-0.nii.gz").shape


def test_a_model_that_is_worse_than_the_baseline_is_not_exported(segmentation, data, tmp_path, capsys):
    baseline = tmp_path / "metrics.json"
    baseline.write_text(json.dumps({"dice": {"liver": 1.0, "lesion": 1.0}, "cases": ["volume-2"]}))
    folder = segmentation[0]
    assert run("lits_segmentation", folder, f"data={data}", "processes=2", f"baseline={baseline}") == 0
    assert "The model is not exported, because it is worse than the baseline." in capsys.readouterr().out
    done = [name for name, reused in journal(folder) if not reused]
    assert "compare" in done
    assert "export" not in dict(journal(folder))


@pytest.fixture(scope="module")
def inference(tmp_path_factory, segmentation, capture):
    """A real CT and a file that is none, segmented; the first attempt is killed."""
    if not REAL_CT.is_dir():
        pytest.skip(f"no real CT at {REAL_CT}; set KERAS_SPATIAL_REAL_CT")
    source, folder = tmp_path_factory.mktemp("volumes"), tmp_path_factory.mktemp("inference")
    (source / "volume-0.nii.gz").symlink_to(REAL_CT / "volume-0.nii.gz")
    (source / "volume-1.nii.gz").write_bytes(b"no NIfTI")
    model = segmentation[0] / "model.keras"
    return folder, attempts("batch_inference", folder, INFERENCE, capture, f"data={source}", f"model={model}")


def test_batch_inference_may_fail_and_is_resumed(inference):
    check_attempts(INFERENCE, inference[1], ["segment"])


def test_batch_inference_keeps_affine_and_spacing_of_a_real_ct(inference):
    folder = inference[0]
    result = nib.load(folder / "segmentations" / "segmentation-0.nii.gz")
    source = nib.load(REAL_CT / "volume-0.nii.gz")
    assert result.shape == source.shape
    np.testing.assert_allclose(result.affine, source.affine)
    assert set(np.unique(np.asarray(result.dataobj))) <= {0, 1, 2}
    assert "volume-1.nii.gz" in (folder / "segmentations" / "failed.csv").read_text()


def test_each_end_of_the_study_may_fail_and_nothing_is_done_twice(study):
    order = ["phantom", "ingest", *["preprocess", "train", "evaluate"] * 2, "study"]
    check_attempts(STUDY, study[1], order)


def test_resolution_study_compares_its_runs(study):
    runs = json.loads((study[0] / "metrics.json").read_text())["runs"]
    assert [row["resolution"] for row in runs] == [8, 16]
    assert (study[0] / "report.html").is_file()


@pytest.mark.parametrize(
    ("name", "extra", "expected"),
    [
        ("lits_segmentation", ["data=/no/such/folder"], "/no/such/folder: no such folder"),
        ("lits_segmentation", ["mesh=rows"], "mesh: A mesh shape is written"),
        ("lits_segmentation", ["epochz=3"], "Did you mean 'epochs'"),
        ("lits_segmentation", ["baseline=/no/metrics.json"], "/no/metrics.json: expected the metrics.json"),
        ("lits_segmentatoin", [], "Did you mean 'lits_segmentation'"),
        ("batch_inference", [], "data: batch_inference needs it"),
        ("batch_inference", ["data=/no/such/folder", "model=/m"], "no such file or folder"),
    ],
)
def test_bad_input_is_named_before_the_first_step(tmp_path, capsys, name, extra, expected):
    folder = tmp_path / "run"
    assert run(name, folder, *extra) == 2
    assert expected in capsys.readouterr().err
    assert not (folder / "artifacts").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run("lits_segmentation", tmp_path / "file" / "run") == 2
    assert "cannot be written" in capsys.readouterr().err
