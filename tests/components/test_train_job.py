"""Training jobs of several pods: their manifests, the processes' addresses, and the step that waits for them."""

import json
import os
import re
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

from components.train.cluster import ClusterError, with_tf_config
from components.train.settings import TRAINING, TrainingError
from components.train_job import follow, heartbeat, manifests
from components.train_job.cluster_api import ClusterApiError
from components.train_job.settings import JobSettings, JobSettingsError
from components.train_job.train_job import train_in_job
from pipelines.cluster import load_cluster

COMMAND = ["python", "-m", "components.train.worker", "/data/job.json"]
CLUSTERS = Path(__file__).parents[2] / "pipelines" / "clusters"
KINDS = ("TrainJob", "TFJob")
GPU = JobSettings(
    kind="TrainJob",
    nodes=4,
    image="registry.example/keras-spatial-python@sha256:0",
    cpu="16",
    memory="128Gi",
    accelerator="nvidia.com/gpu",
    accelerators=8,
    node_selectors={"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"},
    tolerations=({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},),
    shared_memory="16Gi",
    volumes={"lits": "/data"},
    secrets={"store": {"key": "STORE_KEY"}},
    timeout=3600,
)
CPU = JobSettings(kind="TrainJob", nodes=2, image="i", cpu="2", memory="4Gi", volumes={"lits": "/data"})
SETTINGS = {
    "mesh": "rows:2",
    "layout": "x:rows",
    "filters": 2,
    "levels": 2,
    "dropout": 0.0,
    "epochs": 2,
    "batch_size": 1,
    "learning_rate": 0.003,
    "minutes": 0.0,
    "seed": 0,
    "backup_steps": 50,
    "slices": 0,
}


# Manifests


@pytest.mark.parametrize("job", [GPU, CPU], ids=["gpu", "cpu"])
@pytest.mark.parametrize("kind", KINDS)
def test_objects_are_valid_by_the_published_schema_of_every_version(kind, job):
    for resource, body in manifests.objects("keras-spatial-0", replace(job, kind=kind), COMMAND):
        versions = fake.documents(resource.plural)
        assert versions
        for document in versions:
            fake.check(document, body)


def test_the_schemas_refuse_a_misspelt_field():
    [(_, body)] = manifests.objects("n", replace(GPU, kind="TFJob"), COMMAND)
    body["spec"]["tfReplicaSpecs"]["Worker"]["template"]["spec"]["nodeSelectors"] = {}
    with pytest.raises(fake.jsonschema.ValidationError, match="nodeSelectors"):
        fake.check(fake.documents("tfjobs")[0], body)


def pod_of(kind, job):
    """Pod specification, its container, and what the operator will give the container."""
    parts = {r.kind: b for r, b in manifests.objects("ks", replace(job, kind=kind), COMMAND)}
    if kind == "TFJob":
        template = parts["TFJob"]["spec"]["tfReplicaSpecs"]["Worker"]["template"]["spec"]
        return template, template["containers"][0], template["containers"][0]
    replicated = parts["TrainingRuntime"]["spec"]["template"]["spec"]["replicatedJobs"][0]
    template = replicated["template"]["spec"]["template"]["spec"]
    trainer = dict(parts["TrainJob"]["spec"]["trainer"])
    trainer["resources"] = trainer.pop("resourcesPerNode")
    return template, template["containers"][0], trainer


