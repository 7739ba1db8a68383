"""Every public name of the package has its place in the reference."""

import importlib
import re
import subprocess
import sys
import zlib

import pytest
from docs_pages import ROOT

_MODULES = (
    "",
    "layers",
    "models",
    "losses",
    "metrics",
    "data",
    "volumes",
    "inference",
    "evaluation",
    "planning",
    "rules",
)


@pytest.fixture(scope="module")
def documented(tmp_path_factory):
    """The names in the inventory of the site that is built from the pages."""
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(site)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    inventory = (site / "objects.inv").read_bytes()
    head = re.match(rb"(?:#[^\n]*\n){4}", inventory).end()
    lines = zlib.decompress(inventory[head:]).decode().splitlines()
    return {line.split(" ", 1)[0] for line in lines}


@pytest.mark.parametrize("module", _MODULES, ids=lambda m: f"ks.{m}".rstrip("."))
def test_public_names_are_in_the_reference(module, documented):
    name = f"keras_spatial.{module}".rstrip(".")
    exported = importlib.import_module(name)
    modules = {"layers", "losses", "metrics", "models"}  # Each has a row of its own here.
    missing = [n for n in exported.__all__ if f"{name}.{n}" not in documented]
    # Keras's own classes are described by Keras, and listed in docs/layers.md.
    ours = [n for n in missing if not (getattr(getattr(exported, n), "__module__", None) or "").startswith("keras.")]
    assert not set(ours) - (modules if module == "" else set())


def test_functions_for_plots_are_in_the_reference(documented):
    assert {"keras_spatial.plot.slices", "keras_spatial.plot.partition"} <= documented
