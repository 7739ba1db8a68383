"""However a run ends, its steps and their processes end with it; until then no other run gets its folder."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from alive import gone

from pipelines import local
from pipelines.__main__ import cli

WAITING = Path(__file__).with_name("waiting.py")
ROOT = WAITING.parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests", WAITING.parent)))}


def start(folder):
    command = [sys.executable, str(WAITING), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT)


def pids(folder, seconds=60.0):
    """The numbers of the step's process and of its two workers, once they exist."""
    deadline = time.monotonic() + seconds
    found = []
    while len(found) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
        log = (folder / "log.txt").read_text() if (folder / "log.txt").exists() else ""
        found = [int(pid) for pid in re.findall(r"(?:step|worker) (\d+)$", log, re.MULTILINE)]
    assert len(found) == 3, log
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_steps_and_their_processes_end_with_the_run_and_the_same_command_starts_again(tmp_path, number):
    run = start(tmp_path)
    processes = pids(tmp_path)
    for pid in processes:
        # Each of them holds the folder's lock, the workers too, so it lasts until the last one has ended.
        open_files = [str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()]
        assert str(tmp_path / ".lock") in open_files
    started = time.monotonic()
    run.send_signal(number)
    assert all(gone(pid) for pid in processes)
    assert run.wait(20) == (-9 if number == signal.SIGKILL else 128 + number)
    assert time.monotonic() - started < 10
    run.stdout.close()
    if number in (signal.SIGHUP, signal.SIGINT):
        return  # The other two are example enough.
    (tmp_path / "log.txt").unlink()
    again = start(tmp_path)
    assert pids(tmp_path)
    again.kill()
    again.wait()
    again.stdout.close()


def test_a_step_that_is_killed_takes_its_processes_along(tmp_path):
    run = start(tmp_path)
    step, *workers = pids(tmp_path)
    os.kill(step, signal.SIGKILL)
    assert all(gone(pid) for pid in workers)
    assert run.wait(20) == 1
    run.stdout.close()


def test_a_folder_in_use_is_refused_by_name_and_nothing_in_it_is_changed(tmp_path, capsys):
    run = start(tmp_path)
    pids(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert before[tmp_path / "settings.yaml"] == b"epochs: 1\n"
    options = ("--set", "phantoms=3", "--set", "epochs=7")
    assert cli(["run", "lits_segmentation", "--run-dir", str(tmp_path), *options]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path}: another run is using this folder" in said and f"process {run.pid} of" in said
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    run.kill()
    run.wait()
    run.stdout.close()


def test_a_lock_that_is_a_symbolic_link_is_refused_and_its_target_stays(tmp_path, capsys):
    target, folder = tmp_path / "precious", tmp_path / "run"
    target.write_text("weights")
    folder.mkdir()
    (folder / ".lock").symlink_to(target)
    assert cli(["run", "lits_segmentation", "--run-dir", str(folder), "--set", "phantoms=3"]) == 2
    assert "symbolic link" in capsys.readouterr().err
    assert target.read_text() == "weights"
    assert not (folder / "settings.yaml").exists()


def test_the_command_says_what_ended_it(tmp_path, monkeypatch, capsys):
    def run(*_, **__):
        raise local.Ended(signal.SIGTERM)

    monkeypatch.setattr(local, "run", run)
    assert cli(["run", "lits_segmentation", "--run-dir", str(tmp_path), "--set", "phantoms=3"]) == 143
    assert "FAILED: ended by SIGTERM; finished steps are kept" in capsys.readouterr().err
