"""`submit` talks to a server that answers the calls of KFP's API that it makes."""

import functools
import json
import os
import re
import signal
import threading
import time
from http.server import ThreadingHTTPServer

import json_server
import kubernetes_server
import pytest
import yaml

from pipelines import catalogue, submission
from pipelines.__main__ import cli
from pipelines.cluster import Cluster
from pipelines.settings import load
from pipelines.submission import PackageError, Server, check_package, compile_pipeline, read_arguments


class Api(json_server.Handler):
    """KFP API v2beta1: experiments, pipelines and their versions, runs and schedules. A run's states are the server's
    `states` in turn; a number among them is an answer with that status."""

    def do_GET(self):
        self.server.looked_up.append(self.path)
        if self.server.unauthorized:
            self.answer({"message": "Jwt is expired"}, 401)
        elif self.path.startswith("/apis/v2beta1/pipelines/p1/versions"):
            self.answer({"pipeline_versions": [VERSION], "total_size": 1})
        elif self.path.startswith("/apis/v2beta1/pipelines"):
            self.answer({"pipelines": [{"pipeline_id": "p1"}] if self.server.known else []})
        elif re.match(r"/apis/v2beta1/experiments", self.path):
            self.answer({"experiments": [{"experiment_id": "e1", "display_name": "keras-spatial"}]})
        elif self.path.startswith("/apis/v2beta1/runs/r1"):
            states = self.server.states
            state = states.pop(0) if len(states) > 1 else states[0]
            if isinstance(state, int):
                self.answer({"message": "upstream connect error"}, state)
            else:
                self.answer(run(state))
        elif self.path.startswith("/apis/v2beta1/healthz"):
            self.answer({"commit_sha": "0", "tag_name": self.server.tag, "multi_user": True})
        else:
            self.answer({"message": f"no such thing: {self.path}"}, 404)

    def do_POST(self):
        data = self.body()
        body = {} if "multipart" in self.headers.get("Content-Type", "") else json.loads(data or "{}")
        self.server.requests.append((self.path.split("?")[0], self.headers.get("Authorization"), body))
        if self.server.unauthorized:
            self.answer({"message": "Jwt is expired"}, 401)
        elif self.server.refuse:
            self.answer({"message": "namespace imaging: forbidden"}, 403)
        elif self.path.startswith("/apis/v2beta1/runs"):
            self.answer(run("PENDING"))
        elif self.path.startswith("/apis/v2beta1/recurringruns"):
            self.answer({"recurring_run_id": "s1", "display_name": body["display_name"]})
        elif self.path.startswith("/apis/v2beta1/pipelines/upload_version"):
            self.answer(VERSION)
        elif self.path.startswith("/apis/v2beta1/pipelines/upload"):
            self.answer({"pipeline_id": "p1"})
        else:
            self.answer({"experiment_id": "e1", "display_name": "keras-spatial"})


VERSION = {"pipeline_id": "p1", "pipeline_version_id": "v1"}


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
    server.unauthorized, server.tag = False, "2.17.0"
    server.known, server.looked_up = False, []
    with json_server.running(server):
        yield server


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    pipeline = catalogue.build("batch_inference", load(None, ["data=/data", "model=/model"]), Cluster())
    return str(compile_pipeline(pipeline, tmp_path_factory.mktemp("package") / "batch.yaml"))


@pytest.fixture(scope="module")
def training_package(tmp_path_factory):
    pipeline = catalogue.build("lits_segmentation", load(None, ["data=/data"]), Cluster())
    return str(compile_pipeline(pipeline, tmp_path_factory.mktemp("package") / "lits.yaml"))


@pytest.fixture
def quick(monkeypatch):
    """Do not wait ten seconds between two looks."""
    monkeypatch.setattr(submission, "submit", functools.partial(submission.submit, poll=0.01))


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


def test_a_backend_that_is_too_old_is_sent_nothing(server, package, capsys):
    server.tag = "2.15.2"
    assert submit(server, package) == 1
    assert "expected a backend of version 2.16.0 or later" in capsys.readouterr().err
    assert server.requests == []
    assert submit(server, package, "--any-version") == 0


