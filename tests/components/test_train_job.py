"""The step that launches a training job of several pods, waits for it, and survives a cluster that answers late."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import kubernetes_server as fake
import pytest
from kubernetes_server import Frame, pod
from small_training import SETTINGS

from components.jobs import follow, heartbeat, lifecycle, manifests
from components.jobs.cluster_api import ClusterApiError
from components.jobs.description import JobError
from components.jobs.pods import job_name
from components.jobs.settings import JobSettings
from components.train.settings import TRAINING
from components.train.train import METRICS
from components.train_job.train_job import train_in_job

COMMAND = ["python", "-m", "components.jobs.worker", "/data/job.json"]
KINDS = ("TrainJob", "TFJob")
RUN = "4f0c9f2e-11aa-4ef2-9c54-5b5f0d6a0c11"
NAME = "keras-spatial-4f0c9f2e-abc"
CPU = JobSettings(kind="TrainJob", nodes=2, image="i", cpu="2", memory="4Gi", volumes={"lits": "/data"})


# The launching step


@pytest.fixture
def server():
    with fake.running() as server:
        yield server


@pytest.fixture
def shared(tmp_path):
    """A volume that the job mounts, with a data set; the step's scratch folder lies on it."""
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "file").write_text("cases")
    (tmp_path / "volume" / "scratch" / RUN / "train_job-abc").mkdir(parents=True)
    return tmp_path


def launch(server, shared, kind="TrainJob", **changes):
    job = replace(CPU, kind=kind, volumes={"lits": str(shared / "volume")}, **changes)
    return train_in_job(
        str(shared / "dataset"),
        str(shared / "model"),
        job=job.to_json(),
        scratch=str(shared / "volume" / "scratch" / RUN / "train_job-abc"),
        api=fake.api(server),
        poll=0.01,
        **SETTINGS,
    )


def trained(shared):
    """Write what the first process of a complete training leaves."""
    folder = shared / "volume" / "scratch" / RUN / "train_job-abc" / "model"
    folder.mkdir(exist_ok=True)
    facts = {"framework": "f", "mesh": "rows:2", "layout": "x:rows", "resolution": 16, "epochs": 2, "parameters": 1}
    course = {"history": {"loss": [2.0, 1.0]}, "best": {"epoch": 2, "dice": 0.7}, "seconds": 30.0, "steps_per_epoch": 5}
    (folder / TRAINING).write_text(json.dumps({**facts, **course, "processes": 2}))