@pytest.mark.parametrize("kind", KINDS)
def test_pods_get_what_the_cluster_file_says(kind):
    spec, container, given = pod_of(kind, GPU)
    assert given["image"] == GPU.image
    assert given["command"] == COMMAND
    assert given["resources"]["limits"] == {"cpu": "16", "memory": "128Gi", "nvidia.com/gpu": "8"}
    assert given["resources"]["requests"] == given["resources"]["limits"]
    assert spec["nodeSelector"] == GPU.node_selectors
    assert spec["tolerations"] == list(GPU.tolerations)
    assert spec["volumes"] == [
        {"name": "lits", "persistentVolumeClaim": {"claimName": "lits"}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}},
    ]
    assert [m["mountPath"] for m in container["volumeMounts"]] == ["/data", "/dev/shm"]
    secret = next(e for e in given["env"] if e["name"] == "STORE_KEY")
    assert secret["valueFrom"]["secretKeyRef"] == {"name": "store", "key": "key"}
    assert container["ports"][0]["containerPort"] == 2222


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_without_accelerators_asks_for_none(kind):
    spec, _, given = pod_of(kind, CPU)
    assert set(given["resources"]["limits"]) == {"cpu", "memory"}
    assert "nodeSelector" not in spec
    assert "tolerations" not in spec


def test_one_failed_pod_ends_the_job_and_time_ends_every_job():
    (_, runtime), (_, job) = manifests.objects("ks", GPU, COMMAND)
    jobset = runtime["spec"]["template"]["spec"]
    assert jobset["failurePolicy"] == {"maxRestarts": 0}
    spec = jobset["replicatedJobs"][0]["template"]["spec"]
    assert (spec["backoffLimit"], spec["activeDeadlineSeconds"]) == (0, 3600)
    assert job["spec"]["runtimeRef"] == {"apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": "ks"}
    [(_, tf_job)] = manifests.objects("ks", replace(GPU, kind="TFJob"), COMMAND)
    assert tf_job["spec"]["runPolicy"]["activeDeadlineSeconds"] == 3600
    assert tf_job["spec"]["tfReplicaSpecs"]["Worker"]["restartPolicy"] == "Never"


@pytest.mark.parametrize("name", ["trainjob", "tfjob"])
def test_the_example_clusters_give_valid_jobs(name):
    job = load_cluster(CLUSTERS / f"gpu-{name}.yaml").training_job()
    assert job.nodes > 1
    assert JobSettings.from_json(job.to_json()) == job
    for resource, body in manifests.objects("ks", job, COMMAND):
        fake.check(fake.documents(resource.plural)[-1], body)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "expected JSON with kind, nodes"),
        ('{"nodes": 2}', "expected JSON with kind, nodes"),
        (replace(CPU, nodes=2).to_json().replace('"nodes": 2', '"nodes": 0'), "nodes=0"),
        (CPU.to_json().replace("TrainJob", "PyTorchJob"), "Received: 'PyTorchJob'"),
        (CPU.to_json().replace('"image": "i"', '"image": ""'), "image: the job needs"),
    ],
)
def test_a_bad_job_is_named(text, expected):
    with pytest.raises(JobSettingsError, match=re.escape(expected)):
        JobSettings.from_json(text)


# Addresses


def environment(kind="TrainJob", index=1, nodes=3):
    """What a container of the job finds: the manifest's variables, and the Indexed job's."""
    _, _, given = pod_of(kind, replace(CPU, nodes=nodes))
    return {e["name"]: e["value"] for e in given["env"] if "value" in e} | {"JOB_COMPLETION_INDEX": str(index)}


def test_pods_of_a_trainjob_find_each_other_by_the_host_names_of_their_jobset():
    config = json.loads(with_tf_config(environment())["TF_CONFIG"])
    assert config["cluster"] == {"worker": [f"ks-node-0-{i}.ks:2222" for i in range(3)]}
    assert config["task"] == {"type": "worker", "index": 1}


def test_the_names_are_those_that_the_runtime_makes():
    (_, runtime), _ = manifests.objects("ks", CPU, COMMAND)
    jobset = runtime["spec"]["template"]["spec"]
    assert jobset["network"]["enableDNSHostnames"] is True
    # JobSet: <jobset>-<replicated job>-<job index>-<pod index>.<jobset>
    expected = f"ks-{jobset['replicatedJobs'][0]['name']}-0-0.ks"
    assert expected in json.loads(with_tf_config(environment())["TF_CONFIG"])["cluster"]["worker"][0]


