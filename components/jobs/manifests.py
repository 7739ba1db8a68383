"""The Kubernetes objects of a job of several pods, as plain values.

A TrainJob of Kubeflow Trainer refers to a TrainingRuntime with the template of its pods. The runtime is created with
the job, because it contains the volumes, node selectors and tolerations of the cluster file. So nothing but the Trainer
itself has to be installed, and the job uses only fields that all versions of `trainer.kubeflow.org/v1alpha1` have; the
fields that patch an existing runtime were renamed twice. Sources: the CRDs of kubeflow/trainer v2.0.0 to v2.3.0 and
v1.9.2 (Apache-2.0).

Every pod conforms to the Pod Security Standard "restricted" and has no token of a service account.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from components import pure
from components.jobs.cluster import JOB, NODES, PEER_TIMEOUT, PORT, REPLICATED_JOB
from components.jobs.cluster_api import Resource
from components.jobs.settings import JobSettings

TRAIN_JOB = Resource("trainer.kubeflow.org", "v1alpha1", "trainjobs", "TrainJob")
RUNTIME = Resource("trainer.kubeflow.org", "v1alpha1", "trainingruntimes", "TrainingRuntime")
TF_JOB = Resource("kubeflow.org", "v1", "tfjobs", "TFJob")
NETWORK_POLICY = Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")

_LABELS = {"app.kubernetes.io/name": "keras-spatial", "app.kubernetes.io/component": "training"}
# The number of seconds within which all pods of a gang must be placed. After that, the scheduler lets others go first
# and then tries again.
_GANG_SECONDS = 120

Part = tuple[Resource, dict[str, Any]]


def objects(name: str, job: JobSettings, command: Sequence[str], owner: Mapping[str, Any] | None = None) -> list[Part]:
    """The objects to create for a job, in order; the job itself is the last.

    Args:
        name: the name of the job.
        job: the settings of the job.
        command: the command of every pod.
        owner: the ownerReference of the object with which Kubernetes deletes these objects, or None.
    """
    parts: list[Part] = [(NETWORK_POLICY, network_policy(name, job))] if job.network_policy else []
    if job.kind == "TFJob":
        parts.append((TF_JOB, tf_job(name, job, command)))
    else:
        parts += [(RUNTIME, training_runtime(name, job)), (TRAIN_JOB, train_job(name, job, command))]
    if owner is not None:
        for _, body in parts:
            body["metadata"]["ownerReferences"] = [dict(owner)]
    return parts


def pod_labels(name: str, job: JobSettings) -> dict[str, str]:
    """The label by which an operator marks a job's pods."""
    if job.kind == "TFJob":
        return {"training.kubeflow.org/job-name": name}
    return {"jobset.sigs.k8s.io/jobset-name": name}


def pod_selector(name: str, job: JobSettings) -> str:
    """The label selector of a job's pods."""
    return ",".join(f"{key}={value}" for key, value in pod_labels(name, job).items())


def container_name(job: JobSettings) -> str:
    """The name by which the operator recognises the main container of a pod."""
    return "tensorflow" if job.kind == "TFJob" else REPLICATED_JOB


def network_policy(name: str, job: JobSettings) -> dict[str, Any]:
    """The policy that lets only the job's own pods connect to them.

    TensorFlow's server accepts any request, and NCCL uses any port.
    """
    own = {"matchLabels": pod_labels(name, job)}
    return {
        "apiVersion": NETWORK_POLICY.api_version,
        "kind": NETWORK_POLICY.kind,
        "metadata": {"name": name, "labels": {**job.labels, **_LABELS}},
        "spec": {"podSelector": own, "policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": own}]}]},
    }


def train_job(name: str, job: JobSettings, command: Sequence[str]) -> dict[str, Any]:
    """A TrainJob of Kubeflow Trainer v2, whose runtime has the same name."""
    environment = {**_environment(job), JOB: name, NODES: str(job.nodes)}
    return {
        "apiVersion": TRAIN_JOB.api_version,
        "kind": TRAIN_JOB.kind,
        "metadata": _metadata(name, job),
        "spec": {
            "runtimeRef": {"apiGroup": RUNTIME.group, "kind": RUNTIME.kind, "name": name},
            "trainer": {
                "image": job.image,
                "command": list(command),
                "numNodes": job.nodes,
                "resourcesPerNode": _resources(job),
                "env": _env(environment),
            },
        },
    }


def training_runtime(name: str, job: JobSettings) -> dict[str, Any]:
    """The TrainingRuntime of a TrainJob: an Indexed job whose pods find each other by name.

    One failed pod fails the Job, because the other pods need its messages. The JobSet then restarts all pods, and a
    training resumes at its last backup. A restart does not count if Kubernetes itself has disrupted a pod
    (`DisruptionTarget`: preemption, eviction, a lost node).
    """
    container = {
        "name": REPLICATED_JOB,
        "image": job.image,
        "ports": [_port("tensorflow")],
        **_mounts(job),
        **_container_security(),
        **_pull_policy(job),
    }
    spec: dict[str, Any] = {
        "mlPolicy": {"numNodes": job.nodes},
        "template": {
            "spec": {
                "failurePolicy": _failure_policy(job),
                # Pods look each other up before they are ready.
                "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
                "replicatedJobs": [
                    {
                        "name": REPLICATED_JOB,
                        "replicas": 1,
                        "template": {
                            # This label tells Kubeflow Trainer which pods get the TrainJob's image and command.
                            "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
                            "spec": {
                                "backoffLimit": 0,
                                "podFailurePolicy": {"rules": [_disruption()]},
                                # The launching step measures the running time; this ends a job without that step.
                                "activeDeadlineSeconds": job.timeout + job.queue_timeout,
                                "template": _pod(job, container),
                            },
                        },
                    }
                ],
            }
        },
    }
    if job.gang == "coscheduling":
        spec["podGroupPolicy"] = {"coscheduling": {"scheduleTimeoutSeconds": _GANG_SECONDS}}
    elif job.gang == "volcano":
        spec["podGroupPolicy"] = {"volcano": {}}
    return {
        "apiVersion": RUNTIME.api_version,
        "kind": RUNTIME.kind,
        "metadata": {"name": name, "labels": {**job.labels, **_LABELS}},
        "spec": spec,
    }


