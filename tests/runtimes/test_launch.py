"""The launcher: numbered output, and no process outlives another's failure."""

import io
import sys
import time

import pytest

from keras_spatial.launch import free_ports, launch, main


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def test_every_process_knows_its_number_and_the_addresses_of_all():
    output = io.StringIO()
    program = "import json, os\nc = json.loads(os.environ['TF_CONFIG'])\n"
    program += "print(c['task']['index'], len(c['cluster']['worker']))"
    assert launch(python(program), 3, output) == 0
    assert sorted(output.getvalue().splitlines()) == ["[0] 0 3", "[1] 1 3", "[2] 2 3"]


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


def test_free_ports_are_different():
    assert len(set(free_ports(8))) == 8


@pytest.mark.parametrize("arguments", [["--processes", "0", __file__], ["--processes", "2", "no_such_file.py"]])
def test_bad_arguments_are_said_at_once(arguments, capsys):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert "Received: 0" in (text := capsys.readouterr().err) or "no_such_file.py" in text
