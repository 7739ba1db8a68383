"""The launcher numbers the output, and no process outlives the failure of another one."""

import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from alive import gone

from keras_spatial.launch import OutputError, UnkillableError, free_ports, launch, main


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def test_every_process_knows_its_number_and_the_addresses_of_all():
    output = io.StringIO()
    program = "import json, os\nc = json.loads(os.environ['TF_CONFIG'])\n"
    program += "print(c['task']['index'], len(c['cluster']['worker']))"
    assert launch(python(program), 3, output) == 0
    assert sorted(output.getvalue().splitlines()) == ["[0] 0 3", "[1] 1 3", "[2] 2 3"]


def test_only_the_process_that_the_launcher_has_started_counts_as_launched():
    """What it starts, as by hand in a shell, inherits its environment, but nobody watches it."""
    path = Path(__file__).parents[1] / "keras_spatial" / "_environment.py"
    tell = f"import runpy; print(runpy.run_path({str(path)!r})['is_launched']())"
    inner = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {tell!r}], check=True)"
    for program, expected in ((tell, "True"), (inner, "False"), (f"{tell}\n{inner}", "True False")):
        output = io.StringIO()
        assert launch(python(program), 1, output) == 0
        assert output.getvalue().split() == [word for said in expected.split() for word in ("[0]", said)]


@pytest.mark.parametrize(
    ("ending", "status", "said"),
    [
        ("raise ValueError('no such case')", 1, "ValueError: no such case"),
        ("sys.exit(7)", 7, "ended with status 7"),
        ("os.kill(os.getpid(), 9)", 137, "was ended by SIGKILL"),
    ],
)
def test_a_failing_process_ends_the_others_and_its_error_is_shown(ending, status, said):
    output = io.StringIO()
    program = "import json, os, sys, time\n"
    program += f"if json.loads(os.environ['TF_CONFIG'])['task']['index'] == 1:\n    {ending}\ntime.sleep(300)"
    start = time.monotonic()
    assert launch(python(program), 3, output) == status
    assert time.monotonic() - start < 30
    assert "Process 1" in output.getvalue() and said in output.getvalue()


def test_a_process_that_ignores_sigterm_is_killed():
    program = (
        "import json, os, signal, sys, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if json.loads(os.environ['TF_CONFIG'])['task']['index'] == 0:\n    time.sleep(2); sys.exit(3)\ntime.sleep(300)"
    )
    start = time.monotonic()
    assert launch(python(program), 2, io.StringIO()) == 3
    assert time.monotonic() - start < 30


NOTICE = "I0000 00:00:1796012036.252779    8239 port.cc:153] oneDNN custom operations are on."
PRINTING = f"print({NOTICE!r}); print('\x1b[1m1/4\x1b[0m loss: 0.5\x08\x08')"


@pytest.mark.parametrize(
    ("level", "lines"),
    [(None, ["[0] 1/4 loss: 0.5"]), ("2", ["[0] 1/4 loss: 0.5"]), ("0", [f"[0] {NOTICE}", "[0] 1/4 loss: 0.5"])],
)
def test_lines_have_no_codes_and_tell_no_notices_unless_the_user_asks(monkeypatch, level, lines):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    if level is not None:
        monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", level)
    output = io.StringIO()
    assert launch(python(PRINTING), 1, output) == 0
    assert output.getvalue().splitlines() == lines


def test_processes_get_the_defaults_that_the_user_has_not_set(monkeypatch):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    output = io.StringIO()
    program = "import os; print(os.environ['TF_CPP_MIN_LOG_LEVEL'], os.environ['TF_ENABLE_ONEDNN_OPTS'])"
    assert launch(python(program), 1, output) == 0
    assert output.getvalue() == "[0] 2 0\n"


def test_free_ports_are_different():
    assert len(set(free_ports(8))) == 8


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--processes", "0", __file__], "--processes must be at least 1. Received: 0"),
        (["--processes", "2", "--max-restarts", "-1", __file__], "--max-restarts must be at least 0. Received: -1"),
        (
            ["--processes", "2", "--frozen-seconds", "nan", __file__],
            "--frozen-seconds must be at least 0. Received: nan",
        ),
        (["--processes", "2", "no_such_file.py"], "no_such_file.py"),
    ],
)
def test_bad_arguments_are_said_at_once(arguments, said, capsys):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert said in capsys.readouterr().err


