"""The pipelines, really run: phantoms to report, with failures in steps, and resumed."""

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pipelines.__main__ import cli

FAULTS = Path(__file__).parent / "faults"
REAL_CT = Path(os.environ.get("KERAS_SPATIAL_REAL_CT", Path(__file__).parents[3] / "shared" / "data" / "real_ct"))
SMALL = ["resolution=16", "resolutions=8,16", "filters=2", "levels=2", "epochs=1", "phantoms=3", "phantom_size=16"]


def run(name, folder, *extra):
    options = [part for assignment in [*SMALL, *extra] for part in ("--set", assignment)]
    return cli(["run", name, "--run-dir", str(folder), *options])


def journal(folder):
    lines = (folder / "steps" / "journal.jsonl").read_text().splitlines()
    return [(entry["step"], entry["reused"]) for entry in map(json.loads, lines)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run whose evaluation failed at first, and then was resumed: its folder and what the two commands printed."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(FAULTS))
        patch.setenv("TEST_FAULT", "evaluate")
        first = run("lits_segmentation", folder)
        after_first = journal(folder)
        patch.delenv("TEST_FAULT")
        second = run("lits_segmentation", folder)
    return folder, first, after_first, second


def test_a_failed_step_fails_the_run_and_keeps_the_finished_ones(finished):
    folder, first, after_first, _ = finished
    assert first == 1
    assert [step for step, _ in after_first] == ["phantom", "ingest", "preprocess", "train"]
    assert "No space left on device" in (folder / "log.txt").read_text()


def test_a_resumed_run_repeats_no_finished_step(finished):
    folder, _, _, second = finished
    assert second == 0
    reused = dict(journal(folder))
    done = {"phantom", "ingest", "preprocess", "train"}
    assert {step for step, again in reused.items() if again} == done
    assert {step for step, again in reused.items() if not again} == {"evaluate", "report", "compare", "export"}


def test_a_run_leaves_its_results_in_its_folder(finished):
    folder = finished[0]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics["dice"]) == {"liver", "lesion"}
    assert all(0 <= value <= 1 for value in metrics["dice"].values())
    assert metrics["mesh"] == "rows:2, columns:2"
    assert {"phantom", "train", "evaluate", "this_run"} <= set(metrics["seconds"])
    assert metrics["accepted"] is True
    assert "<html" in (folder / "report.html").read_text()
    assert (folder / "model.keras").stat().st_size > 0


@pytest.mark.skipif(not REAL_CT.is_dir(), reason=f"no real CT at {REAL_CT}; set KERAS_SPATIAL_REAL_CT")
def test_batch_inference_keeps_affine_and_spacing_of_a_real_ct(finished, tmp_path, capsys):
    model = finished[0] / "model.keras"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "volume-0.nii.gz").symlink_to(REAL_CT / "volume-0.nii.gz")
    (tmp_path / "in" / "volume-1.nii.gz").write_bytes(b"no NIfTI")
    folder = tmp_path / "run"
    assert run("batch_inference", folder, f"data={tmp_path / 'in'}", f"model={model}") == 0
    assert "Segmented 1 volumes, 1 could not be used" in capsys.readouterr().out.splitlines()[-1]
    result = nib.load(folder / "segmentations" / "segmentation-0.nii.gz")
    source = nib.load(REAL_CT / "volume-0.nii.gz")
    assert result.shape == source.shape
    np.testing.assert_allclose(result.affine, source.affine)
    assert set(np.unique(np.asarray(result.dataobj))) <= {0, 1, 2}
    assert "volume-1.nii.gz" in (folder / "segmentations" / "failed.csv").read_text()


def test_resolution_study_compares_its_runs(tmp_path):
    assert run("resolution_study", tmp_path) == 0
    runs = json.loads((tmp_path / "metrics.json").read_text())["runs"]
    assert [row["resolution"] for row in runs] == [8, 16]
    assert (tmp_path / "report.html").is_file()


@pytest.mark.parametrize(
    ("name", "extra", "expected"),
    [
        ("lits_segmentation", ["data=/no/such/folder"], "/no/such/folder: no such folder"),
        ("lits_segmentation", ["mesh=rows"], "mesh: expected"),
        ("lits_segmentation", ["epochz=3"], "Did you mean 'epochs'"),
        ("lits_segmentation", ["baseline=/no/metrics.json"], "/no/metrics.json: expected the metrics.json"),
        ("lits_segmentatoin", [], "Did you mean 'lits_segmentation'"),
        ("batch_inference", [], "data: batch_inference needs it"),
        ("batch_inference", ["data=/no/such/folder", "model=/m"], "no such folder"),
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