def test_a_cluster_without_what_a_job_needs_is_sent_nothing(server, tmp_path, monkeypatch, capsys):
    cluster = Cluster(image="i@sha256:0", volumes={"lits": "/data"}, scratch="/data/scratch", nodes=2)
    pipeline = catalogue.build("sweep", load(None, ["mesh=rows:2", "layout=x:rows"]), cluster)
    launching = str(compile_pipeline(pipeline, tmp_path / "sweep.yaml"))
    with kubernetes_server.running() as kubernetes:
        monkeypatch.setenv("KUBECONFIG", str(kubernetes_server.kubeconfig(kubernetes, tmp_path / "kubeconfig")))
        assert submit(server, launching, "--kube-context", "here") == 0
        assert "TrainJob: the cluster knows every field" in capsys.readouterr().out
        server.requests.clear()
        kubernetes.schemas = []
        assert submit(server, launching, "--kube-context", "here") == 1
    assert "trainer.kubeflow.org: the cluster has no such API" in capsys.readouterr().err
    assert server.requests == []


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


def test_a_token_that_is_not_accepted_is_said_plainly(server, package, capsys):
    server.unauthorized = True
    assert submit(server, package) == 1
    said = capsys.readouterr().err
    assert "does not accept the token (401 Unauthorized)" in said and "KFP_TOKEN" in said
    assert "secret" not in said


@pytest.mark.parametrize(
    "host", ["http://user:geheim@127.0.0.1:1", "user:geheim@kfp", "https://user:ge/heim#@kfp", "http://geheim@kfp:80"]
)
def test_a_password_in_the_address_is_refused_and_never_shown(package, capsys, monkeypatch, host):
    monkeypatch.setenv("KFP_HOST", host)
    assert cli(["submit", package]) == 2
    said = capsys.readouterr()
    assert "without a user name and password" in said.err
    assert "heim" not in said.err + said.out


@pytest.mark.parametrize("host", ["http://kfp.example.org", "http://10.0.0.7:8888", "http://localhost.example.org"])
def test_a_token_is_not_sent_by_plain_http_to_another_machine(package, capsys, host):
    assert cli(["submit", package, "--host", host, "--token", "geheim"]) == 2
    said = capsys.readouterr()
    assert "expected https://, because a token is sent" in said.err and "--allow-http" in said.err
    assert "geheim" not in said.err + said.out


def test_the_token_of_a_pod_counts_as_one(package, capsys, monkeypatch, tmp_path):
    (tmp_path / "token").write_text("geheim")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    assert cli(["submit", package, "--host", "http://kfp.example.org"]) == 2
    assert "expected https://, because a token is sent" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "token", "allow"),
    [
        ("https://kfp", "t", False),
        ("kfp.example.org/pipeline", "t", False),
        ("http://localhost:8888", "t", False),
        ("http://127.0.0.1:8888", "t", False),
        ("http://[::1]:8888", "t", False),
        ("http://kfp", None, False),
        ("http://kfp", "t", True),
    ],
)
def test_other_addresses_are_taken_and_the_token_is_not_printed(monkeypatch, host, token, allow):
    monkeypatch.delenv("KF_PIPELINES_SA_TOKEN_PATH", raising=False)
    assert "token" not in repr(Server(host, None, token, allow))


@pytest.mark.parametrize("host", ["", "http://", "ftp://kfp", "http://[::1"])
def test_what_is_no_address_is_named(package, capsys, host):
    assert cli(["submit", package, "--host", host]) == 2
    assert f"Received: {host!r}" in capsys.readouterr().err


def sent(server, part):
    """The last request whose path contains the given part."""
    return next(body for path, _, body in reversed(server.requests) if part in path)


def test_arguments_account_and_root_reach_the_run(server, package):
    options = ["--argument", "layout=y:rows", "--argument", "data=/data/other", "--service-account", "steps"]
    assert submit(server, package, *options, "--pipeline-root", "s3://bucket/root", "--no-cache") == 0
    body = sent(server, "/runs")
    assert body["runtime_config"]["parameters"] == {"layout": "y:rows", "data": "/data/other"}
    assert body["runtime_config"]["pipeline_root"] == "s3://bucket/root"
    assert body["service_account"] == "steps"
    tasks = yaml.safe_dump(body["pipeline_spec"])
    assert "enableCache: true" not in tasks


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [("mehs=rows:4", "expected NAME=VALUE with one of .*mesh"), ("mesh", "Received: 'mesh'")],
)
def test_an_argument_that_the_pipeline_lacks_is_named_before_anything_is_sent(
    server, package, capsys, assignment, expected
):
    assert submit(server, package, "--argument", assignment) == 2
    assert re.search(expected, capsys.readouterr().err)
    assert server.requests == []


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [("epochs", "7", 7), ("dropout", "0.5", 0.5), ("thresholds", "true", True), ("title", "7", "7")],
)
def test_arguments_have_the_types_of_the_parameters(training_package, name, text, value):
    assert read_arguments(check_package(training_package), [f"{name}={text}"]) == {name: value}


