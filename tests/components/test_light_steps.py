"""Steps that compute nothing themselves start at once: they do not import TensorFlow, which takes seconds."""

import subprocess
import sys

# Modules that compare and record small files, and those that launch the computing processes.
LIGHT = (
    "components.resume",
    "components.compare.compare",
    "components.finish.finish",
    "components.sweep.sweep",
    "components.validate.validate",
    "components.train.train",
    "components.evaluate.evaluate",
    "components.segment.segment",
    "components.train_job.train_job",
    "components.evaluate_job.evaluate_job",
    "components.segment_job.segment_job",
    "components.jobs.worker",
    "pipelines.local",
)
PROGRAM = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    if "tensorflow" in sys.modules:
        sys.exit(name)
"""


def test_steps_that_compare_record_or_launch_import_no_tensorflow():
    done = subprocess.run([sys.executable, "-c", PROGRAM, *LIGHT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
