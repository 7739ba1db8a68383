"""Where a command expects a regular file, it refuses anything else at once: it never waits for a pipe's writer."""

import os
import signal
from pathlib import Path

import pytest

from keras_spatial._paths import regular
from keras_spatial_command import main
from pipelines.__main__ import cli

KINDS = {"pipe": "a named pipe", "folder": "a folder", "device": "a device"}
HOST = ("--host", "http://127.0.0.1:1")


@pytest.fixture(autouse=True)
def at_once():
    """End a test that waits, because opening a pipe without a writer never returns."""

    def end(number, frame):
        raise TimeoutError("the command waits for a special file")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(params=KINDS)
def special(request, tmp_path):
    """A path that is no regular file, with the ending that commands expect, and what it is."""
    path = tmp_path / "special.yaml"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    return str(path), KINDS[request.param]


@pytest.mark.parametrize(
    "arguments",
    [
        ("settings", "--config", "{}"),
        ("run", "lits_segmentation", "--config", "{}", "--run-dir", "{}.run"),
        ("compile", "lits_segmentation", "--output", "{}.out.yaml", "--cluster", "{}"),
        ("submit", "{}", *HOST),
        ("run", "lits_segmentation", "--run-dir", "{}.run", "--set", "baseline={}"),
    ],
    ids=["settings", "run", "compile", "submit", "baseline"],
)
def test_a_command_of_pipelines_refuses_it_by_name(special, arguments, capsys):
    path, kind = special
    assert cli([argument.format(path) for argument in arguments]) == 2
    said = capsys.readouterr().err
    assert path in said
    # click itself refuses folders for the options that it checks.
    assert f"is {kind}, not a regular file" in said or "is a directory" in said


@pytest.mark.parametrize("setting", ["network", "task"])
def test_a_setting_that_names_a_file_refuses_it(special, setting, tmp_path, capsys):
    path, kind = special
    model = tmp_path / "special.keras"
    Path(path).rename(model)
    assignments = ["--set", f"{setting}={model}"]
    name = "lits_segmentation"
    if setting == "task":
        (tmp_path / "trained.keras").write_bytes(b"a model")
        (tmp_path / "data").mkdir()
        name, assignments = "batch_inference", [*assignments, "--set", f"model={tmp_path / 'trained.keras'}"]
        assignments += ["--set", f"data={tmp_path / 'data'}"]
    assert cli(["run", name, "--run-dir", str(tmp_path / "run"), *assignments]) == 2
    said = capsys.readouterr().err
    # A folder may hold a task.
    assert f"is {kind}, not a regular file" in said or (kind == "a folder" and setting == "task")


@pytest.mark.parametrize(
    "arguments",
    [
        ("info", "{}"),
        ("plan", "--model", "{}", "--mesh", "rows:2"),
        ("segment", "{}", "volume.nii", "-o", "out"),
        ("segment", "{model}", "{volume}", "-o", "{}.out", "--task", "{}"),
        ("segment", "{model}", "{}", "-o", "{}.out", "--task", "lits"),
        ("evaluate", "{}", "{volume}", "-o", "{}.out"),
    ],
    ids=["info", "plan", "segment-model", "segment-task", "segment-volume", "evaluate"],
)
def test_a_command_of_keras_spatial_refuses_it(special, arguments, tmp_path, capsys):
    path, _ = special
    (tmp_path / "model.keras").write_bytes(b"a model")
    (tmp_path / "volume-1.nii").write_bytes(b"a volume")
    given = {"model": tmp_path / "model.keras", "volume": tmp_path / "volume-1.nii"}
    assert main([argument.format(path, **given) for argument in arguments]) in (1, 2)
    assert "error: " in capsys.readouterr().err


def test_a_regular_file_is_one_behind_links_as_well(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    assert regular(tmp_path / "link") == tmp_path / "link"
    with pytest.raises(FileNotFoundError):
        regular(tmp_path / "none")
    with pytest.raises(IsADirectoryError, match="is a folder, not a regular file"):
        regular(tmp_path)
