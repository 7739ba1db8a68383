"""Every example runs, in a small form, as a user would run it."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SCRIPTS = {
    "plain_script.py": ("--size", "16", "--epochs", "1"),
    "partition_functional.py": ("--size", "50"),
    "subclassed_model.py": ("--size", "8"),
    "custom_layer.py": ("--size", "17"),
    "pathology.py": ("--size", "128", "--filters", "2", "--steps", "1"),
}
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}


def run(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_example_is_run_here_and_named_in_the_readme():
    readme = (EXAMPLES / "README.md").read_text()
    files = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
    assert files == {*SCRIPTS, "many_processes.py", "plan_and_train.ipynb"}
    assert all(f"]({name})" in readme for name in files)


@pytest.mark.parametrize("name", SCRIPTS)
def test_script(name):
    assert run(f"examples/{name}", *SCRIPTS[name])


def test_many_processes_find_the_same_losses():
    output = run("-m", "keras_spatial.launch", "--processes", "2", "examples/many_processes.py", "--", "--size", "16")
    losses = [line.split("losses")[1] for line in output.splitlines() if "losses" in line]
    assert len(losses) == 2
    assert losses[0] == losses[1]


def test_notebook(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(EXAMPLES / "plan_and_train.ipynb", as_version=4)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(EXAMPLES)}}
    ).execute()
    pictures = [output for cell in notebook.cells for output in cell.get("outputs", ()) if "data" in output]
    assert sum("image/png" in output["data"] for output in pictures) >= 2
