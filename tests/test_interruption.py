"""Ctrl-C ends every command with one sentence and status 130, even while it is still importing modules."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Python imports this module before anything else, and here it presses Ctrl-C as soon as a module is looked for.
IMPATIENT = """
import os, signal, sys

class Impatient:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Impatient())
"""


@pytest.mark.parametrize(
    ("command", "module"),
    [
        (["keras_spatial.launch", "--processes", "2", __file__], "tensorflow"),
        (["keras_spatial.launch", "--processes", "2", __file__], "keras_spatial.isolation"),
        (["keras_spatial", "plan", "--image", "64,64,64,1"], "tensorflow"),
        (["keras_spatial_command", "plan", "--image", "64,64,64,1"], "tensorflow"),
        (["pipelines", "settings"], "click"),
        (["pipelines", "settings"], "pipelines.settings"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_an_interrupted_command_says_so_without_a_traceback(tmp_path, command, module):
    (tmp_path / "sitecustomize.py").write_text(IMPATIENT.format(module=module))
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 128 + signal.SIGINT
    assert done.stdout == ""
    [line] = done.stderr.strip().splitlines()
    assert "nterrupted" in line


def test_programs_that_import_the_package_keep_their_tracebacks(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(IMPATIENT.format(module="tensorflow"))
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", "import keras_spatial"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == -signal.SIGINT
    assert done.stderr.splitlines()[-1] == "KeyboardInterrupt"