@pytest.mark.parametrize("values", [{}, {"TF_CONFIG": "{}", "KERAS_SPATIAL_JOB": "ks"}], ids=["alone", "given"])
def test_what_is_given_is_left_alone(values):
    assert with_tf_config(values) == {}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"JOB_COMPLETION_INDEX": ""}, "JOB_COMPLETION_INDEX: expected a number"),
        ({"JOB_COMPLETION_INDEX": "3"}, "expected 0 to 2"),
        ({"KERAS_SPATIAL_NODES": "many"}, "KERAS_SPATIAL_NODES: expected a number"),
    ],
)
def test_a_pod_that_cannot_tell_its_number_says_so(change, expected):
    with pytest.raises(ClusterError, match=expected):
        with_tf_config({**environment(), **change})


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
    (tmp_path / "volume" / "scratch" / "train_job-abc").mkdir(parents=True)
    return tmp_path


def launch(server, shared, kind="TrainJob", **changes):
    job = replace(CPU, kind=kind, volumes={"lits": str(shared / "volume")}, **changes)
    return train_in_job(
        str(shared / "dataset"),
        str(shared / "model"),
        job=job.to_json(),
        scratch=str(shared / "volume" / "scratch" / "train_job-abc"),
        api=fake.api(server),
        poll=0.01,
        **SETTINGS,
    )


def trained(shared):
    """What the first process leaves."""
    folder = shared / "volume" / "scratch" / "train_job-abc" / "model"
    folder.mkdir(exist_ok=True)
    facts = {"framework": "f", "mesh": "rows:2", "layout": "x:rows", "resolution": 16, "epochs": 2, "parameters": 1}
    (folder / TRAINING).write_text(json.dumps({**facts, "processes": 2, "history": {"loss": [2.0, 1.0]}}))