def deleted(server):
    return [path for method, path in server.requests if method == "DELETE"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_is_made_followed_and_deleted_and_its_model_taken_over(server, shared, kind, capsys):
    def made(name, body):
        if body["kind"] in KINDS:
            trained(shared)

    server.created = made
    server.logs = {"a": "2026-01-01T00:00:00.1Z train: epoch 1/2\n2026-01-01T00:00:00.2Z train: epoch 2/2\n"}
    pods = [pod("b", "Running"), pod("a", "Running")]
    done = "Succeeded" if kind == "TFJob" else "Complete"
    server.frames = [Frame(), Frame(pods=[pod("a", "Pending")]), Frame("Running", "", pods), Frame(done, "", pods)]
    result = launch(server, shared, kind)
    assert [result["model"][name] for name in METRICS] == [0.7, 2, 1.0, 3.0]
    assert (shared / "model" / TRAINING).is_file()
    assert server.objects == {}
    assert NAME in deleted(server)[0]
    out = capsys.readouterr().out
    # Every line is printed once, although each look at the log reads it again.
    assert out.count("train: epoch 1/2") == out.count("train: epoch 2/2") == 1
    assert "train_job: a: Pending" in out
    assert "train_job: a: Running" in out
    label = "training.kubeflow.org/job-name" if kind == "TFJob" else "jobset.sigs.k8s.io/jobset-name"
    assert set(server.selectors) == {f"{label}={NAME}"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_job_fails_with_the_pods_error_and_its_last_lines(server, shared, kind):
    server.logs = {"a": "fine", "b": "".join(f"line {i}\n" for i in range(99)) + "ValueError: no such mesh axis\n"}
    killed = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    server.frames = [Frame("Failed", "1 pod failed", [pod("a", "Running"), pod("b", "Failed", **killed)])] * 2
    with pytest.raises(JobError) as caught:
        launch(server, shared, kind)
    text = str(caught.value)
    for part in (
        f"{kind} {NAME}",
        "1 pod failed",
        "Pod b: Failed, OOMKilled: exit code 137",
        "no such mesh",
    ):
        assert part in text
    assert "line 98" in text
    assert "line 60\n" not in text
    assert "Pod a" not in text
    assert server.objects == {}


def test_a_job_that_takes_too_long_is_deleted(server, shared):
    server.frames = [Frame("Running", "", [pod("a", "Running")])]
    server.logs = {"a": "2026-01-01T00:00:00Z train: epoch 1/2"}
    with pytest.raises(JobError, match=r"(?s)not done after it had run 1 s.*allows more time.*train: epoch 1/2"):
        launch(server, shared, timeout=1)
    assert server.objects == {}


@pytest.mark.parametrize("reason", ["ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError"])
def test_pods_that_cannot_start_end_the_wait(server, shared, reason, monkeypatch):
    monkeypatch.setattr(follow, "_PATIENCE_SECONDS", 0.05)
    waiting = {"waiting": {"reason": reason, "message": "registry.example/none: not found"}}
    server.frames = [Frame(pods=[pod("a", "Pending", **waiting)])]
    with pytest.raises(JobError, match=f"cannot start: pod a: {reason}: registry.example/none"):
        launch(server, shared)
    assert server.objects == {}


def test_missing_rights_are_named_at_once(server, shared):
    server.refuse = 403
    with pytest.raises(ClusterApiError, match=r"cannot create NetworkPolicy.*namespace imaging: 403.*forbidden"):
        launch(server, shared)


def test_a_job_that_somebody_deletes_ends_the_wait(server, shared):
    server.created = lambda name, body: body["kind"] == "TrainJob" and server.objects.clear()
    with pytest.raises(JobError, match="was deleted while it ran"):
        launch(server, shared)


def test_a_server_that_fails_for_a_while_is_asked_again(server, shared, capsys):
    def made(name, body):
        if body["kind"] == "TrainJob":
            trained(shared)
            server.broken = 2

    server.created = made
    server.frames = [Frame(), Frame("Complete")]
    assert launch(server, shared)["model"]["processes"] == 2
    assert capsys.readouterr().out.count("etcd is being replaced") == 2


def test_a_server_that_stays_away_ends_the_wait(server, shared, monkeypatch):
    monkeypatch.setattr(follow, "_PATIENCE_SECONDS", 0.05)

    def made(name, body):
        if body["kind"] == "TrainJob":
            server.broken = 10_000

    server.created = made
    with pytest.raises(ClusterApiError, match="500"):
        launch(server, shared)


def test_a_step_that_is_tried_again_waits_for_the_job_that_still_runs(server, shared, capsys):
    job = replace(CPU, volumes={"lits": str(shared / "volume")})
    for resource, body in manifests.objects(NAME, job, COMMAND):
        server.objects[resource.plural, body["metadata"]["name"]] = body
    trained(shared)
    server.frames = [Frame("Running"), Frame("Running"), Frame("Complete")]
    launch(server, shared)
    out = capsys.readouterr().out
    assert "of an earlier attempt is running; waiting for it" in out
    assert "created" not in out


def test_a_failed_job_of_an_earlier_attempt_is_replaced(server, shared, capsys):
    job = replace(CPU, volumes={"lits": str(shared / "volume")})
    for resource, body in manifests.objects(NAME, job, COMMAND):
        server.objects[resource.plural, body["metadata"]["name"]] = body
    trained(shared)
    server.frames = [Frame("Failed"), Frame("Failed"), Frame("Complete")]
    launch(server, shared)
    assert f"created TrainJob {NAME}, 2 pods" in capsys.readouterr().out


@pytest.mark.parametrize("scratch", [None, "/elsewhere/train_job-abc"])
def test_a_folder_that_the_pods_do_not_see_is_refused(server, shared, scratch):
    with pytest.raises(JobError, match=r"scratch: a job of several pods needs a folder.*cluster file"):
        train_in_job("d", "m", job=CPU.to_json(), scratch=scratch, api=fake.api(server), **SETTINGS)
    assert server.requests == []


def test_a_terminated_step_deletes_its_job(server, shared):
    server.frames = [Frame("Running")]

    def made(name, body):
        if body["kind"] == "TrainJob":
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()

    server.created = made
    with pytest.raises(JobError, match="SIGTERM has ended the step; its job is deleted"):
        launch(server, shared)
    assert server.objects == {}
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("busy", [0, 1], ids=["made", "refused"])
def test_a_step_that_is_ended_while_its_job_is_being_made_leaves_none(server, shared, busy):
    """The deletion would overtake the request, find no job, and leave the one that is made after it."""

    def hold(name, body):
        if body["kind"] == "TrainJob":
            server.busy = busy
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)

    server.arrived = hold
    with pytest.raises(JobError, match="SIGTERM has ended the step; its job is deleted"):
        launch(server, shared)
    assert server.objects == {}
    sent = [method for method, path in server.requests if path == f"trainjobs/{NAME}"]
    # The first deletion removes what an earlier attempt may have left.
    assert sent == ["DELETE", "POST", "DELETE"]


# A cluster that answers late


def complete(server, shared):
    """Let the operator that the server simulates succeed at once."""
    trained(shared)
    server.frames = [Frame("Complete")]


def posted(server):
    return [path.partition("/")[0] for method, path in server.requests if method == "POST"]


@pytest.mark.parametrize("kind", KINDS)
def test_finalizers_of_an_earlier_attempts_job_are_waited_for(server, shared, kind, capsys):
    job = replace(CPU, kind=kind, volumes={"lits": str(shared / "volume")})
    for resource, body in manifests.objects(NAME, job, COMMAND):
        server.objects[resource.plural, body["metadata"]["name"]] = body
        server.finalizing[resource.plural] = 3
    trained(shared)
    server.frames = [Frame("Failed"), Frame("Failed"), Frame("Complete")]
    launch(server, shared, kind)
    out = capsys.readouterr().out
    assert f"{kind} {NAME} of an earlier attempt is still being deleted; trying again" in out
    assert "created" in out


def test_a_job_that_is_being_deleted_is_not_waited_for_as_if_it_ran(server, shared, capsys):
    job = replace(CPU, volumes={"lits": str(shared / "volume")})
    for resource, body in manifests.objects(NAME, job, COMMAND):
        server.objects[resource.plural, body["metadata"]["name"]] = body
    server.objects["trainjobs", NAME]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    server.finalizing["trainjobs"] = 3
    complete(server, shared)
    launch(server, shared)
    assert "of an earlier attempt is running" not in capsys.readouterr().out
    assert "trainjobs" in posted(server)


def test_a_name_that_stays_taken_is_named(server, shared, monkeypatch):
    monkeypatch.setattr(lifecycle, "PATIENCE_SECONDS", 0.05)
    for resource, body in manifests.objects(NAME, CPU, COMMAND):
        server.objects[resource.plural, body["metadata"]["name"]] = body
    server.frames = [Frame("Failed")]
    server.finalizing["trainjobs"] = 10_000
    with pytest.raises(ClusterApiError, match=r"is still being deleted after .* Look at its finalizers"):
        launch(server, shared)


def test_a_webhook_whose_cache_is_behind_is_asked_again(server, shared):
    complete(server, shared)
    server.stale = 3
    launch(server, shared)
    assert posted(server) == ["networkpolicies", "trainingruntimes", *["trainjobs"] * 4]


def test_another_refusal_of_the_webhook_ends_the_step_at_once(server, shared, monkeypatch):
    monkeypatch.setattr(fake, "WEBHOOK", 'admission webhook "policy" denied the request: image not allowed')
    server.stale = 1
    with pytest.raises(ClusterApiError, match="image not allowed"):
        launch(server, shared)
    assert posted(server).count("trainjobs") == 1


def test_a_server_that_restarts_while_objects_are_made(server, shared):
    complete(server, shared)
    server.busy = 2
    launch(server, shared)
    assert posted(server) == [*["networkpolicies"] * 3, "trainingruntimes", "trainjobs"]


def test_an_object_whose_answer_was_lost_is_not_made_twice(server, shared):
    complete(server, shared)
    server.lost = 3
    launch(server, shared)
    # The second request finds the first one's object.
    assert posted(server) == ["networkpolicies", "networkpolicies", *["trainingruntimes"] * 2, *["trainjobs"] * 2]


def test_a_slow_server_changes_nothing(server, shared):
    complete(server, shared)
    server.slow = 0.1
    assert launch(server, shared)["model"]["final_loss"] == 1.0


# Queues, missing pods, owners


def test_time_in_the_queue_is_not_running_time(server, shared):
    trained(shared)
    server.frames = [Frame("Suspended", "waits for quota")] * 150 + [Frame("Complete")]
    started = time.monotonic()
    launch(server, shared, timeout=1, queue_timeout=60)
    assert time.monotonic() - started > 1


def test_a_queue_that_takes_too_long_ends_the_wait(server, shared):
    server.frames = [Frame("Suspended", "waits for quota")]
    with pytest.raises(JobError, match=r"waited 1 s for its pods to run, in state 'Suspended'.*queue_timeout"):
        launch(server, shared, queue_timeout=1)


def test_pods_that_wait_for_a_node_are_in_the_queue(server, shared):
    server.frames = [Frame("", "", [pod("a", "Pending"), pod("b", "Pending")])]
    with pytest.raises(JobError, match="waited 1 s for its pods to run"):
        launch(server, shared, timeout=1_000, queue_timeout=1)


def test_pods_that_are_never_made_end_the_wait_with_the_events_that_say_why(server, shared, monkeypatch):
    monkeypatch.setattr(follow, "_CREATION_SECONDS", 0.05)
    server.frames = [Frame("Created", "", [pod("a", "Running")])]
    server.logs = {"a": ""}
    server.events = [(f"{NAME}-node-0", "pods is forbidden: exceeded quota: gpus"), ("another", "no matter")]
    with pytest.raises(JobError, match=r"has 1 of 2 pods after .* never made. FailedCreate: .*exceeded quota: gpus"):
        launch(server, shared)
    assert server.objects == {}


def test_a_queued_job_has_no_pods_for_as_long_as_it_is_queued(server, shared, monkeypatch):
    monkeypatch.setattr(follow, "_CREATION_SECONDS", 0.02)
    trained(shared)
    server.frames = [Frame("Suspended")] * 20 + [Frame("Complete")]
    launch(server, shared)


def test_a_restarting_jobs_pods_may_be_missing_for_a_while(server, shared):
    trained(shared)
    both = [pod("a", "Running"), pod("b", "Running")]
    server.logs = {"a": "", "b": ""}
    server.frames = [
        Frame(),
        Frame("Running", "", both),
        Frame("Restarting"),
        Frame("Running", "", both),
        Frame("Complete"),
    ]
    launch(server, shared)


@pytest.mark.parametrize("readable", [True, False], ids=["workflow", "pod"])
def test_the_objects_belong_to_the_run(server, shared, readable, monkeypatch):
    """They belong to the workflow, which outlives the step's pod, or to the pod if the step may not read it."""
    monkeypatch.setenv("KFP_POD_NAME", "lits-7xk2p-train")
    monkeypatch.setenv("KFP_POD_UID", "p-1")
    workflow = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "lits-7xk2p", "uid": "w-1"}
    if readable:
        server.owners = {"lits-7xk2p-train": [{**workflow, "controller": True}]}
    complete(server, shared)
    owners = []
    server.created = lambda name, body: owners.extend(body["metadata"]["ownerReferences"])
    launch(server, shared)
    pod_itself = {"apiVersion": "v1", "kind": "Pod", "name": "lits-7xk2p-train", "uid": "p-1"}
    assert owners == [workflow if readable else pod_itself] * 3


