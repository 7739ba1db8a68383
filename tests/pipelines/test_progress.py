"""The terminal shows progress, the log everything, and the last error is found."""

import io

import pytest

from pipelines.console import logged
from pipelines.local import RunFolderError, _exclusive, check_folder

STEP = [
    "07:00:00.001 - INFO - Executing task 'train'\n",
    "    [KFP Executor 2026-01-01 INFO]: Got executor_input:\n",
    "    {\n",
    '        "inputs": {}\n',
    "    train: epoch 1/2, 3 s: loss 0.5\n",
    "    train: resuming in epoch 2\n",
    "    Traceback (most recent call last):\n",
    "    components.train.train.TrainingError: The loss is not finite.\n",
    "      Lower learning_rate.\n",
    "\n",
    "07:00:09.001 - ERROR - Task 'train' finished with status FAILURE\n",
]


def test_progress_is_shown_and_everything_logged(tmp_path, monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr("sys.stdout", terminal)
    with logged(tmp_path / "log.txt") as log:
        for line in STEP:
            # KFP prints a line in pieces.
            print(line[:7], end="")
            print(line[7:], end="")
    assert (tmp_path / "log.txt").read_text() == "".join(STEP)
    assert [" ".join(line.split()) for line in terminal.getvalue().splitlines()] == [
        "train: resuming in epoch 2",
        "train 0 s FAILED",
    ]
    assert log.error() == "components.train.train.TrainingError: The loss is not finite.\nLower learning_rate."


def test_without_an_error_line_the_last_lines_are_given(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdout", io.StringIO())
    with logged(tmp_path / "log.txt") as log:
        print("Killed")
    assert log.error() == "Killed"


def test_two_runs_do_not_share_a_folder(tmp_path):
    refused = pytest.raises(RunFolderError, match="another run is using this folder")
    with _exclusive(tmp_path), refused, _exclusive(tmp_path):
        pass


def test_a_full_disk_is_named_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.local._LEAST_FREE", 1 << 60)
    with pytest.raises(RunFolderError, match="expected at least 1 GB free"):
        check_folder(tmp_path)