def _disruption() -> dict[str, Any]:
    return {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}


def _failure_policy(job: JobSettings) -> dict[str, Any]:
    policy: dict[str, Any] = {"maxRestarts": job.job_restarts}
    if job.job_restarts:
        # A Job that fails because of the rule for disrupted pods has the reason "PodFailurePolicy".
        policy["rules"] = [
            {
                "name": "disruption",
                "action": "RestartJobSetAndIgnoreMaxRestarts",
                "onJobFailureReasons": ["PodFailurePolicy"],
            }
        ]
    return policy


def tf_job(name: str, job: JobSettings, command: Sequence[str]) -> dict[str, Any]:
    """A TFJob of the training operator v1, which sets `TF_CONFIG` itself."""
    container = {
        "name": container_name(job),
        "image": job.image,
        "command": list(command),
        # The operator builds the addresses of the processes with the port of this name.
        "ports": [_port("tfjob-port")],
        "resources": _resources(job),
        "env": _env(_environment(job)),
        **_mounts(job),
        **_container_security(),
        **_pull_policy(job),
    }
    template = _pod(job, container)
    # The operator uses the restart policy of the replica.
    del template["spec"]["restartPolicy"]
    policy: dict[str, Any] = {
        "activeDeadlineSeconds": job.timeout + job.queue_timeout,
        "backoffLimit": 0,
        "cleanPodPolicy": "Running",
    }
    if job.gang:
        # An option of the operator, `--gang-scheduler-name`, selects the scheduler of the group.
        policy["schedulingPolicy"] = {"minAvailable": job.nodes, "scheduleTimeoutSeconds": _GANG_SECONDS}
    return {
        "apiVersion": TF_JOB.api_version,
        "kind": TF_JOB.kind,
        "metadata": _metadata(name, job),
        "spec": {
            "runPolicy": policy,
            "successPolicy": "AllWorkers",
            "tfReplicaSpecs": {"Worker": {"replicas": job.nodes, "restartPolicy": "Never", "template": template}},
        },
    }


def _metadata(name: str, job: JobSettings) -> dict[str, Any]:
    """The metadata of the job itself, whose labels name its queue for Kueue."""
    labels = {**job.labels, **_LABELS}
    if job.queue:
        labels["kueue.x-k8s.io/queue-name"] = job.queue
    if job.priority:
        labels["kueue.x-k8s.io/priority-class"] = job.priority
    metadata: dict[str, Any] = {"name": name, "labels": labels}
    if job.annotations:
        metadata["annotations"] = dict(job.annotations)
    return metadata


def _pod(job: JobSettings, container: Mapping[str, Any]) -> dict[str, Any]:
    volumes: list[dict[str, Any]] = [
        {"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim in job.volumes
    ]
    volumes += [{"name": f"secret-{name}", "secret": {"secretName": name}} for name in job.secrets]
    if job.shared_memory:
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": job.shared_memory}})
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": job.user,
            "runAsGroup": job.group,
            "fsGroup": job.group,
            # Kubernetes would otherwise change the owner of every file of a large volume at each start.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [dict(container)],
        "volumes": volumes,
    }
    if job.service_account:
        spec["serviceAccountName"] = job.service_account
    if job.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in job.image_pull_secrets]
    if job.priority_class:
        spec["priorityClassName"] = job.priority_class
    if job.node_selectors:
        spec["nodeSelector"] = dict(job.node_selectors)
    if job.tolerations:
        spec["tolerations"] = [dict(toleration) for toleration in job.tolerations]
    # A service mesh would keep the processes from reaching each other, and the pod from ending.
    annotations = {**job.annotations, "sidecar.istio.io/inject": "false"}
    return {"metadata": {"annotations": annotations, "labels": {**job.labels, **_LABELS}}, "spec": spec}


def _mounts(job: JobSettings) -> dict[str, Any]:
    mounts: list[dict[str, Any]] = [{"name": claim, "mountPath": path} for claim, path in job.volumes.items()]
    mounts += [{"name": f"secret-{name}", "mountPath": path, "readOnly": True} for name, path in job.secrets.items()]
    if job.shared_memory:
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    return {"volumeMounts": mounts}


def _container_security() -> dict[str, Any]:
    return {"securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}}


def _pull_policy(job: JobSettings) -> dict[str, Any]:
    return {"imagePullPolicy": job.image_pull_policy} if job.image_pull_policy else {}


def _port(name: str) -> dict[str, Any]:
    return {"name": name, "containerPort": PORT}


def _resources(job: JobSettings) -> dict[str, Any]:
    amounts = {"cpu": job.cpu, "memory": job.memory}
    if job.accelerator:
        amounts[job.accelerator] = str(job.accelerators)
    return {"limits": amounts, "requests": dict(amounts)}


def _environment(job: JobSettings) -> dict[str, str]:
    return {
        "PYTHONUNBUFFERED": "1",
        **pure.load("_environment").for_children({}),
        PEER_TIMEOUT: str(job.peer_timeout),
        # If no policy keeps others out, every process warns that its port is open.
        **({"KERAS_SPATIAL_NETWORK": "shared"} if job.network_policy else {}),
        **job.environment,
    }


def _env(values: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"name": name, "value": value} for name, value in values.items()]
