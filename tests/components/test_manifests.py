"""The objects of a training job: valid by the published schemas, restricted, and as the cluster file says."""

import json
import re
from dataclasses import replace
from pathlib import Path

import jobset_restarts
import kubernetes_server as fake
import pytest
from jobset_restarts import CRASHED, PREEMPTED, Outcome

from components.jobs import manifests
from components.jobs.cluster import ClusterError, peer_timeout, with_tf_config
from components.jobs.settings import JobSettings, JobSettingsError
from pipelines.cluster import load_cluster

COMMAND = ["python", "-m", "components.jobs.worker", "/data/job.json"]
CLUSTERS = Path(__file__).parents[2] / "pipelines" / "clusters"
KINDS = ("TrainJob", "TFJob")
OWNER = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "lits-7xk2p", "uid": "u-1"}
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
    secrets={"store": "/secrets/store"},
    environment={"NCCL_SOCKET_IFNAME": "eth0"},
    image_pull_secrets=("registry",),
    image_pull_policy="Always",
    service_account="training",
    labels={"team": "imaging"},
    annotations={"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"},
    gang="coscheduling",
    queue="gpus",
    priority="urgent",
    priority_class="high",
    timeout=3600,
    queue_timeout=600,
)
CPU = JobSettings(kind="TrainJob", nodes=2, image="i", cpu="2", memory="4Gi", volumes={"lits": "/data"})


def parts(job, owner=None):
    return {r.kind: b for r, b in manifests.objects("ks", job, COMMAND, owner)}


def pod_of(kind, job):
    """The pod's specification, its container, and the variables that the operator will set in it."""
    bodies = parts(replace(job, kind=kind))
    if kind == "TFJob":
        template = bodies["TFJob"]["spec"]["tfReplicaSpecs"]["Worker"]["template"]["spec"]
        return template, template["containers"][0], template["containers"][0]
    template = job_of(job)["template"]["spec"]
    trainer = dict(bodies["TrainJob"]["spec"]["trainer"])
    trainer["resources"] = trainer.pop("resourcesPerNode")
    return template, template["containers"][0], trainer


def job_of(job):
    """The specification of the Job of a TrainJob."""
    jobset = parts(job)["TrainingRuntime"]["spec"]["template"]["spec"]
    return jobset["replicatedJobs"][0]["template"]["spec"]


@pytest.mark.parametrize("job", [GPU, CPU], ids=["gpu", "cpu"])
@pytest.mark.parametrize("kind", KINDS)
def test_objects_are_valid_by_the_published_schema_of_every_version(kind, job):
    for resource, body in manifests.objects("keras-spatial-0", replace(job, kind=kind), COMMAND, OWNER):
        if resource is manifests.NETWORK_POLICY:
            continue
        versions = fake.documents(resource.plural)
        assert versions
        for document in versions:
            fake.check(document, body)


def test_volcano_is_in_trainers_schema_since_2_1():
    runtime = parts(replace(GPU, gang="volcano"))["TrainingRuntime"]
    old, new = fake.documents("trainingruntimes")
    fake.check(new, runtime)
    with pytest.raises(fake.jsonschema.ValidationError, match="volcano"):
        fake.check(old, runtime)


def test_the_schemas_refuse_a_misspelt_field():
    body = parts(replace(GPU, kind="TFJob"))["TFJob"]
    body["spec"]["tfReplicaSpecs"]["Worker"]["template"]["spec"]["nodeSelectors"] = {}
    with pytest.raises(fake.jsonschema.ValidationError, match="nodeSelectors"):
        fake.check(fake.documents("tfjobs")[0], body)


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
        {"name": "secret-store", "secret": {"secretName": "store"}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}},
    ]
    assert [m["mountPath"] for m in container["volumeMounts"]] == ["/data", "/secrets/store", "/dev/shm"]
    environment = {e["name"]: e["value"] for e in given["env"]}
    assert environment["NCCL_SOCKET_IFNAME"] == "eth0"
    assert environment["KERAS_SPATIAL_PEER_TIMEOUT"] == "1800"
    assert environment["KERAS_SPATIAL_NETWORK"] == "shared"
    assert container["ports"][0]["containerPort"] == 2222
    assert container["imagePullPolicy"] == "Always"
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert spec["serviceAccountName"] == "training"
    assert spec["priorityClassName"] == "high"


