"""The fault study detects processes left behind, commands that hang, damaged files and results that differ."""

import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.faults import __main__ as study
from benchmarks.faults import attacks, disks, jobs, sweep
from keras_spatial.backup import LOCK

TESTS = Path(__file__).parent
LIGHT = TESTS / "light.py"
# A "training" that backs up nothing and writes its result after a second.
PROGRAM = "import pathlib, sys, time; time.sleep(1); pathlib.Path(sys.argv[1], 'result').write_text('3')"
ORPHAN = "import subprocess, sys, time; subprocess.Popen(['sleep', '60'], start_new_session=True)"


def job(program, *, launched=True, options=()):
    def command(folder):
        (folder / "program.py").write_text(program)
        start = [sys.executable, str(LIGHT), "--processes", "2", *options] if launched else [sys.executable]
        return [*start, str(folder / "program.py"), str(folder)]

    def result(folder):
        return {"weight": np.array(float((folder / "result").read_text()))}

    return jobs.Job("training", command, result, folder="state", sign="state/*")


def place(folder, program, **options):
    folder.mkdir(exist_ok=True)
    return attacks.Round(job(program, **options), folder, f"test-{os.getpid()}-{folder.name}", 1.0, random.Random(0))


@pytest.mark.parametrize("attack", [attacks.any_signal, attacks.limited_files, attacks.clock_jumps, attacks.slow_disk])
def test_a_command_that_ends_with_its_processes_is_not_complained_of(tmp_path, attack):
    if attack is attacks.clock_jumps:
        pytest.importorskip("libfaketime", reason="a clock that jumps needs the package libfaketime")
    round_ = place(tmp_path, PROGRAM)
    assert attack(round_).wrong == ""
    assert attacks.is_free(round_)
    running = jobs.start(round_.job, tmp_path, "test-again")
    assert running.wait(30) == 0
    assert round_.job.result(tmp_path) == {"weight": 3}


def test_the_clock_of_every_library_jumps_and_intervals_stay(tmp_path):
    pytest.importorskip("libfaketime", reason="a clock that jumps needs the package libfaketime")
    program = (
        "import datetime, os, time\n"
        "started, wall = time.monotonic(), time.time()\n"
        "while abs(time.time() - wall) < 60 and time.monotonic() - started < 20: time.sleep(0.01)\n"
        "assert abs(datetime.datetime.now().timestamp() - wall) > 60\n"
        "assert time.monotonic() - started < 20\n"
    )
    outcome = attacks.clock_jumps(place(tmp_path, program, launched=False))
    assert (outcome.wrong, outcome.status) == ("", 0), (tmp_path / "log").read_text()


def test_frozen_peers_are_ended_and_the_study_says_in_which_time(tmp_path):
    outcome = attacks.frozen_peers(place(tmp_path, "import time; time.sleep(300)", options=("--frozen-seconds", "2")))
    assert outcome.wrong == ""
    assert f"status {128 + signal.SIGSTOP}" in outcome.what
    assert outcome.seconds < attacks.FROZEN_LIMIT_SECONDS


def test_a_signal_to_any_process_of_a_job_leaves_none_behind(tmp_path):
    pairs = sweep.sweep(tmp_path, random.Random(0), [signal.SIGKILL])
    assert pairs == {f"SIGKILL to {receiver}": "" for receiver in sweep.RECEIVERS}


def test_every_card_is_dealt_once_before_any_comes_again():
    decks = attacks.Decks(random.Random(0))
    dealt = [decks.deal("signals", attacks.SIGNALS) for _ in range(2 * len(attacks.SIGNALS))]
    for half in (dealt[: len(attacks.SIGNALS)], dealt[len(attacks.SIGNALS) :]):
        assert sorted(half) == sorted(attacks.SIGNALS)
    # Another deck of the same study is not touched.
    assert decks.deal("frozen", ("one",)) == "one"