def test_a_program_that_this_user_may_not_read_is_said_at_once(tmp_path):
    """As any user, also where the tests run as root, who may read everything until that right is dropped."""
    program = tmp_path / "program.py"
    program.write_text("print('run')")
    program.chmod(0)
    drop = "import ctypes, os, sys\nfor right in (1, 2): ctypes.CDLL(None).prctl(24, right, 0, 0, 0)\n"
    drop += "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    light = str(Path(__file__).with_name("light.py"))
    command = [sys.executable, "-c", drop, light, "--processes", "2", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert f"The file {str(program)!r} cannot be read by this user." in done.stderr


@pytest.mark.parametrize(("restarts", "status"), [(0, 5), (1, 5), (2, 0), (3, 0)])
def test_all_processes_are_started_again_as_often_as_is_allowed(restarts, status):
    program = "import json, os, sys\nrestart = int(os.environ['KERAS_SPATIAL_RESTARTS'])\n"
    program += "rank = json.loads(os.environ['TF_CONFIG'])['task']['index']\nprint('attempt', restart, flush=True)\n"
    program += "sys.exit(5 if rank == 1 and restart < 2 else 0)"
    output = io.StringIO()
    assert launch(python(program), 2, output, max_restarts=restarts) == status
    attempts = min(restarts, 2) + 1
    assert {line for line in output.getvalue().splitlines() if line.startswith("[1] ")} == {
        f"[1] attempt {n}" for n in range(attempts)
    }
    assert output.getvalue().count("Starting all 2 processes again") == attempts - 1


@pytest.mark.parametrize("stopped", ["(1,)", "(0, 1)"], ids=["one", "both"])
def test_stopped_processes_are_noticed_and_ended(stopped):
    program = "import json, os, signal, time\nrank = json.loads(os.environ['TF_CONFIG'])['task']['index']\n"
    program += f"if rank in {stopped}:\n    os.kill(os.getpid(), signal.SIGSTOP)\ntime.sleep(300)"
    output = io.StringIO()
    started = time.monotonic()
    assert launch(python(program), 2, output, frozen_seconds=1) == 128 + signal.SIGSTOP
    assert time.monotonic() - started < 10
    assert re.search(r"Process [01] was stopped \(as by SIGSTOP\) and did not continue for 1 s", output.getvalue())


def test_a_process_that_is_stopped_for_a_moment_continues():
    program = "import os, signal, subprocess, sys\n"
    program += "subprocess.Popen(['sh', '-c', f'sleep 0.5; kill -CONT {os.getpid()}'])\n"
    program += "os.kill(os.getpid(), signal.SIGSTOP)\nprint('continued')"
    output = io.StringIO()
    assert launch(python(program), 2, output, frozen_seconds=3) == 0
    assert output.getvalue().count("continued") == 2


class Full(io.StringIO):
    """A file on a disk that is full from the second line on."""

    def write(self, text):
        if self.getvalue().count("\n"):
            raise OSError(28, os.strerror(28))
        return super().write(text)


def test_output_that_cannot_be_written_ends_the_processes_instead_of_blocking_them():
    started = time.monotonic()
    with pytest.raises(OutputError, match="No space left on device"):
        launch(python("while True: print('x' * 1000)"), 2, Full())
    assert time.monotonic() - started < 20


def test_characters_that_the_output_does_not_know_are_escaped():
    raw = io.BytesIO()
    output = io.TextIOWrapper(raw, encoding="ascii")
    assert launch(python("print('5 µm', flush=True)"), 1, output) == 0
    assert raw.getvalue() == b"[0] 5 \\xb5m\n"


def test_a_process_that_no_signal_ends_is_named_and_not_waited_for(monkeypatch):
    """Simulate a process that waits for a dead disk, by dropping signals to it."""
    monkeypatch.setattr("keras_spatial.launch._TERMINATE_SECONDS", 0.5)
    monkeypatch.setattr("keras_spatial.launch._KILL_SECONDS", 0.5)
    monkeypatch.setattr("keras_spatial.launch.Child.signal_group", lambda self, number: None)
    program = "import json, os, sys, time\nrank = json.loads(os.environ['TF_CONFIG'])['task']['index']\n"
    program += "sys.exit(3) if rank == 0 else time.sleep(300)"
    with pytest.raises(UnkillableError, match=r"Received: process 1 \(number \d+\), which waits inside the kernel"):
        launch(python(program), 2, io.StringIO(), max_restarts=3)


def test_what_a_process_started_itself_ends_with_the_job():
    program = "import json, os, subprocess, sys\np = subprocess.Popen(['sleep', '300'], stdout=subprocess.DEVNULL)\n"
    program += "print('started', p.pid)\nsys.exit(3 if json.loads(os.environ['TF_CONFIG'])['task']['index'] else 0)"
    output = io.StringIO()
    assert launch(python(program), 2, output) == 3
    for pid in re.findall(r"started (\d+)", output.getvalue()):
        assert gone(int(pid))


def test_no_process_outlives_the_launcher_however_it_ends(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import os, subprocess, time\nchild = subprocess.Popen(['sleep', '300'])\n"
        "print('pids', os.getpid(), child.pid, flush=True)\ntime.sleep(300)"
    )
    command = [sys.executable, str(Path(__file__).with_name("light.py")), "--processes", "2", str(program)]
    signals = (signal.SIGKILL, signal.SIGHUP, signal.SIGTERM, signal.SIGINT)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    launchers = [subprocess.Popen(command, text=True, **pipes) for _ in signals]
    for number, launcher in zip(signals, launchers, strict=True):
        pids = [int(pid) for _ in range(2) for pid in launcher.stdout.readline().split()[-2:]]
        launcher.send_signal(number)
        assert all(gone(pid) for pid in pids), number
        said = launcher.communicate(timeout=20)[1]
        assert launcher.returncode == (-9 if number == signal.SIGKILL else 128 + number)
        sentence = f"[launch] Ended by {number.name}; the processes were ended, too.\n"
        assert said == ("" if number == signal.SIGKILL else sentence)
