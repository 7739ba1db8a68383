"""Giving the tasks of a pipeline what a cluster's file says, through KFP and its Kubernetes extension."""

from typing import Any

from kfp import dsl, kubernetes

from components.finish.component import finish
from components.resume import CODE_VARIABLE, RUN_VARIABLE, SCRATCH_VARIABLE, STORE_VARIABLE, code_version
from pipelines.cluster import Cluster

_FIRST_PAUSE, _GROWING = 30, 5
"""Seconds before the first retry, and the retries up to which a pause is twice the one before."""
_RUN_LABEL = "metadata.labels['pipeline/runid']"


class Resources:
    """Applies a cluster's resources to tasks; without a cluster it leaves them alone."""

    def __init__(self, cluster: Cluster | None):
        self.cluster = cluster
        self._first: Any = None

    def __call__(self, task: Any, *, accelerated: bool = False) -> Any:
        if self.cluster is not None:
            _apply(self.cluster, task, accelerated=accelerated)
        return task

    def begin(self, task: Any) -> None:
        """Let `task` end before every task that is a root."""
        self._first = task

    def root(self, task: Any, *, accelerated: bool = False) -> Any:
        """The same for a task that reads no other's output, and so would not wait for the first one."""
        return self(self.after_first(task), accelerated=accelerated)

    def after_first(self, task: Any) -> Any:
        """Let a task that has no container, and so takes no resources, wait for the first one."""
        return task if self._first is None else task.after(self._first)


def guarded(cluster: Cluster | None) -> dsl.ExitHandler:
    """A context whose end is the step `finish`, whatever happens."""
    task = finish(run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER)
    # KFP refuses retries and caching of an exit task that depends on the run's status.
    task.set_caching_options(False)
    if cluster is not None:
        _identify(cluster, task)
        _store(cluster, task)
    return dsl.ExitHandler(task, name="keep-results")


def retry_options(cluster: Cluster, timeout: int) -> dict[str, Any]:
    """Arguments of KFP's `set_retry`.

    KFP hands `backoff_max_duration` on as Argo's `maxDuration`, which is no limit of a pause but of all attempts,
    pauses and waiting for nodes together, counted from the first attempt's start
    (https://github.com/kubeflow/pipelines/issues/14245; argoproj/argo-workflows v4.0.5,
    workflow/controller/operator.go, processNodeRetries). So it has to hold all of them. Argo's limit of one pause
    (`cap`) is not offered by KFP; many retries therefore have equal pauses.
    """
    attempts = cluster.retries + 1
    growing = cluster.retries <= _GROWING
    pause = _FIRST_PAUSE if growing else _FIRST_PAUSE * 2 ** (_GROWING - 1)
    pauses = sum(pause * (2**i if growing else 1) for i in range(cluster.retries))
    return {
        "num_retries": cluster.retries,
        "backoff_duration": f"{pause}s",
        "backoff_factor": 2.0 if growing else 1.0,
        "backoff_max_duration": f"{attempts * (timeout + cluster.queue_timeout) + pauses}s",
    }


def _apply(cluster: Cluster, task: Any, *, accelerated: bool) -> None:
    step = _component(task)
    # The step that launches a job waits with it in its queue.
    timeout = cluster.timeout + (cluster.queue_timeout if step.endswith("_job") else 0)
    _identify(cluster, task)
    _store(cluster, task)
    resources = cluster.resources(step, accelerated=accelerated)
    task.set_cpu_limit(resources.cpu).set_memory_limit(resources.memory)
    task.set_cpu_request(resources.cpu).set_memory_request(resources.memory)
    if step != "validate":
        # What it refuses once it refuses again, and Argo, which KFP gives neither policy nor expression, tells no
        # refusal from a failure: the run would end after all pauses. What may pass it asks for again itself.
        task.set_retry(**retry_options(cluster, timeout))
    kubernetes.set_timeout(task, timeout)
    for key, value in cluster.node_selectors.items():
        kubernetes.add_node_selector(task, key, value)
    # A limit of 0 accelerators is no limit for KFP, but a request for none for some schedulers.
    if accelerated and cluster.accelerator:
        _accelerate(cluster, task)


def _identify(cluster: Cluster, task: Any) -> None:
    """Image, user, labels, and what the step is told of its run."""
    if cluster.image:
        task.set_container_image(cluster.image)
    if cluster.image_pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(cluster.image_pull_secrets))
    if cluster.image_pull_policy:
        kubernetes.set_image_pull_policy(task, cluster.image_pull_policy)
    kubernetes.set_security_context(task, run_as_user=cluster.user, run_as_group=cluster.group, run_as_non_root=True)
    for key, value in cluster.labels.items():
        kubernetes.add_pod_label(task, key, value)
    for key, value in cluster.annotations.items():
        kubernetes.add_pod_annotation(task, key, value)
    for name, value in cluster.environment.items():
        task.set_env_variable(name, value)
    # By the label of the pod: as an input of the step it would make KFP's cache useless.
    kubernetes.use_field_path_as_env(task, RUN_VARIABLE, _RUN_LABEL)
    task.set_env_variable(CODE_VARIABLE, code_version())


def _store(cluster: Cluster, task: Any) -> None:
    for name, path in cluster.volumes.items():
        kubernetes.mount_pvc(task, pvc_name=name, mount_path=path)
    for name, path in cluster.secrets.items():
        kubernetes.use_secret_as_volume(task, secret_name=name, mount_path=path)
    if cluster.scratch:
        task.set_env_variable(SCRATCH_VARIABLE, cluster.scratch)
    if cluster.store:
        task.set_env_variable(STORE_VARIABLE, cluster.store)


def _accelerate(cluster: Cluster, task: Any) -> None:
    task.set_accelerator_type(cluster.accelerator).set_accelerator_limit(cluster.accelerators)
    for key, value in cluster.accelerator_selectors().items():
        kubernetes.add_node_selector(task, key, value)
    for toleration in cluster.tolerations:
        kubernetes.add_toleration(task, **toleration.model_dump(exclude_none=True))
    if cluster.shared_memory:
        kubernetes.empty_dir_mount(
            task, volume_name="shm", mount_path="/dev/shm", medium="Memory", size_limit=cluster.shared_memory
        )


def _component(task: Any) -> str:
    return task.component_spec.name.replace("-", "_")