# Attacks a command that writes small files until it cannot, and says what is there afterwards.
DISKS = f"""
import random, sys
sys.path[:0] = [{str(TESTS.parent)!r}, {str(TESTS)!r}]
import light
light.without_tensorflow()
from pathlib import Path
from benchmarks.faults import attacks, disks, jobs, sweep

refused = disks.own_mounts([sys.executable, *sys.argv])
if refused:
    sys.exit(refused)
writer = '''
import itertools, sys
for number in itertools.count():
    with open(f"{{sys.argv[1]}}/{{number}}", "xb", buffering=0) as file:
        left = memoryview(bytes(5000))
        # The last write that finds room may be a short one; the next then fails.
        while left:
            left = left[file.write(left):]
'''
folder = Path(sys.argv[1])
for attack in (attacks.full_disk, attacks.read_only_disk):
    own = folder / attack.__name__
    (own / "state").mkdir(parents=True)
    command = lambda folder: [sys.executable, "-c", writer, str(folder / "state")]
    job = jobs.Job("training", command, lambda folder: {{}}, folder="state", sign="state/3")
    outcome = attack(attacks.Round(job, own, str(own), 1.0, random.Random(0)))
    assert (outcome.wrong, outcome.status) == ("", 1), outcome
    (own / "state" / "afterwards").write_bytes(bytes(100_000))
    assert (own / "state" / "0").stat().st_size == 5000
    print((own / "log").read_text())
"""


def test_disks_become_full_and_read_only_and_keep_what_was_written(tmp_path):
    (tmp_path / "study.py").write_text(DISKS)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "study.py"), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "No space left on device" in done.stdout
    assert "Read-only file system" in done.stdout


