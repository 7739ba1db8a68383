"""What a cluster gives each step: hardware, storage, secrets, retries."""

from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self

import pydantic
import yaml
from kfp import dsl, kubernetes
from pydantic import BaseModel, ConfigDict, Field

from components.finish.component import finish
from components.resume import SCRATCH_VARIABLE
from components.train_job.settings import JobSettings
from pipelines.settings import SettingsError

_NODE_SELECTORS = {
    "nvidia.com/gpu": "cloud.google.com/gke-accelerator",
    "google.com/tpu": "cloud.google.com/gke-tpu-accelerator",
}


class Toleration(BaseModel):
    """A taint that a pod may be scheduled in spite of; the fields are those of Kubernetes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    operator: Literal["Equal", "Exists"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None

    @pydantic.model_validator(mode="after")
    def _value_only_if_equal(self) -> Self:
        if (self.operator == "Equal") != (self.value is not None):
            raise ValueError(f"expected a value with operator Equal and none with Exists. Received: {self.value!r}")
        return self


class Cluster(BaseModel):
    """Resources of the steps. Training and evaluation get the accelerators; the others only CPU, memory and volumes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: str = Field("", description="Container image; empty keeps that of the components.")
    accelerator: Literal["", "nvidia.com/gpu", "google.com/tpu"] = Field("", description="Resource name.")
    accelerators: int = Field(0, ge=0, le=256, description="Per pod.")
    accelerator_type: str = Field(
        "", description="Node selector value, such as nvidia-h100-80gb or tpu-v5-lite-podslice."
    )
    tpu_topology: str = Field("", pattern=r"^(\d+x\d+(x\d+)?)?$", description="Such as 2x4.")
    node_selectors: dict[str, str] = Field({}, description="More node selectors, for every step.")
    tolerations: tuple[Toleration, ...] = Field((), description="Of the steps with accelerators.")
    cpu: str = Field("4", pattern=r"^\d+(\.\d+)?m?$", description="CPU limit of a step.")
    memory: str = Field("16Gi", pattern=r"^\d+(\.\d+)?[KMGT]i?$", description="Memory limit of a step.")
    shared_memory: str = Field("", pattern=r"^(\d+[KMGT]i?)?$", description="/dev/shm of accelerated steps.")
    volumes: dict[str, str] = Field({}, description="Mount path by name of persistent volume claim.")
    secrets: dict[str, dict[str, str]] = Field({}, description="Environment variable by key, by name of secret.")
    scratch: str = Field(
        "",
        description="Folder on one of the volumes, where an interrupted step goes on; a job of several pods needs it.",
    )
    nodes: int = Field(1, ge=1, le=4096, description="Pods of the training, each with its accelerators.")
    job: Literal["TrainJob", "TFJob"] = Field("TrainJob", description="Kind of a training job of several pods.")
    timeout: int = Field(86_400, ge=60, description="Seconds that a step may take.")
    retries: int = Field(2, ge=0, le=20, description="Of a failed step, with growing pauses.")

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> Self:
        if bool(self.accelerator) != bool(self.accelerators):
            raise ValueError(
                "accelerator and accelerators: expected both or neither. "
                f"Received: {self.accelerator!r}, {self.accelerators}"
            )
        if self.accelerator_type and not self.accelerator:
            raise ValueError(f"accelerator_type: expected an accelerator with it. Received: {self.accelerator_type!r}")
        if (self.accelerator == "google.com/tpu") != bool(self.tpu_topology):
            raise ValueError(
                "tpu_topology: expected with google.com/tpu, and only there. "
                f"Received: {self.tpu_topology!r} with accelerator {self.accelerator!r}"
            )
        if any(not path.startswith("/") for path in self.volumes.values()):
            raise ValueError(f"volumes: expected absolute mount paths. Received: {self.volumes}")
        mounts = list(self.volumes.values())
        if self.scratch and not any(PurePosixPath(self.scratch).is_relative_to(mount) for mount in mounts):
            raise ValueError(
                f"scratch: expected a folder below one of the volumes {mounts}. Received: {self.scratch!r}"
            )
        if self.nodes > 1 and not (self.scratch and self.image):
            raise ValueError(
                f"nodes: {self.nodes} pods need image, volumes and scratch: the image that they run, and a folder on a "
                f"volume that all of them can write. Received: image {self.image!r}, scratch {self.scratch!r}"
            )
        return self

    def apply(self, task: Any, *, accelerated: bool = False) -> None:
        """Give a KFP task its resources."""
        if self.image:
            task.set_container_image(self.image)
        task.set_cpu_limit(self.cpu)
        task.set_memory_limit(self.memory)
        task.set_retry(self.retries, backoff_duration="30s", backoff_factor=2.0, backoff_max_duration="600s")
        kubernetes.set_timeout(task, self.timeout)
        for name, path in self.volumes.items():
            kubernetes.mount_pvc(task, pvc_name=name, mount_path=path)
        for name, keys in self.secrets.items():
            kubernetes.use_secret_as_env(task, secret_name=name, secret_key_to_env=keys)
        for key, value in self.node_selectors.items():
            kubernetes.add_node_selector(task, key, value)
        if self.scratch:
            task.set_env_variable(SCRATCH_VARIABLE, self.scratch)
        # A limit of 0 accelerators is no limit for KFP, but a request for none for some schedulers.
        if accelerated and self.accelerator:
            self._accelerate(task)

    def _accelerate(self, task: Any) -> None:
        task.set_accelerator_type(self.accelerator).set_accelerator_limit(self.accelerators)
        for key, value in self._accelerator_selectors().items():
            kubernetes.add_node_selector(task, key, value)
        for toleration in self.tolerations:
            kubernetes.add_toleration(task, **toleration.model_dump(exclude_none=True))
        if self.shared_memory:
            kubernetes.empty_dir_mount(
                task, volume_name="shm", mount_path="/dev/shm", medium="Memory", size_limit=self.shared_memory
            )

    def _accelerator_selectors(self) -> dict[str, str]:
        selectors = {}
        if self.accelerator_type:
            selectors[_NODE_SELECTORS[self.accelerator]] = self.accelerator_type
        if self.tpu_topology:
            selectors["cloud.google.com/gke-tpu-topology"] = self.tpu_topology
        return selectors

    def training_job(self) -> JobSettings:
        """The job of several pods that trains: each pod has what an accelerated step would get."""
        accelerated = bool(self.accelerator)
        return JobSettings(
            kind=self.job,
            nodes=self.nodes,
            image=self.image,
            cpu=self.cpu,
            memory=self.memory,
            accelerator=self.accelerator,
            accelerators=self.accelerators,
            node_selectors={**self.node_selectors, **self._accelerator_selectors()},
            tolerations=tuple(t.model_dump(exclude_none=True) for t in self.tolerations) if accelerated else (),
            shared_memory=self.shared_memory,
            volumes=self.volumes,
            secrets=self.secrets,
            timeout=self.timeout,
        )


