"""Real processes on the loopback interface: equal to plain Keras, and ended in time if something is wrong."""

import io
import json
import os
import socket
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import zarr

from benchmarks.faults.attacks import clock_library
from keras_spatial import processes
from keras_spatial.launch import free_ports, launch

TRAIN = Path(__file__).with_name("process_training.py")


def train(folder: Path, name: str, count: int, *arguments: str) -> list[dict[str, np.ndarray]]:
    output = io.StringIO()
    command = [sys.executable, str(TRAIN), "--output", str(folder / f"{name}{{rank}}.npz"), *arguments]
    assert launch(command, count, output) == 0, output.getvalue()
    return [dict(np.load(folder / f"{name}{rank}.npz")) for rank in range(count)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> dict[str, np.ndarray]:
    return train(tmp_path_factory.mktemp("plain"), "plain", 1, "--mesh", "none")[0]


@pytest.mark.parametrize(
    ("count", "mesh", "layout"),
    [
        (2, "rows:2", "x:rows"),
        (2, "rows:2, columns:2", "y:rows, x:columns"),  # Two devices in each process.
        (4, "rows:2, columns:2", "x:rows, y:columns"),
    ],
)
def test_fit_evaluate_and_predict_equal_plain_keras(tmp_path, plain, count, mesh, layout):
    results = train(tmp_path, "split", count, "--mesh", mesh, "--layout", layout)
    for result in results:
        assert set(result) == set(plain)
        for name, expected in plain.items():
            np.testing.assert_allclose(result[name], expected, rtol=1e-4, atol=1e-4, err_msg=name)
            np.testing.assert_array_equal(result[name], results[0][name], err_msg=f"{name} differs between processes")


@pytest.mark.parametrize(
    ("count", "mesh", "layout"),
    [(2, "rows:2", "x:rows"), (2, "rows:2, columns:2", "y:rows, x:columns")],
)
def test_processes_that_are_fed_their_own_blocks_alone_train_as_plain_keras(tmp_path, plain, count, mesh, layout):
    written = tmp_path / "written"
    options = ("--mesh", mesh, "--layout", layout, "--blocks", "--write", str(written))
    for result in train(tmp_path, "blocks", count, *options):
        for name, expected in plain.items():
            np.testing.assert_allclose(result[name], expected, rtol=1e-4, atol=1e-4, err_msg=name)
    # Each process also writes its own blocks of the predictions.
    assert len(list(written.iterdir())) == 2 * len(result["prediction"])
    for case, scores in enumerate(result["prediction"]):
        np.testing.assert_allclose(zarr.open_array(written / f"{case}.zarr", mode="r")[:], scores, rtol=1e-5, atol=1e-5)
        classes = np.asarray(nib.load(written / f"{case}.nii").dataobj)
        np.testing.assert_array_equal(classes, scores.argmax(-1))


def run_each(programs: list[str], limit: float) -> str:
    """Run a different program in each process; return the output. All must end within `limit` seconds."""
    dispatch = f"import json, os\nexec({programs!r}[json.loads(os.environ['TF_CONFIG'])['task']['index']])"
    output = io.StringIO()
    start = time.monotonic()
    assert launch([sys.executable, "-c", dispatch], len(programs), output) != 0, output.getvalue()
    assert time.monotonic() - start < limit, output.getvalue()
    return output.getvalue()


def test_processes_with_different_meshes_say_so():
    program = """
import numpy as np, keras, keras_spatial as ks
ks.initialize(timeout=60)
distribution = ks.SpatialParallel(ks.device_mesh({mesh!r}), "x:rows")
with distribution.scope():
    inputs = keras.Input((8, 8, 1))
    model = ks.Model(inputs, ks.layers.Conv2D(1, 3, padding="same")(inputs))
model.predict(np.zeros((1, 8, 8, 1), "float32"))
"""
    text = run_each([program.format(mesh="rows:2"), program.format(mesh="rows:4")], 180)
    assert "The processes do not agree on the model" in text
    assert "mesh and layout" in text and "rows:4" in text


def test_processes_with_different_losses_say_so():
    program = """
import numpy as np, keras, keras_spatial as ks
ks.initialize(timeout=60)
with ks.SpatialParallel(ks.device_mesh("rows:2"), "x:rows").scope():
    inputs = keras.Input((8, 8, 1))
    model = ks.Model(inputs, ks.layers.Conv2D(1, 3, padding="same")(inputs))
model.compile("sgd", {loss})
model.fit(np.zeros((1, 8, 8, 1), "float32"), np.zeros((1, 8, 8, 1), "float32"), verbose=0)
"""
    losses = ["keras.losses.Huber(delta=2.0)", "keras.losses.Huber(delta=1.0)"]
    text = run_each([program.format(loss=loss) for loss in losses], 180)
    assert "The processes do not agree on the model" in text
    assert "loss, metrics" in text and "2.0" in text


def test_processes_that_are_given_other_data_say_so():
    program = """
import numpy as np, tensorflow as tf, keras, keras_spatial as ks
job = ks.initialize(timeout=60)
same = np.arange(6, dtype="float32").reshape(1, 2, 3)
job.agree_on_batch("batch 1", ({{"image": tf.constant(same), "name": tf.constant("case 1")}}, tf.constant(1.0), None))
# Of blocks each process has its own.
job.agree_on_batch("batch 2", (ks.LocalBlocks((tf.constant(same) + float(job.rank),), (1, 2, 1)), tf.constant(same)))
print("compared twice", flush=True)
with ks.SpatialParallel(ks.device_mesh("rows:2"), "x:rows").scope():
    inputs = keras.Input((8, 8, 1))
    model = ks.Model(inputs, ks.layers.Conv2D(1, 3, padding="same")(inputs))
model.compile("sgd", "mse")
images, labels = np.zeros((3, 8, 8, 1), "float32"), np.zeros((3, 8, 8, 1), "float32")
other = labels.copy()
other[1] += {offset}
for call in (
    lambda: model.predict(other, batch_size=1, verbose=0),
    lambda: model.evaluate(images, other, batch_size=1, verbose=0),
    lambda: model.fit(images, other, batch_size=1, shuffle=False, verbose=0),
):
    try:
        call()
    except RuntimeError as error:
        print(error, flush=True)
job.exchange("the end", "")
raise SystemExit(3)
"""
    text = run_each([program.format(offset="0"), program.format(offset="0.5")], 120)
    assert text.count("compared twice") >= 2
    for rank in (0, 1):
        lines = "\n".join(line for line in text.splitlines() if line.startswith(f"[{rank}]"))
        predict, evaluate, fit = lines.split("The processes do not agree on the ")[1:]
        for said, call, tensor in ((predict, "predict", 0), (evaluate, "evaluate", 1), (fit, "fit", 1)):
            assert said.startswith(f"batch 2 of {call};")
            assert f"tensor {tensor}: process 0 has 'shape (1, 8, 8, 1), float32, digest" in said
            assert f"tensor {1 - tensor}:" not in said


def test_processes_that_are_given_other_data_by_a_later_call_say_so():
    """The model was compiled once, and the calls before had the same data everywhere."""
    program = """
import numpy as np, keras, keras_spatial as ks
job = ks.initialize(timeout=60)
with ks.SpatialParallel(ks.device_mesh("rows:2"), "x:rows").scope():
    inputs = keras.Input((8, 8, 1))
    model = ks.Model(inputs, ks.layers.Conv2D(1, 3, padding="same")(inputs))
model.compile("sgd", "mse")
same = np.zeros((3, 8, 8, 1), "float32")
other = same + {offset}
options = dict(batch_size=1, verbose=0)
model.fit(same, same, validation_data=(same, same), epochs=3, shuffle=False, **options)
model.evaluate(same, same, **options)
model.predict(same, **options)
list(model.predict_blocks(same, batch_size=1))
for call in (
    lambda: model.fit(same, other, **options),
    lambda: model.fit(same, same, validation_data=(same, other), **options),
    lambda: model.evaluate(same, other, **options),
    lambda: model.predict(other, **options),
    lambda: list(model.predict_blocks(other, batch_size=1)),
):
    try:
        call()
    except RuntimeError as error:
        print(error, flush=True)
# The validation data of a fit are the same in all epochs, and are compared once.
print("compared", *[sum(name.startswith("batch") for name in job._agreements)], flush=True)
job.exchange("the end", "")
raise SystemExit(3)
"""
    text = run_each([program.format(offset="0"), program.format(offset="0.5")], 180)
    for rank in (0, 1):
        lines = "\n".join(line for line in text.splitlines() if line.startswith(f"[{rank}]"))
        found = [said.partition(";")[0] for said in lines.split("The processes do not agree on the ")[1:]]
        calls = ["fit", "evaluate", "evaluate", "predict", "predict"]
        assert found == [f"batch 1 of {call}" for call in calls], text
        # Two batches of each of the first four calls and their validation; then one of each, and two of a fit.
        assert f"[{rank}] compared {2 * 5 + 1 + 3 + 1 + 1 + 1}" in lines


def test_a_port_that_is_in_use_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        jobs = {"worker": ["a:1", f"localhost:{port}"]}
        with pytest.raises(RuntimeError, match=f"port {port} of its address localhost:{port}: another program on this"):
            processes._check_port(jobs, processes.Processes((("worker", 0), ("worker", 1)), rank=1))


@pytest.mark.parametrize(("network", "isolated"), [("", False), ("shared", False), ("", True)])
def test_an_open_port_is_warned_of_unless_the_network_is_known_to_be_safe(monkeypatch, recwarn, network, isolated):
    monkeypatch.setenv("KERAS_SPATIAL_NETWORK", network)
    monkeypatch.setattr("keras_spatial.isolation.is_isolated", lambda: isolated)
    jobs = {"worker": [f"127.0.0.1:{free_ports(1)[0]}"]}
    processes._check_port(jobs, processes.Processes((("worker", 0),)))
    said = [str(w.message) for w in recwarn if "without any authentication" in str(w.message)]
    assert len(said) == (0 if network or isolated else 1)


@pytest.mark.parametrize(
    ("address", "started_by_launcher", "watched"),
    [("127.0.0.1:1", True, True), ("127.0.0.1:1", False, False), ("node-1:1", True, False)],
)
def test_only_what_the_launcher_does_not_watch_is_given_up_for_its_silence(
    monkeypatch, address, started_by_launcher, watched
):
    # A process that the launcher has started is its child; what that starts inherits only the environment.
    monkeypatch.setenv("KERAS_SPATIAL_RESTARTS", "0")
    monkeypatch.setenv("KERAS_SPATIAL_LAUNCHER", str(os.getppid() if started_by_launcher else os.getpid()))
    assert processes._is_watched({"worker": ["127.0.0.1:2", address]}) is watched
    # More than 2^64 microseconds, which is what TensorFlow takes a jump backwards for.
    assert (processes._silence(300, watched=watched) > 2**64 / 1000) is watched
    if not watched:
        assert processes._silence(300, watched=False) == 20_000
        assert processes._silence(5, watched=False) == 5_000


# A job whose clock jumps in the middle. TensorFlow would tell it of a lost process at the next heartbeat, which would
# come after 10 s, and then fail its messages.
JUMP = """
import os, pathlib, sys, time
import keras_spatial as ks, tensorflow as tf
from keras_spatial.runtimes.collective import broadcast_variables
from tensorflow.python.eager import context
job = ks.initialize(timeout=60)
print("silence", context.context().coordination_service.heartbeat_timeout_in_ms, flush=True)
clock, wall, started = pathlib.Path(sys.argv[1]), time.time(), time.monotonic()
job.exchange("the start", "")
if job.is_first:
    clock.with_name("part").write_text(sys.argv[2])
    clock.with_name("part").replace(clock)
while abs(time.time() - wall) < 3600:
    assert time.monotonic() - started < 20, "the clock has not jumped"
    time.sleep(0.01)
time.sleep(12)
value = tf.Variable(float(job.rank + 7))
broadcast_variables([value], job)
assert value.numpy() == 7
print("still running", flush=True)
"""


@pytest.mark.parametrize("jump", ["+90000", "-90000"])
def test_a_job_of_the_launcher_goes_on_when_the_clock_jumps(tmp_path, monkeypatch, jump):
    library = clock_library()
    if library is None:
        pytest.skip("a clock that jumps needs the package libfaketime")
    clock = tmp_path / "clock"
    clock.write_text("+0")
    for name, value in {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    output = io.StringIO()
    status = launch([sys.executable, "-c", JUMP, str(clock), jump], 2, output)
    assert status == 0, output.getvalue()
    assert output.getvalue().count("still running") == 2 and "heartbeat timeout" not in output.getvalue()
    assert output.getvalue().count(f"silence {processes._ANY_SILENCE_MILLISECONDS}") == 2


def test_a_missing_process_is_an_error_in_bounded_time():
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    program = f"import keras_spatial as ks\nks.initialize({addresses!r}, 0, timeout=5)"
    text = run_each([program], 120)
    assert "waits up to 5 s for all 2 processes" in text and addresses[1] in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"addresses": ["localhost"], "process_id": 0}, "host:port"),
        ({"addresses": ["a:1", "a:1"], "process_id": 0}, "address of its own"),
        ({"addresses": ["a:1", "b:1"], "process_id": 2}, "process_id must be 0 to 1"),
        ({"addresses": ["a:1", "b:1"], "process_id": 0, "process_count": 4}, "4 processes were asked for"),
        ({"communication": "mpi"}, "communication must be one of"),
        ({"timeout": 0}, "timeout must be a positive"),
    ],
)
def test_bad_arguments_of_initialize_are_named(arguments, message):
    import keras_spatial as ks

    with pytest.raises(ValueError, match=message):
        ks.initialize(**arguments)


