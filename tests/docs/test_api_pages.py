"""Every public name of the package has its place in the reference."""

import importlib
import re
import subprocess
import sys
import zlib

import pytest
from docs_pages import ROOT

MODULES = (
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


@pytest.mark.parametrize("module", MODULES, ids=lambda m: f"ks.{m}".rstrip("."))
def test_public_names_are_in_the_reference(module, documented):
    name = f"keras_spatial.{module}".rstrip(".")
    missing = [n for n in public(importlib.import_module(name)) if f"{name}.{n}" not in documented]
    # Packages among the names of `ks` have a row of their own here.
    assert not [n for n in missing if module or n not in MODULES]


def public(module):
    """What a module exports, without Keras's own classes, which Keras describes and docs/layers.md lists."""
    exported = getattr(module, "__all__", None)
    if exported is None:
        defined = {n: v for n, v in vars(module).items() if getattr(v, "__module__", None) == module.__name__}
        # In a module without `__all__`, helpers are those without a docstring.
        exported = [n for n, v in defined.items() if not n.startswith("_") and v.__doc__]
    return [n for n in exported if not (getattr(getattr(module, n), "__module__", None) or "").startswith("keras.")]


def test_functions_for_plots_are_in_the_reference(documented):
    assert {"keras_spatial.plot.slices", "keras_spatial.plot.partition"} <= documented