def test_where_nothing_can_be_mounted_the_study_says_why(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert disks.own_mounts(["true"]) == "unshare cannot be run: No such file or directory"


def test_processes_that_are_left_behind_are_found_and_ended(tmp_path):
    round_ = place(tmp_path, ORPHAN, launched=False)
    running = jobs.start(round_.job, tmp_path, "test-orphan")
    outcome = attacks.ended(running, round_, "nothing", running.started)
    assert outcome.wrong == "left behind a step"
    assert running.pids() == []


def test_a_command_that_hangs_is_found_and_ended(tmp_path):
    round_ = place(tmp_path, "import time; time.sleep(300)", launched=False)
    running = jobs.start(round_.job, tmp_path, "test-hangs")
    outcome = attacks.ended(running, round_, "nothing", running.started, 1.0)
    assert outcome.wrong == "has not ended within 1 s (the command S)"
    assert running.pids() == []


def test_a_command_does_not_inherit_that_its_study_ignores_a_signal(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        running = jobs.start(job("import time; time.sleep(60)", launched=False), tmp_path, "test-hangup")
        os.kill(running.process.pid, signal.SIGHUP)
        assert running.wait(10) == -signal.SIGHUP
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_lock_that_stays_is_found_and_one_that_ends_soon_is_waited_for(tmp_path):
    round_ = place(tmp_path, PROGRAM)
    round_ = replace(round_, job=replace(round_.job, lock="state/.lock"))
    round_.state.mkdir()
    holder = (
        f"import sys, time; sys.path[:0] = [{str(TESTS)!r}]; import light; light.without_tensorflow()\n"
        "from keras_spatial import ownership\n"
        "ownership.lock(sys.argv[1]); print('held', flush=True); time.sleep(float(sys.argv[2]))"
    )
    for seconds, free in (("1", True), ("60", False)):
        command = [sys.executable, "-c", holder, str(round_.state / ".lock"), seconds]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"held\n"
            assert attacks.is_free(round_, 10.0 if free else 0.5) == free
            process.kill()


def test_results_that_differ_or_lack_something_are_found():
    one = {"a": np.ones(2), "b": np.zeros(1)}
    assert jobs.difference(one, one) == 0
    assert jobs.difference({**one, "a": np.full(2, 1.5)}, one) == 0.5
    assert jobs.difference({"a": np.ones(2)}, one) == float("inf")
    assert jobs.difference({**one, "a": np.ones(3)}, one) == float("inf")


def nothing(round_):
    """An "attack" that lets the command run to its end."""
    running = jobs.start(round_.job, round_.folder, round_.mark)
    return attacks.ended(running, round_, "nothing", running.started)


@pytest.mark.parametrize(
    ("written", "fails", "wrong"),
    [("3", 0, ["", ""]), ("4", 0, ["the result differs by 1.0"]), ("4", 2, ["the result differs by 1.0"] * 2)],
)
def test_a_series_ends_with_the_result_of_an_undisturbed_run(tmp_path, written, fails, wrong):
    program = (
        "import pathlib, sys\n"
        "tries = pathlib.Path(sys.argv[1], 'tries')\n"
        "count = len(tries.read_text()) if tries.exists() else 0\n"
        "tries.write_text('x' * (count + 1))\n"
        f"if count < {fails}: sys.exit(1)\n"
        f"pathlib.Path(sys.argv[1], 'result').write_text('{written}')\n"
    )
    command = job(program, launched=False)
    series = study.Series(command, command, {"weight": np.array(3.0)}, 1.0, tmp_path / "series")
    reports = study.rounds_of(series, [nothing, nothing], 1, attacks.Decks(random.Random(0)), 0)
    assert [report.wrong for report in reports] == wrong


def test_a_round_whose_attack_came_too_late_does_not_count(tmp_path):
    def late(round_):
        return replace(nothing(round_), missed=True)

    command = job("import pathlib, sys; pathlib.Path(sys.argv[1], 'result').write_text('3')", launched=False)
    series = study.Series(command, command, {"weight": np.array(3.0)}, 1.0, tmp_path / "series")
    reports = study.rounds_of(series, [late, nothing], 5, attacks.Decks(random.Random(0)), 0)
    assert [(report.number, report.attack) for report in reports] == [(5, "nothing")]


def test_a_part_of_a_result_that_is_not_whole_is_found(tmp_path):
    def whole(folder):
        return {"weight": np.array(4.0)}

    command = job("import sys; sys.exit(1)", launched=False)
    command = jobs.Job("segmentation", command.command, command.result, "state", "state/*", whole=whole)
    round_ = attacks.Round(command, tmp_path, "test-whole", 1.0, random.Random(0))
    report, succeeded = study.attacked(round_, nothing, {"weight": np.array(3.0)}, 1)
    assert (report.wrong, succeeded) == ("a result is not complete: weight", False)


def test_the_table_counts_what_went_wrong_and_which_signals_were_sent():
    sent = ("training: a worker: SIGTERM", "training: a worker: SIGHUP")
    good = study.Report(1, "training", "any_signal", "", 1.0, "the same", 0.0, "", sent)
    bad = study.Report(2, "training", "any_signal", "", 2.0, "the same", 0.0, "left behind a worker", sent[:1])
    rows = study.rows_of([good, bad], {"training": 10.0})
    assert (rows[0]["ours"], rows[0]["target"], rows[0]["ok"]) == (1, 2, False)
    [signals] = [row for row in rows if "signals" in row["figure"]]
    assert (signals["figure"], signals["ours"]) == ("of 31 signals, those sent to training: a worker", 2)


def test_the_records_of_an_interrupted_study_are_read_again(tmp_path):
    reports = [
        study.Report(
            n, "training", "any_signal", "what", 1.5, "another", float("inf"), "wrong", ("training: a step: SIGHUP",)
        )
        for n in range(3)
    ]
    study.write_rounds(tmp_path / study.ROUNDS, reports)
    assert study.read_rounds(tmp_path / study.ROUNDS) == reports


def test_a_study_that_is_continued_sends_the_signals_first_that_were_not_sent_yet():
    receiver = "training: a worker"
    sent = tuple(f"{receiver}: {number.name}" for number in attacks.SIGNALS[2:])
    report = study.Report(1, "training", "any_signal", "", 1.0, "the same", 0.0, "", sent)
    decks = study.continued([report], seed=0)
    assert {decks.deal(receiver, attacks.SIGNALS) for _ in range(2)} == set(attacks.SIGNALS[:2])
    assert len({decks.deal(receiver, attacks.SIGNALS) for _ in attacks.SIGNALS}) == len(attacks.SIGNALS)
    # Signals to other processes are dealt as before.
    assert len({decks.deal("building: the command", attacks.SIGNALS) for _ in attacks.SIGNALS}) == 31


def test_the_study_looks_for_the_lock_that_a_training_has():
    assert jobs.training().lock == f"backup/{LOCK}"
