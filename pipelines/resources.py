"""Give the tasks of a pipeline the resources of a cluster file, through KFP and its Kubernetes extension."""

from typing import Any

from kfp import dsl, kubernetes

from components.finish.component import finish
from components.resume import CODE_VARIABLE, RUN_VARIABLE, SCRATCH_VARIABLE, STORE_VARIABLE, code_version
from pipelines.cluster import Cluster

_FIRST_PAUSE, _GROWING = 30, 5
"""The seconds before the first retry, and the number of retries up to which each pause is twice as long."""
_RUN_LABEL = "metadata.labels['pipeline/runid']"


class Resources:
    """Applies the resources of a cluster to tasks. Without a cluster, it does nothing."""

    def __init__(self, cluster: Cluster | None):
        self.cluster = cluster
        self._first: Any = None

    def __call__(self, task: Any, *, accelerated: bool = False) -> Any:
        if self.cluster is not None:
            _apply(self.cluster, task, accelerated=accelerated)
        return task

    def begin(self, task: Any) -> None:
        """Let all root tasks wait for `task`."""
        self._first = task

    def root(self, task: Any, *, accelerated: bool = False) -> Any:
        """Apply the resources to a root task, which reads no output of another task and waits for the first one."""
        return self(self.after_first(task), accelerated=accelerated)

    def after_first(self, task: Any) -> Any:
        """Let a task wait for the first one. This is enough for a task without a container, which takes no
        resources.
        """
        return task if self._first is None else task.after(self._first)


def guarded(cluster: Cluster | None) -> dsl.ExitHandler:
    """A context after which the step `finish` runs, whatever happens in it."""
    task = finish(run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER)
    # KFP refuses retries and caching of an exit task that depends on the run's status.
    task.set_caching_options(False)
    if cluster is not None:
        _identify(cluster, task)
        _store(cluster, task)
    return dsl.ExitHandler(task, name="keep-results")


def retry_options(cluster: Cluster, timeout: int) -> dict[str, Any]:
    """The arguments of KFP's `set_retry`.

    KFP passes `backoff_max_duration` to Argo as `maxDuration`, which does not limit one pause but all attempts, pauses
    and waiting for nodes together, from the start of the first attempt
    (https://github.com/kubeflow/pipelines/issues/14245; argoproj/argo-workflows v4.0.5,
    workflow/controller/operator.go, processNodeRetries). So it must be long enough for all of them. KFP does not offer
    Argo's limit of one pause (`cap`), so with many retries all pauses are equal.
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
    # The step that launches a job waits in the queue together with it.
    timeout = cluster.timeout + (cluster.queue_timeout if step.endswith("_job") else 0)
    _identify(cluster, task)
    _store(cluster, task)
    resources = cluster.resources(step, accelerated=accelerated)
    task.set_cpu_limit(resources.cpu).set_memory_limit(resources.memory)
    task.set_cpu_request(resources.cpu).set_memory_request(resources.memory)
    if step != "validate":
        # This step would refuse again whatever it refuses once. KFP gives Argo neither a policy nor an expression, so
        # Argo cannot distinguish a refusal from a failure, and the run would end only after all pauses. The step itself
        # repeats what may succeed later.
        task.set_retry(**retry_options(cluster, timeout))
    kubernetes.set_timeout(task, timeout)
    for key, value in cluster.node_selectors.items():
        kubernetes.add_node_selector(task, key, value)
    # A limit of 0 accelerators means no limit to KFP, but some schedulers read it as a request for none.
    if accelerated and cluster.accelerator:
        _accelerate(cluster, task)


def _identify(cluster: Cluster, task: Any) -> None:
    """Set the image, the user, the labels, and the variables that tell the step about its run."""
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
    # The run's ID comes from the label of the pod. As an input of the step, it would make KFP's cache useless.
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