def load_cluster(path: str | Path) -> Cluster:
    """Read a cluster's YAML file.

    Raises:
        SettingsError: unreadable, or a field is unknown or wrong; the message names it.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise SettingsError(f"{path}: cannot be read as YAML: {error}") from error
    try:
        return Cluster.model_validate(values)
    except pydantic.ValidationError as error:
        lines = [f"{'.'.join(map(str, f['loc']))}: {f['msg']}. Received: {f['input']!r}" for f in error.errors()]
        raise SettingsError(f"{path}: " + "\n".join(lines)) from None


def guarded(cluster: Cluster | None) -> dsl.ExitHandler:
    """A context whose end is the step `finish`, whatever happens."""
    task = finish(run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER)
    # KFP refuses retries and caching of an exit task that depends on the run's status.
    task.set_caching_options(False)
    if cluster is not None:
        if cluster.image:
            task.set_container_image(cluster.image)
        for name, path in cluster.volumes.items():
            kubernetes.mount_pvc(task, pvc_name=name, mount_path=path)
    return dsl.ExitHandler(task, name="keep-results")


class Resources:
    """Applies a cluster's resources to tasks; without a cluster it leaves them alone."""

    def __init__(self, cluster: Cluster | None):
        self.cluster = cluster

    def __call__(self, task: Any, *, accelerated: bool = False) -> Any:
        if self.cluster is not None:
            self.cluster.apply(task, accelerated=accelerated)
        return task