@pytest.mark.parametrize("kind", KINDS)
def test_no_secret_is_in_the_environment(kind):
    assert all("value" in variable for variable in pod_of(kind, GPU)[2]["env"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_without_accelerators_asks_for_none(kind):
    spec, _, given = pod_of(kind, CPU)
    assert set(given["resources"]["limits"]) == {"cpu", "memory"}
    assert not {"nodeSelector", "tolerations", "imagePullSecrets", "serviceAccountName", "priorityClassName"} & set(
        spec
    )


@pytest.mark.parametrize("job", [GPU, CPU], ids=["gpu", "cpu"])
@pytest.mark.parametrize("kind", KINDS)
def test_pods_satisfy_the_restricted_pod_security_standard(kind, job):
    """The rules of https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted."""
    spec, container, _ = pod_of(kind, job)
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert all(set(v) - {"name"} <= {"persistentVolumeClaim", "emptyDir", "secret"} for v in spec["volumes"])
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert all("hostPort" not in port for port in container["ports"])


@pytest.mark.parametrize("kind", KINDS)
def test_pods_have_no_token_and_may_write_their_volumes(kind):
    spec = pod_of(kind, CPU)[0]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["fsGroup"] == 10001
    assert spec["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_jobs_own_pods_may_connect_to_them(kind):
    policy = parts(replace(CPU, kind=kind))["NetworkPolicy"]["spec"]
    key = "training.kubeflow.org/job-name" if kind == "TFJob" else "jobset.sigs.k8s.io/jobset-name"
    own = {"matchLabels": {key: "ks"}}
    assert policy == {"podSelector": own, "policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": own}]}]}
    open_to_all = replace(CPU, kind=kind, network_policy=False)
    assert "NetworkPolicy" not in parts(open_to_all)
    # Then every process warns about its open port.
    assert "KERAS_SPATIAL_NETWORK" not in {variable["name"] for variable in pod_of(kind, open_to_all)[2]["env"]}


def test_everything_belongs_to_the_workflow():
    for kind in KINDS:
        assert all(b["metadata"]["ownerReferences"] == [OWNER] for b in parts(replace(CPU, kind=kind), OWNER).values())
    assert all("ownerReferences" not in body["metadata"] for body in parts(CPU).values())


