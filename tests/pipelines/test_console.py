"""The commands show help at once, and one line for each step; the log has everything."""

import io
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

from components import console
from pipelines.__main__ import FAILURES, REFUSALS
from pipelines.console import Screen, logged

ROOT = Path(__file__).parents[2]
SLOW = {"tensorflow", "keras", "kfp", "numpy", "apache_beam", "tensorflow_datasets"}
CODE = """\
import sys
from pipelines.__main__ import cli
try:
    cli(sys.argv[1:])
finally:
    print(*sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--help"], "cross_validation  Train and evaluate on several"),
        (["run", "--help"], "--verbose"),
        (["demo", "--help"], "phantom CTs"),
        (["compile", "--help"], "lits_segmentation"),
        (["submit", "--help"], "--host"),
        (["settings"], "\nresolution: "),
        (["run", "lits_segmentatoin"], ""),
        (["run", "lits_segmentation", "--set", "epochz=3"], ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_help_and_settings_answer_in_under_a_second_and_without_tensorflow(arguments, expected):
    before = os.times().children_user
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, cwd=ROOT, check=True
    )
    # Processor time, because the machine may be busy with something else.
    assert os.times().children_user - before < 1
    assert expected in done.stdout
    assert not SLOW & set(done.stderr.splitlines()[-1].split())


def test_the_errors_that_commands_name_exist():
    for name in (*REFUSALS, *FAILURES):
        module, _, kind = name.rpartition(".")
        assert issubclass(pkgutil.resolve_name(f"{module}:{kind}"), Exception), name


@pytest.mark.parametrize(
    ("said", "kind", "text"),
    [
        (lambda: console.note("train", "resuming in epoch 4"), "note", "resuming in epoch 4"),
        (lambda: console.result("train", "3 epochs"), "result", "3 epochs"),
        (lambda: console.started("train"), "frame", "started"),
        (lambda: console.finished("train", 130), "frame", "finished in 2 min"),
        (lambda: console.progress("ingest", 3, 32, "cases checked"), "progress", "3/32 cases checked"),
        (lambda: console.progress("train", 3, 32, "after 4 s", unit="epoch"), "progress", "epoch 3/32 after 4 s"),
    ],
)
def test_a_line_is_read_as_it_was_written(capsys, said, kind, text):
    said()
    [line] = capsys.readouterr().out.splitlines()
    # KFP indents the lines of a step, and the launcher puts the number of the process before them.
    for written in (line, f"    {line}", f"    [0] {line}"):
        found = console.parse(written)
        assert found is not None
        assert (found.kind, found.text) == (kind, text)
        assert (found.done, found.total) == ((3, 32) if kind == "progress" else (0, 0))


@pytest.mark.parametrize(
    "line",
    [
        "    cases: Dataset( name='cases',",
        "    [KFP Executor 2026-11-30 04:13:54,348 INFO]: Looking for component `ingest`",
        "    Traceback (most recent call last):",
        '        "inputs": {',
    ],
)
def test_what_no_step_says_is_none_of_its_lines(line):
    assert console.parse(line) is None


@pytest.mark.parametrize(
    "say",
    [
        lambda text: console.note("ingest", f"{text} cannot be used"),
        lambda text: console.result("ingest", text),
        lambda text: console.progress("ingest", 1, 3, text),
        lambda text: console.detail("ingest", text),
    ],
    ids=["note", "result", "progress", "detail"],
)
@pytest.mark.parametrize("end", ["\n", "\r", "\x0b", "\x85", "\u2028", "\u2029"], ids=ascii)
def test_no_name_adds_a_line_that_looks_like_a_step_s_own(capsys, say, end):
    say(f"a{end}finish: result: everything is done")
    lines = capsys.readouterr().out.splitlines()
    assert [found.step for line in lines if (found := console.parse(line))] in ([], ["ingest"])
    assert len(lines) == (2 if end == "\n" else 1)
    assert all(line.startswith("ingest: ") for line in lines)


def test_details_are_for_the_log_alone(capsys):
    console.detail("train", "weights 5 kB\noptimizer 10 kB")
    out = capsys.readouterr().out
    assert out == "train:   weights 5 kB\ntrain:   optimizer 10 kB\n"
    assert [console.parse(line) for line in out.splitlines()] == [None, None]


RUN = """\
\x1b[0m07:00:00.001 - INFO - Executing task \x1b[96m'ingest'\x1b[0m
07:00:00.001 - INFO - Streamed logs:
    [KFP Executor 2026-11-30 04:13:54,348 INFO]: Got executor_input:
    {
    ingest: started
    I0000 00:00:1796012036.252779    8239 port.cc:153] oneDNN custom operations are on.
    ingest: 1/3 cases checked, volume-0 the last
    ingest: volume-1 cannot be used: the spacing is missing
    ingest: 2/3 cases checked, volume-1 the last
    ingest: 3/3 cases checked, volume-2 the last
    ingest: result: 2 usable cases; 1 bad case left out
    ingest: finished in 33 s
07:00:09.001 - INFO - Task \x1b[96m'ingest'\x1b[0m finished with status \x1b[92mSUCCESS\x1b[0m
07:00:09.001 - INFO - Task \x1b[96m'ingest'\x1b[0m outputs:
    cases: Dataset( name='cases',
07:00:09.002 - INFO - Executing task \x1b[96m'train'\x1b[0m
    train: started
    [0] train:   process 0 has read 3 bytes of the data set
    [launch] Process 0 was ended by SIGKILL; the others were ended. Its last lines:
    [launch]   Killed
07:00:10.001 - ERROR - Task \x1b[96m'train'\x1b[0m finished with status \x1b[91mFAILURE\x1b[0m
"""


class Terminal(io.StringIO):
    """A terminal, as `rich` sees it."""

    def isatty(self):
        return True


def shown(tmp_path, monkeypatch, stream, verbose=False):
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setenv("TERM", "xterm")
    with logged(tmp_path / "log.txt", verbose=verbose):
        print(RUN, end="")
    return stream.getvalue()


def test_a_step_is_one_line_with_its_time_and_the_log_has_all_without_colours(tmp_path, monkeypatch):
    out = shown(tmp_path, monkeypatch, io.StringIO())
    assert [" ".join(line.split()) for line in out.splitlines()] == [
        "ingest: volume-1 cannot be used: the spacing is missing",
        "ingest 0 s 2 usable cases; 1 bad case left out",
        "[launch] Process 0 was ended by SIGKILL; the others were ended. Its last lines:",
        "train 0 s FAILED",
    ]
    assert "\r" not in out and "\x1b" not in out
    log = (tmp_path / "log.txt").read_text()
    assert "\x1b" not in log
    assert len(log.splitlines()) == len(RUN.splitlines())
    assert "Executing task 'ingest'" in log and "port.cc:153" in log


def test_verbose_shows_all_of_the_log(tmp_path, monkeypatch):
    out = shown(tmp_path, monkeypatch, io.StringIO(), verbose=True)
    assert set((tmp_path / "log.txt").read_text().splitlines()) <= set(out.splitlines())


def test_a_terminal_has_one_line_that_changes_in_place(tmp_path, monkeypatch):
    out = shown(tmp_path, monkeypatch, Terminal())
    assert "\r" in out
    assert "volume-0 the last" not in (tmp_path / "log.txt").read_text().splitlines()[-1]


def test_a_long_line_is_cut_at_its_end(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    screen = Screen(stream)
    screen.show("Executing task 'cross_validation'")
    screen.show(f"    cross_validation: epoch 3/10 after 12 s, about 28 s left: {'loss 0.5, ' * 40}")
    screen._progress.refresh()
    screen.close()
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()))
    assert max(map(len, lines)) <= 80
    [*_, last] = [line for line in lines if "epoch 3/10" in line]
    assert "cross_validation" in last and "about 28 s left" in last


def test_progress_is_told_now_and_then_where_there_is_no_terminal(monkeypatch):
    stream, clock = io.StringIO(), [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    screen = Screen(stream)
    screen.show("Executing task 'train'")
    for epoch in range(1, 11):
        clock[0] += 12.0
        screen.show(f"    train: epoch {epoch}/10 after {12 * epoch} s, about {120 - 12 * epoch} s left: loss 0.5")
    screen.show("Task 'train' finished with status SUCCESS")
    assert [line.split(" after")[0] for line in stream.getvalue().splitlines()] == [
        "train: epoch 3/10",
        "train: epoch 6/10",
        "train: epoch 9/10",
        f"{'train':<18}{'2 min':>7}",
    ]


def test_the_time_left_is_estimated_where_a_step_does_not_say_it(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr("pipelines.console._SECONDS_BETWEEN_LINES", 0.0)
    screen = Screen(stream)
    clock = iter(range(0, 1000, 10))
    screen._progress.get_time = lambda: float(next(clock))
    screen.show("Executing task 'ingest'")
    for number in range(1, 5):
        screen.show(f"ingest: {number}/10 cases checked")
    assert "4/10 cases checked, about " in stream.getvalue()
