"""The processes of a local job cannot be reached from another machine."""

import io
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from keras_spatial import isolation
from keras_spatial.launch import launch

ROOT = Path(__file__).parents[1]
# Process 0 listens as TensorFlow does, and both wait for a file.
LISTENER = """
import json, os, pathlib, socket, sys, time
config = json.loads(os.environ["TF_CONFIG"])
port = int(config["cluster"]["worker"][0].rpartition(":")[2])
if config["task"]["index"] == 0:
    server = socket.create_server(("0.0.0.0", port))
    server.accept()  # Of process 1.
    print("port", port, flush=True)
else:
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            print("reached process 0", flush=True)
            break
        except OSError:
            time.sleep(0.1)
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.05)
"""
TRAINING = """
import json, os, pathlib, sys, time
import numpy as np, keras, keras_spatial as ks
job = ks.initialize(timeout=60)
with ks.SpatialParallel(ks.device_mesh("rows:2"), "x:rows").scope():
    inputs = keras.Input((8, 8, 1))
    model = ks.Model(inputs, ks.layers.Conv2D(1, 3, padding="same")(inputs))
model.compile("sgd", "mse")

class Waits(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if job.is_first and batch == 0:
            address = json.loads(os.environ["TF_CONFIG"])["cluster"]["worker"][0]
            print("port", address.rpartition(":")[2], flush=True)
            while not pathlib.Path(sys.argv[1]).exists():
                time.sleep(0.05)

model.fit(np.zeros((2, 8, 8, 1), "float32"), np.zeros((2, 8, 8, 1), "float32"), 1, verbose=0, callbacks=[Waits()])
"""


def own_address() -> str:
    """An address of this machine under which others can reach it. Nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no network interface but the loopback one")
        return probe.getsockname()[0]


def answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=2).close()
    except OSError:
        return False
    return True


def while_running(program: str, folder: Path, network: str) -> tuple[int, dict[str, bool], str]:
    """The status and output of a job of two processes, and whether its first port answers under each address while
    it runs.
    """
    output, end = io.StringIO(), folder / "end"
    status: list[int] = []
    command = [sys.executable, "-c", program, str(end)]
    job = threading.Thread(target=lambda: status.append(launch(command, 2, output, network=network)))
    job.start()
    found = {}
    deadline = time.monotonic() + 120
    while not (said := re.search(r"port (\d+)", output.getvalue())) and job.is_alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    if said:
        found = {address: answers(address, int(said[1])) for address in ("127.0.0.1", own_address())}
    end.touch()
    job.join(60)
    return status[0], found, output.getvalue()


def test_a_training_of_two_processes_is_not_reachable(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    status, found, output = while_running(TRAINING, tmp_path, "isolated")
    assert status == 0, output
    assert found == {"127.0.0.1": False, own_address(): False}
    assert "without any authentication" not in output


@pytest.mark.parametrize(("network", "reachable"), [("isolated", False), ("shared", True)])
def test_only_a_shared_network_opens_the_ports_and_it_warns(tmp_path, network, reachable):
    status, found, output = while_running(LISTENER, tmp_path, network)
    assert status == 0, output
    assert "[1] reached process 0" in output
    assert found == {"127.0.0.1": reachable, own_address(): reachable}
    assert ("listens on all network interfaces of this machine without any authentication" in output) is reachable


def test_a_user_without_privileges_gets_a_network_too():
    """Run as root without the right to administer the system, or as the user of the tests."""
    drop = "import ctypes, os, sys\nctypes.CDLL(None).prctl(24, 21, 0, 0, 0)\nos.execv(sys.executable, sys.argv[1:])"
    command = [sys.executable, "-I", "-S", str(isolation.OWNERSHIP), "network"]
    done = subprocess.run([sys.executable, "-c", drop, *command], input="", capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, "user net\n"), done.stderr


def test_where_no_network_can_be_made_nothing_starts_and_the_way_out_is_named(tmp_path, monkeypatch):
    refusing = tmp_path / "ownership.py"
    refusing.write_text("import sys; sys.exit('unshare: Operation not permitted')")
    monkeypatch.setattr(isolation, "OWNERSHIP", refusing)
    with pytest.raises(isolation.IsolationError, match=r"Operation not permitted.*KERAS_SPATIAL_NETWORK=shared"):
        launch([sys.executable, "-c", "open('started', 'w')"], 2, io.StringIO())
    assert not Path("started").exists()


def test_the_environment_may_choose_the_network(monkeypatch):
    monkeypatch.setenv("KERAS_SPATIAL_NETWORK", "shared")
    assert isolation.choice(None) == "shared"
    assert isolation.choice("isolated") == "isolated"
    monkeypatch.setenv("KERAS_SPATIAL_NETWORK", "open")
    with pytest.raises(ValueError, match="Received: 'open'"):
        isolation.choice(None)


def test_this_process_knows_whether_others_reach_it():
    assert isolation.is_isolated() is ([path.name for path in Path("/sys/class/net").iterdir()] == ["lo"])