@pytest.mark.parametrize("assignment", ["epochs=many", "epochs=1.5", "epochs=true", "thresholds=1", "thresholds=yes"])
def test_an_argument_of_another_type_is_named(training_package, assignment):
    with pytest.raises(PackageError, match=f"{assignment.partition('=')[0]}: expected .* as JSON"):
        read_arguments(check_package(training_package), [assignment])


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("epochs=0", "--argument: epochs: .*greater than or equal to 1. Received: 0"),
        ("network=unett", "--argument: network: expected one of unet"),
        ("split=fold-5-of-3", "--argument: split: .*K from 0 to below N.*Received: 'fold-5-of-3'"),
        ("class_weights=1, 2", "--argument: class_weights: expected JSON"),
        ("resolution=36", "--argument: resolution: a network of 4 levels needs a multiple of 8. Received: 36"),
        ("layout=x:lines", "--argument: layout: "),
    ],
)
def test_an_argument_that_a_step_would_refuse_is_named(training_package, assignment, expected):
    with pytest.raises(PackageError, match=expected):
        read_arguments(check_package(training_package), [assignment])


def test_the_experiment_is_the_one_that_was_asked_for(server, package):
    assert submit(server, package, "--experiment", "night") == 0
    assert any("night" in path for path in server.looked_up)


@pytest.mark.parametrize("known", [False, True])
def test_a_package_is_uploaded_as_a_pipeline_or_as_its_next_version(server, package, known):
    server.known = known
    assert submit(server, package, "--upload", "inference") == 0
    paths = [path for path, _, _ in server.requests]
    assert ("/apis/v2beta1/pipelines/upload_version" if known else "/apis/v2beta1/pipelines/upload") in paths
    body = sent(server, "/runs")
    assert body["pipeline_version_reference"] == {"pipeline_id": "p1", "pipeline_version_id": "v1"}


def test_a_schedule_runs_one_at_a_time_and_makes_up_for_none(server, package, capsys):
    assert submit(server, package, "--cron", "0 0 2 * * *", "--service-account", "steps") == 0
    body = sent(server, "/recurringruns")
    assert body["trigger"]["cron_schedule"]["cron"] == "0 0 2 * * *"
    assert (body["max_concurrency"], body["no_catchup"], body["service_account"]) == (1, True, "steps")
    assert capsys.readouterr().out.splitlines()[-1] == "Submitted: schedule s1"


def test_a_schedule_cannot_be_waited_for(server, package, capsys):
    assert submit(server, package, "--cron", "0 0 2 * * *", "--wait") == 2
    assert "a schedule never ends" in capsys.readouterr().err


def test_a_gateway_that_fails_for_a_while_does_not_end_the_wait(server, package, capsys, quick):
    server.states = ["RUNNING", 502, 503, 429, "SUCCEEDED"]
    assert submit(server, package, "--wait") == 0
    assert capsys.readouterr().out.count("trying again") == 3


def test_a_gateway_that_stays_away_ends_the_wait(server, package, capsys, quick, monkeypatch):
    monkeypatch.setattr(submission, "_PATIENCE_SECONDS", 0.05)
    server.states = [502]
    assert submit(server, package, "--wait") == 1
    assert "has not answered" in capsys.readouterr().err


def test_a_refusal_while_waiting_ends_at_once(server, package, capsys, quick):
    server.states = [401]
    assert submit(server, package, "--wait") == 1
    assert "trying again" not in capsys.readouterr().out


def test_a_wait_that_is_interrupted_says_that_the_run_continues(server, package, capsys):
    server.states = ["RUNNING"]

    def press():
        while not any("/runs/r1" in path for path in server.looked_up):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    assert submit(server, package, "--wait") == 130
    said = capsys.readouterr()
    assert "Run r1 is no longer followed. It continues on the cluster." in said.out
    assert said.err.strip() == "FAILED: interrupted."


def test_a_host_is_needed(package, monkeypatch, capsys):
    monkeypatch.delenv("KFP_HOST", raising=False)
    assert cli(["submit", package]) == 2
    assert "--host" in capsys.readouterr().err