def test_the_environment_says_how_messages_are_sent(monkeypatch):
    import keras_spatial as ks

    monkeypatch.setenv("KERAS_SPATIAL_COMMUNICATION", "mpi")
    with pytest.raises(ValueError, match=r"here or in KERAS_SPATIAL_COMMUNICATION\. Received: 'mpi'"):
        ks.initialize()
    monkeypatch.setenv("KERAS_SPATIAL_COMMUNICATION", "ring")
    program = "import keras_spatial as ks\nraise SystemExit('sent by ' + ks.initialize(timeout=60).communication)"
    assert "sent by ring" in run_each([program, program], 120)


@pytest.mark.parametrize(
    "text",
    ["{", "{}", json.dumps({"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 3}})],
)
def test_a_bad_tf_config_is_named(monkeypatch, text):
    import keras_spatial as ks

    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match="TF_CONFIG"):
        ks.initialize()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, np.ndarray]:
    """A run of two processes, with dropout, that nothing interrupts."""
    return train(tmp_path_factory.mktemp("whole"), "whole", 2, "--dropout", "0.3")[0]


def test_a_killed_run_is_restarted_by_the_launcher_and_ends_with_the_same_weights(tmp_path, whole):
    output = io.StringIO()
    command = [sys.executable, str(TRAIN), "--output", str(tmp_path / "{rank}.npz"), "--dropout", "0.3"]
    command += ["--backup", str(tmp_path / "backup"), "--die", "1:3:0"]
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup" / "backup.npz.1.part").touch()  # The file that a kill in the middle of a backup leaves.
    assert launch(command, 2, output, max_restarts=1) == 0, output.getvalue()
    assert "Process 1 was ended by SIGKILL" in output.getvalue()
    assert "restart 1 of 1" in output.getvalue()
    with np.load(tmp_path / "0.npz") as result:
        for name in whole:
            if name.startswith(("weight", "prediction")):
                np.testing.assert_array_equal(result[name], whole[name], err_msg=name)
    assert {p.name for p in (tmp_path / "backup").iterdir()} == {"backup.npz", ".backup.lock"}


@pytest.mark.parametrize(("count", "mesh", "layout"), [(1, "rows:2, columns:2", "x:columns, y:rows")])
def test_a_killed_run_resumes_on_another_mesh(tmp_path, plain, count, mesh, layout):
    backup = ("--backup", str(tmp_path / "backup"))
    output = io.StringIO()
    command = [sys.executable, str(TRAIN), "--output", str(tmp_path / "killed{rank}.npz"), *backup, "--die", "0:2:0"]
    assert launch(command, 2, output) == 137, output.getvalue()
    resumed = train(tmp_path, "resumed", count, "--mesh", mesh, "--layout", layout, *backup)[0]
    for name in plain:
        if name.startswith(("weight", "prediction")):
            np.testing.assert_allclose(resumed[name], plain[name], rtol=1e-4, atol=1e-4, err_msg=name)