def test_a_failed_pod_restarts_a_trainjob_and_a_disrupted_one_without_being_counted():
    jobset = parts(GPU)["TrainingRuntime"]["spec"]["template"]["spec"]
    assert jobset["failurePolicy"]["maxRestarts"] == 3
    [rule] = jobset["failurePolicy"]["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("RestartJobSetAndIgnoreMaxRestarts", ["PodFailurePolicy"])
    job = job_of(GPU)
    assert job["backoffLimit"] == 0
    assert job["podFailurePolicy"] == {
        "rules": [{"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
    }
    # Kubernetes refuses a pod failure policy without it.
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    assert parts(replace(GPU, restarts=0))["TrainingRuntime"]["spec"]["template"]["spec"]["failurePolicy"] == {
        "maxRestarts": 0
    }


@pytest.mark.parametrize(
    ("restarts", "failures", "expected"),
    [
        (3, [PREEMPTED] * 50, Outcome(50, "")),
        (3, [CRASHED] * 3, Outcome(3, "")),
        (3, [CRASHED] * 4, Outcome(3, "ReachedMaxRestarts")),
        (1, [PREEMPTED, CRASHED, *[PREEMPTED] * 5], Outcome(7, "")),
        (1, [CRASHED, PREEMPTED, CRASHED], Outcome(2, "ReachedMaxRestarts")),
        (0, [PREEMPTED], Outcome(0, "ReachedMaxRestarts")),
    ],
    ids=["preempted", "crashed", "crashed too often", "both", "both too often", "never"],
)
def test_preemption_never_ends_a_job_by_jobsets_own_rule(restarts, failures, expected):
    jobset = parts(replace(GPU, restarts=restarts))["TrainingRuntime"]["spec"]["template"]["spec"]
    assert jobset_restarts.run(jobset, failures) == expected


def test_time_in_the_queue_is_not_taken_from_the_running_time():
    assert job_of(GPU)["activeDeadlineSeconds"] == 3600 + 600
    policy = parts(replace(GPU, kind="TFJob"))["TFJob"]["spec"]["runPolicy"]
    assert policy["activeDeadlineSeconds"] == 3600 + 600


def test_gang_queue_and_priority_stand_where_their_controllers_look():
    bodies = parts(GPU)
    assert bodies["TrainingRuntime"]["spec"]["podGroupPolicy"] == {"coscheduling": {"scheduleTimeoutSeconds": 120}}
    labels = bodies["TrainJob"]["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "gpus"
    assert labels["kueue.x-k8s.io/priority-class"] == "urgent"
    assert labels["team"] == "imaging"
    tf_job = parts(replace(GPU, kind="TFJob"))["TFJob"]
    assert tf_job["spec"]["runPolicy"]["schedulingPolicy"]["minAvailable"] == 4
    assert tf_job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert "podGroupPolicy" not in parts(CPU)["TrainingRuntime"]["spec"]


@pytest.mark.parametrize("name", ["trainjob", "tfjob"])
def test_the_example_clusters_give_valid_jobs(name):
    job = load_cluster(CLUSTERS / f"gpu-{name}.yaml").pods_job()
    assert job.nodes > 1
    assert JobSettings.from_json(job.to_json()) == job
    for resource, body in manifests.objects("ks", job, COMMAND):
        for document in fake.documents(resource.plural)[-1:]:
            fake.check(document, body)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "expected JSON with kind, nodes"),
        ('{"nodes": 2}', "expected JSON with kind, nodes"),
        (CPU.to_json().replace('"nodes": 2', '"nodes": 0'), "nodes: expected at least 1. Received: 0"),
        (CPU.to_json().replace('"user": 10001', '"user": 0'), "user: expected at least 1. Received: 0"),
        (CPU.to_json().replace("TrainJob", "PyTorchJob"), "Received: 'PyTorchJob'"),
        (CPU.to_json().replace('"image": "i"', '"image": ""'), "image: the job needs"),
        (CPU.to_json().replace('"priority": ""', '"priority": "urgent"'), "priority: expected a queue of Kueue"),
        (CPU.to_json().replace('"gang": ""', '"gang": "all"'), "gang: expected one of"),
        (
            CPU.to_json().replace("TrainJob", "TFJob").replace('"restarts": null', '"restarts": 2'),
            "a TFJob cannot restart as a whole",
        ),
    ],
)
def test_a_bad_job_is_named(text, expected):
    with pytest.raises(JobSettingsError, match=re.escape(expected)):
        JobSettings.from_json(text)


# Addresses


def environment(kind="TrainJob", index=1, nodes=3):
    """The variables of a container of the job: those of the manifest and those of an indexed job."""
    _, _, given = pod_of(kind, replace(CPU, nodes=nodes))
    return {e["name"]: e["value"] for e in given["env"] if "value" in e} | {"JOB_COMPLETION_INDEX": str(index)}


def test_pods_of_a_trainjob_find_each_other_by_the_host_names_of_their_jobset():
    config = json.loads(with_tf_config(environment())["TF_CONFIG"])
    assert config["cluster"] == {"worker": [f"ks-node-0-{i}.ks:2222" for i in range(3)]}
    assert config["task"] == {"type": "worker", "index": 1}


def test_the_names_are_those_that_the_runtime_makes():
    jobset = parts(CPU)["TrainingRuntime"]["spec"]["template"]["spec"]
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
        ({"JOB_COMPLETION_INDEX": ""}, "JOB_COMPLETION_INDEX: expected a whole number"),
        ({"JOB_COMPLETION_INDEX": "3"}, "expected 0 to 2"),
        ({"KERAS_SPATIAL_NODES": "many"}, "KERAS_SPATIAL_NODES: expected a whole number"),
    ],
)
def test_a_pod_that_cannot_tell_its_number_says_so(change, expected):
    with pytest.raises(ClusterError, match=expected):
        with_tf_config({**environment(), **change})


def test_pods_wait_for_each_other_as_long_as_the_cluster_file_says():
    assert peer_timeout(environment()) == 1800.0
    assert peer_timeout({}) == 300.0
    with pytest.raises(ClusterError, match="KERAS_SPATIAL_PEER_TIMEOUT: expected a whole number"):
        peer_timeout({"KERAS_SPATIAL_PEER_TIMEOUT": "soon"})