def test_equal_steps_of_two_runs_have_jobs_of_their_own():
    names = {job_name(f"/data/{run}/train_job-0123456789abcdef") for run in (RUN, RUN.replace("4f0c", "aaaa"))}
    assert names == {"keras-spatial-4f0c9f2e-0123456789abcdef", "keras-spatial-aaaa9f2e-0123456789abcdef"}
    # The name of the longest pod adds "-node-0-4095-xxxxx".
    assert all(len(name) + len("-node-0-4095-xxxxx") <= 63 for name in names)


def test_a_job_that_cannot_be_deleted_does_not_cost_the_model(server, shared, monkeypatch, capsys):
    complete(server, shared)
    monkeypatch.setattr(lifecycle.Lifecycle, "remove", _refused_after(lifecycle.Lifecycle.remove, 1))
    assert launch(server, shared)["model"]["final_loss"] == 1.0
    assert "the job ends itself within" in capsys.readouterr().out


def _refused_after(remove, calls):
    """A `remove` that is refused after the given number of calls."""
    count = iter(range(100))

    def refused(self):
        if next(count) >= calls:
            raise ClusterApiError("cannot delete: 403 forbidden", 403)
        remove(self)

    return refused


# The heartbeat


def test_a_process_ends_when_its_launching_step_is_gone(tmp_path):
    program = (
        "import sys, time; from components.jobs.heartbeat import end_without\n"
        "end_without(sys.argv[1], limit=0.3, look_every=0.05); time.sleep(60)"
    )
    heartbeat.beat(str(tmp_path / "heartbeat"))
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "heartbeat")],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
        text=True,
    )
    while time.monotonic() - started < 2:
        heartbeat.beat(str(tmp_path / "heartbeat"))
        assert process.poll() is None
        time.sleep(0.05)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 75
    assert "has given no heartbeat for" in error


def test_a_sign_of_life_that_cannot_be_written_does_not_end_the_step(server, shared, capsys):
    """One failed write on a shared file system once deleted a job that ran well."""
    complete(server, shared)
    (shared / "volume" / "scratch" / RUN / "train_job-abc" / "heartbeat").mkdir()
    launch(server, shared)
    assert "heartbeat: cannot be written" in capsys.readouterr().out
