"""`submit` speaks to a server that answers the calls of KFP's API which it uses."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipelines import catalogue
from pipelines.__main__ import cli
from pipelines.cluster import Cluster
from pipelines.settings import load
from pipelines.submission import compile_pipeline


class Api(BaseHTTPRequestHandler):
    """KFP API v2beta1: experiments by name, creating a run, and its state, which the server's `states` give in turn."""

    def do_GET(self):
        if re.match(r"/apis/v2beta1/experiments", self.path):
            self._answer({"experiments": [{"experiment_id": "e1", "display_name": "keras-spatial"}]})
        elif self.path.startswith("/apis/v2beta1/runs/r1"):
            states = self.server.states
            self._answer(run(states.pop(0) if len(states) > 1 else states[0]))
        elif self.path.startswith("/apis/v2beta1/healthz"):
            self._answer({"multi_user": True})
        else:
            self._answer({"message": f"no such thing: {self.path}"}, 404)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        self.server.requests.append((self.path.split("?")[0], self.headers.get("Authorization"), body))
        if self.server.refuse:
            self._answer({"message": "namespace imaging: forbidden"}, 403)
        elif self.path.startswith("/apis/v2beta1/runs"):
            self._answer(run("PENDING"))
        else:
            self._answer({"experiment_id": "e1", "display_name": "keras-spatial"})

    def _answer(self, value, status=200):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


def run(state):
    failed = state == "FAILED"
    error = {"code": 13, "message": "OOMKilled: exit code 137"} if failed else None
    tasks = [{"display_name": "train", "state": state, "error": error}]
    return {"run_id": "r1", "experiment_id": "e1", "state": state, "run_details": {"task_details": tasks}}


@pytest.fixture
def server(monkeypatch):
    for variable in ("KFP_HOST", "KFP_NAMESPACE", "KFP_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    server.requests, server.states, server.refuse = [], ["RUNNING", "SUCCEEDED"], False
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    pipeline = catalogue.build("batch_inference", load(None, ["data=/data", "model=/model"]), Cluster())
    return str(compile_pipeline(pipeline, tmp_path_factory.mktemp("package") / "batch.yaml"))


def submit(server, package, *options):
    host = f"http://127.0.0.1:{server.server_port}"
    return cli(["submit", package, "--host", host, "--namespace", "imaging", "--token", "secret", *options])


def test_a_run_is_created_from_the_package(server, package, capsys):
    assert submit(server, package, "--name", "night") == 0
    path, authorization, body = server.requests[-1]
    assert path == "/apis/v2beta1/runs"
    assert authorization == "Bearer secret"
    assert body["display_name"] == "night"
    spec = body["pipeline_spec"]
    spec = spec.get("pipeline_spec", spec)
    assert spec["pipelineInfo"]["name"] == "batch-inference"
    assert capsys.readouterr().out.splitlines()[-1] == "Submitted: run r1"


def test_an_awaited_run_that_fails_fails_the_command_with_the_steps_error(server, package, capsys):
    server.states = ["FAILED"]
    assert submit(server, package, "--wait") == 1
    assert "OOMKilled: exit code 137" in capsys.readouterr().err


def test_an_awaited_run_that_succeeds(server, package, capsys):
    server.states = ["SUCCEEDED"]
    assert submit(server, package, "--wait") == 0
    assert "train: SUCCEEDED" in capsys.readouterr().out


def test_a_refusal_is_shown(server, package, capsys):
    server.refuse = True
    assert submit(server, package) == 1
    assert "forbidden" in capsys.readouterr().err


def test_a_host_is_needed(package, monkeypatch, capsys):
    monkeypatch.delenv("KFP_HOST", raising=False)
    assert cli(["submit", package]) == 2
    assert "--host" in capsys.readouterr().err
