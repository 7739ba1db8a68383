"""The fault study detects processes left behind, commands that hang and results that differ."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.faults import __main__ as study
from benchmarks.faults import attacks, jobs

LIGHT = Path(__file__).with_name("light.py")
# A "training" that backs up nothing and writes its result after a second.
PROGRAM = "import pathlib, sys, time; time.sleep(1); pathlib.Path(sys.argv[1], 'result').write_text('3')"
ORPHAN = "import subprocess, sys, time; subprocess.Popen(['sleep', '60'], start_new_session=True)"


def job(program, *, launched=True, options=()):
    def command(folder):
        (folder / "program.py").write_text(program)
        start = [sys.executable, str(LIGHT), "--processes", "2", *options] if launched else [sys.executable]
        return [*start, str(folder / "program.py"), str(folder)]

    return jobs.Job("training", command, lambda folder: {"weight": np.array((folder / "result").read_text())}, "backup")


def place(folder, program, **options):
    folder.mkdir(exist_ok=True)
    return attacks.Round(job(program, **options), folder, f"test-{os.getpid()}-{folder.name}", 1.0, random.Random(0))


@pytest.mark.parametrize("attack", [attacks.any_signal, attacks.limited_files, attacks.clock_jumps, attacks.slow_disk])
def test_a_command_that_ends_with_its_processes_is_not_complained_of(tmp_path, attack):
    round_ = place(tmp_path, PROGRAM)
    assert attack(round_).wrong == ""
    assert attacks.is_free(round_)
    running = jobs.start(round_.job, tmp_path, "test-again")
    assert running.wait(30) == 0
    assert round_.job.result(tmp_path) == {"weight": "3"}


def test_frozen_peers_are_ended_and_the_study_says_in_which_time(tmp_path):
    outcome = attacks.frozen_peers(place(tmp_path, "import time; time.sleep(300)", options=("--frozen-seconds", "2")))
    assert outcome.wrong == ""
    assert f"status {128 + signal.SIGSTOP}" in outcome.what
    assert outcome.seconds < attacks.FROZEN_LIMIT_SECONDS


def test_processes_that_are_left_behind_are_found_and_ended(tmp_path):
    running = jobs.start(job(ORPHAN, launched=False), tmp_path, "test-orphan")
    outcome = attacks._ended(running, "nothing", running.started)
    assert outcome.wrong == "left behind a step"
    assert running.pids() == []


def test_a_command_that_hangs_is_found_and_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(attacks, "LIMIT_SECONDS", 1.0)
    running = jobs.start(job("import time; time.sleep(300)", launched=False), tmp_path, "test-hangs")
    outcome = attacks._ended(running, "nothing", running.started, 1.0)
    assert outcome.wrong == "has not ended within 1 s (the command S)"
    assert running.pids() == []


def test_results_that_differ_or_lack_something_are_found():
    one = {"a": np.ones(2), "b": np.zeros(1)}
    assert jobs.difference(one, one) == 0
    assert jobs.difference({**one, "a": np.full(2, 1.5)}, one) == 0.5
    assert jobs.difference({"a": np.ones(2)}, one) == float("inf")


def test_the_table_counts_what_went_wrong():
    good = study.Report(1, "training", "any_signal", "", 1.0, "the same", 0.0, "")
    bad = study.Report(2, "training", "any_signal", "", 2.0, "the same", 0.0, "left behind a worker")
    rows = study.rows_of([good, bad], {"training": 10.0})
    assert (rows[0]["ours"], rows[0]["target"], rows[0]["ok"]) == (1, 2, False)


def test_a_mount_that_is_not_allowed_is_said(tmp_path, monkeypatch):
    refused = subprocess.CompletedProcess([], 32)
    monkeypatch.setattr(attacks.subprocess, "run", lambda *_, **__: refused)
    assert "no right to mount" in attacks.full_disk(place(tmp_path, "pass")).what
