"""If a demanded accelerator is missing, a step ends at once, and says what TensorFlow has found."""

import json
import subprocess
import sys
import time
from pathlib import Path

import keras
import pytest
import tensorflow as tf

from components import devices
from components.jobs.description import Description
from components.preprocess.preprocess import build_dataset
from components.settings import MeshSettings
from datasets.phantom import write_lits_folder

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
    assert "built without CUDA" in text or "built for CUDA" in text
    assert "NVIDIA driver " in text and "LD_LIBRARY_PATH='/usr/local/nvidia/lib64'" in text


def test_cpus_are_always_there():
    placed = devices.distribution(MeshSettings(mesh="rows:2", layout="x:rows", accelerator="cpu"))
    assert list(placed.device_mesh.devices.flatten()) == ["cpu:0", "cpu:1"]


def test_the_processes_of_a_job_ask_before_they_wait_for_each_other(tmp_path):
    """Only one of two processes is started; otherwise it would wait minutes for the other one."""
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


# Two GPUs are entered into TensorFlow's list of what the machine has, which its real functions then configure. Each job
# ends where it would ask for its devices.
CONFIGURED = """
import json, sys

import tensorflow as tf
from tensorflow.python.eager import context

from components import devices
from components.jobs.description import Description

gpus = [tf.config.PhysicalDevice(f"/physical_device:GPU:{number}", "GPU") for number in range(2)]
tf.config.list_physical_devices()
context.context()._physical_devices += gpus
demand = devices.demand


class Asked(Exception):
    pass


def asked(settings):
    demand(settings)
    raise Asked


devices.demand = asked
for path in sys.argv[1:]:
    job = Description.read(path)
    tf.config.experimental.set_memory_growth(gpus[1], False)
    tf.config.set_visible_devices([], "GPU")
    try:
        job.run(job.places)
    except Asked:
        visible = [gpu.name[-1] for gpu in tf.config.get_visible_devices("GPU")]
        grows = [tf.config.experimental.get_memory_growth(gpus[1]), context.context().config.gpu_options.allow_growth]
        print(json.dumps([job.step, visible, grows]))
tf.config.set_visible_devices(gpus, "GPU")
devices.share(1, 2)
print(json.dumps([gpu.name for gpu in tf.config.get_visible_devices("GPU")]))
"""


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="this machine has GPUs")
def test_the_gpus_of_every_step_are_configured_before_tensorflow_starts(tmp_path):
    """If it had started, it would refuse to be configured."""
    write_lits_folder(tmp_path / "cases", cases=3, size=16)
    build_dataset(str(tmp_path / "cases"), str(tmp_path / "dataset"), resolution=16, mesh="rows:2", layout="x:rows")
    inputs = keras.Input((16, 16, 16, 1))
    keras.Model(inputs, keras.layers.Conv3D(3, 1)(inputs)).save(tmp_path / "model.keras")
    cases, dataset, model = (str(tmp_path / name) for name in ("cases", "dataset", "model.keras"))
    volumes = {"volumes": f"{cases}/volume-0.nii.gz", "model": model, "task_file": ""}
    settings = {"mesh": "rows:1", "layout": "x:rows", "accelerator": "gpu", "gpus": [1], "memory_growth": True}
    made = {name: str(tmp_path / "made" / name) for name in ("model", "evaluation", "predictions")}
    predictions, arguments = {"predictions": made["predictions"]}, {"share": "0-of-1"}
    jobs = [
        Description("train", {"dataset": dataset}, {"model": made["model"]}, settings, "", work=str(tmp_path / "work")),
        Description(
            "evaluate",
            {"cases": cases, "dataset": dataset, "model": model},
            {"evaluation": made["evaluation"], **predictions},
            settings,
            facts="",
        ),
        Description("segment", volumes, predictions, {**settings, "task": "lits"}, facts="", arguments=arguments),
    ]
    paths = [job.write(str(tmp_path / f"{job.step}.json")) for job in jobs]
    ended = subprocess.run(
        [sys.executable, "-c", CONFIGURED, *paths], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert ended.returncode == 0, ended.stderr
    found = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("[")]
    *steps, own = found
    assert steps == [[job.step, ["1"], [True, True]] for job in jobs]
    assert own == ["/physical_device:GPU:1"], "that of the second of two processes"


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="this machine has GPUs")
def test_memory_growth_without_gpus_is_said():
    with pytest.warns(UserWarning, match="memory_growth: TensorFlow sees no GPU"):
        devices.demand(MeshSettings(memory_growth=True))
    for accelerator in ("cpu", "tpu"):
        with pytest.raises(ValueError, match=f"memory_growth: it concerns GPUs.*with accelerator {accelerator}"):
            MeshSettings(accelerator=accelerator, memory_growth=True)


def test_processes_of_one_machine_share_its_gpus():
    gpus = list("abcdefgh")
    assert [devices.part_of(gpus, rank, 4) for rank in range(4)] == [["a", "b"], ["c", "d"], ["e", "f"], ["g", "h"]]
    assert devices.part_of([], 1, 2) == []
    with pytest.raises(devices.AcceleratorError, match="divisor of the 8 visible GPUs"):
        devices.part_of(gpus, 0, 3)
