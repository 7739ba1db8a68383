"""Besides Keras's own progress, `fit` and `predict` print nothing, except that a long tracing is in progress."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from keras_spatial._environment import quiet

ROOT = Path(__file__).parents[2]
PROGRAM = """\
import logging
import os
import keras
import keras_spatial as ks
import numpy as np

logging.basicConfig(level=logging.INFO)  # As KFP's executor has it.
with ks.SpatialParallel(ks.device_mesh("rows:2"), "x:rows").scope():
    inputs = keras.Input((8, 8, 1))
    model = ks.Model(inputs, ks.layers.Conv2D(1, 3, padding="same")(inputs))
model.compile("sgd", "mse")
data = np.zeros((2, 8, 8, 1), "float32")
model.fit(data, data, verbose=0)
model.predict(data, verbose=0)
print(os.environ["TF_CPP_MIN_LOG_LEVEL"], os.environ["TF_ENABLE_ONEDNN_OPTS"])
"""
SLOW = "from keras_spatial import announcements\nannouncements._PATIENCE_SECONDS = 0.0\n"


def run(program, *command, **variables):
    environment = {k: v for k, v in os.environ.items() if k not in ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS")}
    environment |= {"PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(
        [sys.executable, *(command or ["-c", program])], env=environment, capture_output=True, text=True, check=True
    )


@pytest.mark.parametrize("order", ["keras_spatial first", "keras first"])
def test_fit_prints_nothing_of_its_own(order):
    first = "import keras_spatial\n" if order == "keras_spatial first" else "import keras\n"
    # On CPUs without AVX-512 TensorFlow leaves oneDNN off, which the package says if it comes too late to change that.
    onednn = {"TF_ENABLE_ONEDNN_OPTS": "1"} if order == "keras first" else {}
    done = run(first + PROGRAM, **onednn)
    assert done.stdout == "2 1\n"
    lines = done.stderr.splitlines()
    if order == "keras first":
        # TensorFlow prints its notices before this package can keep them back.
        lines = [line for line in lines if not line.startswith(("WARNING: All log", "I0000", "To enable"))]
    assert lines == []


def test_what_the_user_has_set_stays_and_everything_is_shown_to_whoever_asks():
    names = "TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS"
    program = f"import os, keras_spatial; print(*(os.environ[name] for name in {names}))"
    done = run(program, **dict.fromkeys(names, "0"))
    assert done.stdout == "0 0\n"
    assert "cc:" in done.stderr


def test_keras_first_needs_one_line_where_onednn_is_off_and_none_where_it_is_on():
    # As on a CPU on which TensorFlow leaves oneDNN off: it reads the switch when it is loaded.
    program = "import os, keras; del os.environ['TF_ENABLE_ONEDNN_OPTS']; import keras_spatial"
    on, off = (run(program, TF_ENABLE_ONEDNN_OPTS=value).stderr for value in ("1", "0"))
    assert "oneDNN is off" not in on
    [said] = [line for line in off.splitlines() if "oneDNN is off" in line]
    assert "set TF_ENABLE_ONEDNN_OPTS=1 in the environment once" in said


def test_a_log_gets_one_line_for_each_epoch_without_codes():
    out = run(PROGRAM.replace("data, verbose=0", "data")).stdout
    fitted, predicted, _ = out.splitlines()
    assert re.fullmatch(r"1/1 - \d+s - \w+/step - loss: [\d.e+-]+", fitted)
    assert re.fullmatch(r"1/1 - \d+s - \w+/step", predicted)


def test_long_tracing_says_that_it_traces():
    said = run(SLOW + PROGRAM).stderr
    assert "keras_spatial: tracing a step of fit for 2 devices" in said
    assert "keras_spatial: traced in" in said


def test_other_lines_pass_while_notices_are_held_back(monkeypatch, capfdbinary):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    with quiet():
        os.write(2, b"I0000 00:00:1796012036.252779    8239 port.cc:153] oneDNN custom operations are on.\n")
        os.write(2, b"a word of somebody else \xff\n")
    assert capfdbinary.readouterr().err == b"a word of somebody else \xff\n"