def deleted(server):
    return [path for method, path in server.requests if method == "DELETE"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_is_made_followed_and_deleted_and_its_model_taken_over(server, shared, kind, capsys):
    def made(name, body):
        if body["kind"] != "TrainingRuntime":
            trained(shared)

    server.created = made
    server.logs = {"a": "2026-01-01T00:00:00.1Z train: epoch 1/2\n2026-01-01T00:00:00.2Z train: epoch 2/2\n"}
    pods = [pod("b", "Running"), pod("a", "Running")]
    done = "Succeeded" if kind == "TFJob" else "Complete"
    server.frames = [Frame(), Frame(pods=[pod("a", "Pending")]), Frame("Running", "", pods), Frame(done, "", pods)]
    result = launch(server, shared, kind)
    assert result["model"]["final_loss"] == 1.0
    assert (shared / "model" / TRAINING).is_file()
    assert server.objects == {}
    assert "keras-spatial-abc" in deleted(server)[0]
    out = capsys.readouterr().out
    # Every line once, though each look reads it anew.
    assert out.count("train: epoch 1/2") == out.count("train: epoch 2/2") == 1
    assert "train_job: a: Pending" in out
    assert "train_job: a: Running" in out
    label = "training.kubeflow.org/job-name" if kind == "TFJob" else "jobset.sigs.k8s.io/jobset-name"
    assert set(server.selectors) == {f"{label}=keras-spatial-abc"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_job_fails_with_the_pods_error_and_its_last_lines(server, shared, kind):
    server.logs = {"a": "fine", "b": "".join(f"line {i}\n" for i in range(99)) + "ValueError: no such mesh axis\n"}
    killed = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    server.frames = [Frame("Failed", "1 pod failed", [pod("a", "Running"), pod("b", "Failed", **killed)])] * 2
    with pytest.raises(TrainingError) as caught:
        launch(server, shared, kind)
    text = str(caught.value)
    for part in (
        f"{kind} keras-spatial-abc",
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
    with pytest.raises(TrainingError, match=r"(?s)not done after 1 s.*longer timeout.*train: epoch 1/2"):
        launch(server, shared, timeout=1)
    assert server.objects == {}


@pytest.mark.parametrize("reason", ["ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError"])
def test_pods_that_cannot_start_end_the_wait(server, shared, reason, monkeypatch):
    monkeypatch.setattr(follow, "_PATIENCE_SECONDS", 0.05)
    waiting = {"waiting": {"reason": reason, "message": "registry.example/none: not found"}}
    server.frames = [Frame(pods=[pod("a", "Pending", **waiting)])]
    with pytest.raises(TrainingError, match=f"cannot start: pod a: {reason}: registry.example/none"):
        launch(server, shared)
    assert server.objects == {}


def test_missing_rights_are_named_at_once(server, shared):
    server.refuse = 403
    with pytest.raises(ClusterApiError, match=r"cannot create TrainingRuntime.*namespace imaging: 403.*forbidden"):
        launch(server, shared)


def test_a_job_that_somebody_deletes_ends_the_wait(server, shared):
    server.created = lambda name, body: server.objects.clear()
    with pytest.raises(TrainingError, match="was deleted while it ran"):
        launch(server, shared)


def test_a_server_that_fails_for_a_while_is_asked_again(server, shared, capsys):
    def made(name, body):
        trained(shared)
        server.broken = 2

    server.created = made
    server.frames = [Frame(), Frame("Complete")]
    assert launch(server, shared)["model"]["processes"] == 2
    assert capsys.readouterr().out.count("etcd is being replaced") == 2


def test_a_server_that_stays_away_ends_the_wait(server, shared, monkeypatch):
    monkeypatch.setattr(follow, "_PATIENCE_SECONDS", 0.05)

    def made(name, body):
        server.broken = 10_000

    server.created = made
    with pytest.raises(ClusterApiError, match="500"):
        launch(server, shared)


def test_a_step_that_is_tried_again_waits_for_the_job_that_still_runs(server, shared, capsys):
    job = replace(CPU, volumes={"lits": str(shared / "volume")})
    for resource, body in manifests.objects("keras-spatial-abc", job, COMMAND):
        server.objects[resource.plural, body["metadata"]["name"]] = body
    trained(shared)
    server.frames = [Frame("Running"), Frame("Running"), Frame("Complete")]
    launch(server, shared)
    out = capsys.readouterr().out
    assert "of an earlier attempt is running; waiting for it" in out
    assert "created" not in out


def test_a_failed_job_of_an_earlier_attempt_is_replaced(server, shared, capsys):
    job = replace(CPU, volumes={"lits": str(shared / "volume")})
    for resource, body in manifests.objects("keras-spatial-abc", job, COMMAND):
        server.objects[resource.plural, body["metadata"]["name"]] = body
    trained(shared)
    server.frames = [Frame("Failed"), Frame("Failed"), Frame("Complete")]
    launch(server, shared)
    assert "created TrainJob keras-spatial-abc, 2 pods" in capsys.readouterr().out


@pytest.mark.parametrize("scratch", [None, "/elsewhere/train_job-abc"])
def test_a_folder_that_the_pods_do_not_see_is_refused(server, shared, scratch):
    with pytest.raises(TrainingError, match=r"scratch: a job of several pods needs a folder.*cluster file"):
        train_in_job("d", "m", job=CPU.to_json(), scratch=scratch, api=fake.api(server), **SETTINGS)
    assert server.requests == []


def test_a_terminated_step_deletes_its_job(server, shared):
    server.frames = [Frame("Running")]
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(TrainingError, match="ended by SIGTERM; its job is deleted"):
        launch(server, shared)
    assert server.objects == {}
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


# The sign of life


def test_a_process_ends_when_its_launching_step_is_gone(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from components.train_job.heartbeat import end_without\n"
        "end_without(Path(sys.argv[1]), limit=0.3, look_every=0.05); time.sleep(60)"
    )
    heartbeat.beat(tmp_path / "heartbeat")
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "heartbeat")],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
        text=True,
    )
    while time.monotonic() - started < 2:
        heartbeat.beat(tmp_path / "heartbeat")
        assert process.poll() is None
        time.sleep(0.05)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 75
    assert "has not been heard of" in error
