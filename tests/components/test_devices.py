"""Accelerators are demanded: where they are missing a step ends at once, and says what TensorFlow has found."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tensorflow as tf

from components import devices
from components.jobs.description import Description
from components.settings import MeshSettings

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="this machine has GPUs")
@pytest.mark.parametrize(
    ("accelerator", "advice"), [("gpu", "LD_LIBRARY_PATH"), ("tpu", "TensorFlow is built for TPUs")]
)
def test_a_missing_accelerator_is_named_with_what_tensorflow_sees(accelerator, advice, monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", "/usr/local/nvidia/lib64")
    with pytest.raises(devices.AcceleratorError, match=f"accelerator: {accelerator} was asked for") as caught:
        devices.distribution(MeshSettings(accelerator=accelerator))
    text = str(caught.value)
    assert advice in text
    assert "Received: TensorFlow 2." in text and "devices ['/physical_device:CPU:0']" in text
    assert "LD_LIBRARY_PATH='/usr/local/nvidia/lib64'" in text


def test_cpus_are_always_there():
    placed = devices.distribution(MeshSettings(mesh="rows:2", layout="x:rows", accelerator="cpu"))
    assert list(placed.device_mesh.devices.flatten()) == ["cpu:0", "cpu:1"]


def test_the_processes_of_a_job_ask_before_they_wait_for_each_other(tmp_path):
    """Only one of two processes is started: it would wait minutes for the other one."""
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has GPUs")
    job = tmp_path / "job.json"
    settings = {"mesh": "rows:2", "layout": "x:rows", "accelerator": "gpu"}
    inputs, outputs = {"cases": "c", "dataset": "d", "model": "m"}, {"evaluation": "e", "predictions": "p"}
    Description("evaluate", inputs, outputs, settings, facts="f").write(str(job))
    workers = {"cluster": {"worker": ["localhost:1", "localhost:2"]}, "task": {"type": "worker", "index": 0}}
    environment = {"TF_CONFIG": json.dumps(workers), "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    began = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-m", "components.jobs.worker", str(job)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 1
    assert "AcceleratorError: accelerator: gpu was asked for" in ended.stderr
    assert time.monotonic() - began < 100


def test_gpus_are_chosen_by_their_numbers():
    assert devices.chosen_gpus(list("abcd"), (2, 0)) == ["c", "a"]
    assert devices.chosen_gpus(list("abcd"), ()) == list("abcd")
    with pytest.raises(devices.AcceleratorError, match=r"gpus: expected .* from 0 to below 2. Received: \[1, 2\]"):
        devices.chosen_gpus(list("ab"), (1, 2))
    with pytest.raises(ValueError, match=r"gpus: no GPU is used. Received: \[0\] with accelerator cpu"):
        MeshSettings(accelerator="cpu", gpus=(0,))


def test_processes_of_one_machine_share_its_gpus():
    gpus = list("abcdefgh")
    assert [devices.part_of(gpus, rank, 4) for rank in range(4)] == [["a", "b"], ["c", "d"], ["e", "f"], ["g", "h"]]
    assert devices.part_of([], 1, 2) == []
    with pytest.raises(devices.AcceleratorError, match="divisor of the 8 visible GPUs"):
        devices.part_of(gpus, 0, 3)
