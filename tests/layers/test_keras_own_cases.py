"""`ks.layers` are Keras's own classes: Keras's expected values hold for them, with this package and oneDNN loaded."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import keras
import pytest

import keras_spatial as ks

CASES = Path(keras.__file__).parent / "src" / "layers"
# The layers whose kernels oneDNN replaces.
KINDS = ("convolutional", "normalization", "pooling")


def test_every_spatial_layer_is_the_keras_class_of_that_name():
    own = {name for name in ks.layers.__all__ if getattr(ks.layers, name).__module__.startswith("keras_spatial")}
    for name in set(ks.layers.__all__) - own:
        assert getattr(ks.layers, name) is getattr(keras.layers, name)


@pytest.mark.skipif(
    not CASES.joinpath("pooling", "max_pooling_test.py").exists(), reason="Keras came without its tests"
)
def test_the_installed_keras_passes_its_own_cases(tmp_path):
    # They run in their own process without pytest settings: those of this project are not meant for them, but would be
    # found if the virtual environment lies inside the checkout. One process runs all of them, because TensorFlow takes
    # seconds to import.
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-p", "keras_spatial", "-p", "no:cacheprovider", "-c", "pytest.ini"]
    command += ["--junitxml", "cases.xml"]
    command += [str(CASES / kind) for kind in KINDS]
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    cases = ElementTree.parse(tmp_path / "cases.xml").iter("testcase")
    passed = {part for case in cases if not len(case) for part in case.attrib["classname"].split(".")}
    for kind in KINDS:
        assert passed & {path.stem for path in (CASES / kind).glob("*_test.py")}, kind
