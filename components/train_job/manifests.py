"""The Kubernetes objects of a training job, as plain values.

Kubeflow Trainer's TrainJob names a TrainingRuntime that holds the pods' template. The runtime is made with the job, for
it holds what the cluster's file says: volumes, node selectors, tolerations. So nothing has to be installed beside the
Trainer itself, and the job uses only fields that all versions of `trainer.kubeflow.org/v1alpha1` have; those that patch
another's runtime were renamed twice. Sources: the CRDs of kubeflow/trainer v2.0.0 to v2.3.0 and v1.9.2 (Apache-2.0).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from components.train.cluster import JOB, NODES, PORT, REPLICATED_JOB
from components.train_job.cluster_api import Resource
from components.train_job.settings import JobSettings

TRAIN_JOB = Resource("trainer.kubeflow.org", "v1alpha1", "trainjobs", "TrainJob")
RUNTIME = Resource("trainer.kubeflow.org", "v1alpha1", "trainingruntimes", "TrainingRuntime")
TF_JOB = Resource("kubeflow.org", "v1", "tfjobs", "TFJob")

_LABELS = {"app.kubernetes.io/name": "keras-spatial", "app.kubernetes.io/component": "training"}


def objects(name: str, job: JobSettings, command: Sequence[str]) -> list[tuple[Resource, dict[str, Any]]]:
    """The objects to create for a job, in order; the job itself is the last.

    Args:
        name: of the job.
        job: its settings.
        command: of every pod.
    """
    if job.kind == "TFJob":
        return [(TF_JOB, tf_job(name, job, command))]
    return [(RUNTIME, training_runtime(name, job)), (TRAIN_JOB, train_job(name, job, command))]


def pod_selector(name: str, job: JobSettings) -> str:
    """Label selector of a job's pods, as its operator labels them."""
    if job.kind == "TFJob":
        return f"training.kubeflow.org/job-name={name}"
    return f"jobset.sigs.k8s.io/jobset-name={name}"


def container_name(job: JobSettings) -> str:
    """The name under which the operator looks for the container that trains."""
    return "tensorflow" if job.kind == "TFJob" else REPLICATED_JOB


def train_job(name: str, job: JobSettings, command: Sequence[str]) -> dict[str, Any]:
    """A TrainJob of Kubeflow Trainer v2, whose runtime has the same name."""
    environment = {**_environment(), JOB: name, NODES: str(job.nodes)}
    return {
        "apiVersion": TRAIN_JOB.api_version,
        "kind": TRAIN_JOB.kind,
        "metadata": {"name": name, "labels": dict(_LABELS)},
        "spec": {
            "runtimeRef": {"apiGroup": RUNTIME.group, "kind": RUNTIME.kind, "name": name},
            "trainer": {
                "image": job.image,
                "command": list(command),
                "numNodes": job.nodes,
                "resourcesPerNode": _resources(job),
                "env": _env(environment, job),
            },
        },
    }


def training_runtime(name: str, job: JobSettings) -> dict[str, Any]:
    """The TrainingRuntime of a TrainJob: an Indexed job whose pods know each other by name.

    One failed pod ends the job, for the others wait for it in every message. The step that launched it tries again, and
    the training goes on at its last backup.
    """
    container = {"name": REPLICATED_JOB, "image": job.image, "ports": [_port("tensorflow")], **_mounts(job)}
    return {
        "apiVersion": RUNTIME.api_version,
        "kind": RUNTIME.kind,
        "metadata": {"name": name, "labels": dict(_LABELS)},
        "spec": {
            "mlPolicy": {"numNodes": job.nodes},
            "template": {
                "spec": {
                    "failurePolicy": {"maxRestarts": 0},
                    # Pods look each other up before they are ready.
                    "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
                    "replicatedJobs": [
                        {
                            "name": REPLICATED_JOB,
                            "replicas": 1,
                            "template": {
                                # Kubeflow Trainer finds by it what it is to give the TrainJob's image and command.
                                "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
                                "spec": {
                                    "backoffLimit": 0,
                                    "activeDeadlineSeconds": job.timeout,
                                    "template": _pod(job, container),
                                },
                            },
                        }
                    ],
                }
            },
        },
    }


def tf_job(name: str, job: JobSettings, command: Sequence[str]) -> dict[str, Any]:
    """A TFJob of the training operator v1, which sets `TF_CONFIG` itself."""
    container = {
        "name": container_name(job),
        "image": job.image,
        "command": list(command),
        # The operator takes the address of a process from the port of this name.
        "ports": [_port("tfjob-port")],
        "resources": _resources(job),
        "env": _env(_environment(), job),
        **_mounts(job),
    }
    template = _pod(job, container)
    del template["spec"]["restartPolicy"]  # The replica's own counts.
    return {
        "apiVersion": TF_JOB.api_version,
        "kind": TF_JOB.kind,
        "metadata": {"name": name, "labels": dict(_LABELS)},
        "spec": {
            "runPolicy": {"activeDeadlineSeconds": job.timeout, "backoffLimit": 0, "cleanPodPolicy": "Running"},
            "successPolicy": "AllWorkers",
            "tfReplicaSpecs": {"Worker": {"replicas": job.nodes, "restartPolicy": "Never", "template": template}},
        },
    }


def _pod(job: JobSettings, container: Mapping[str, Any]) -> dict[str, Any]:
    volumes: list[dict[str, Any]] = [
        {"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim in job.volumes
    ]
    if job.shared_memory:
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": job.shared_memory}})
    spec = {"restartPolicy": "Never", "containers": [dict(container)], "volumes": volumes}
    if job.node_selectors:
        spec["nodeSelector"] = dict(job.node_selectors)
    if job.tolerations:
        spec["tolerations"] = [dict(toleration) for toleration in job.tolerations]
    # A service mesh would stop the processes from speaking to each other, and keep the pod from ending.
    return {"metadata": {"annotations": {"sidecar.istio.io/inject": "false"}}, "spec": spec}


def _mounts(job: JobSettings) -> dict[str, Any]:
    mounts = [{"name": claim, "mountPath": path} for claim, path in job.volumes.items()]
    if job.shared_memory:
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    return {"volumeMounts": mounts}


def _port(name: str) -> dict[str, Any]:
    return {"name": name, "containerPort": PORT}


def _resources(job: JobSettings) -> dict[str, Any]:
    amounts = {"cpu": job.cpu, "memory": job.memory}
    if job.accelerator:
        amounts[job.accelerator] = str(job.accelerators)
    return {"limits": amounts, "requests": dict(amounts)}


def _environment() -> dict[str, str]:
    return {"PYTHONUNBUFFERED": "1", "TF_ENABLE_ONEDNN_OPTS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}


def _env(values: Mapping[str, str], job: JobSettings) -> list[dict[str, Any]]:
    plain = [{"name": name, "value": value} for name, value in values.items()]
    secret = [
        {"name": variable, "valueFrom": {"secretKeyRef": {"name": name, "key": key}}}
        for name, keys in job.secrets.items()
        for key, variable in keys.items()
    ]
    return [*plain, *secret]
