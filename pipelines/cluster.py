"""The cluster file, which says what each step gets: hardware, storage, secrets, queues and retries."""

import dataclasses
import difflib
import math
from pathlib import Path, PurePosixPath
from typing import Literal, Self

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from components.faults import faults
from components.jobs.settings import IMAGE_USER, JobSettings
from components.storage import is_url
from components.validate.hardware import Hardware, Kind
from components.validate.settings import SettingsError
from pipelines.bounded_yaml import YamlError, mapping, read_yaml

# The node labels by which GKE says which accelerator a node has; for other clusters, see `accelerator_label`.
_ACCELERATOR_LABELS = {
    "nvidia.com/gpu": "cloud.google.com/gke-accelerator",
    "google.com/tpu": "cloud.google.com/gke-tpu-accelerator",
}
_KINDS: dict[str, Kind] = {"nvidia.com/gpu": "gpu", "google.com/tpu": "tpu"}
# The TPUs on whose chips TensorFlow sees one core. On chips of other generations, it sees one or two.
_ONE_CORE = ("v5-lite", "v5litepod", "v6e")
_CPU, _MEMORY = r"^\d+(\.\d+)?m?$", r"^\d+(\.\d+)?[KMGT]i?$"


class StepResources(BaseModel):
    """The CPU and memory of a step without accelerators."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu: str = Field(default="4", pattern=_CPU)
    memory: str = Field(default="16Gi", pattern=_MEMORY)


# Steps that wait, or read and write small files.
_SMALL = StepResources(cpu="500m", memory="2Gi")
_STEPS: dict[str, StepResources] = {
    "train_job": _SMALL,
    "evaluate_job": _SMALL,
    "segment_job": _SMALL,
    "compare": _SMALL,
    "finish": _SMALL,
    "study": _SMALL,
    "fingerprint": _SMALL,
    "cross_validation": _SMALL,
    "sweep": _SMALL,
    # This step makes the network once, on the host.
    "validate": StepResources(cpu="1", memory="8Gi"),
    "gather": _SMALL,
}
_ACCELERATED = ("train", "evaluate", "segment")
_OTHERS = (*_STEPS, "ingest", "phantom", "preprocess", "report", "export")


class Toleration(BaseModel):
    """A toleration: a taint in spite of which a pod may be scheduled, with the fields of Kubernetes."""

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
    """The resources of the steps. Training, evaluation and segmentation get the accelerators, with `cpu` and `memory`;
    the resources of all other steps are in `steps`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: str = Field(
        "", description="The container image, named by its digest (@sha256:...) or a tag that never changes."
    )
    accelerator: str = Field(
        "",
        pattern=r"^([a-z0-9.-]+/[A-Za-z0-9._-]+)?$",
        description="The resource name of the accelerators, such as nvidia.com/gpu.",
    )
    accelerators: int = Field(0, ge=0, le=256, description="The number of accelerators of each pod.")
    accelerator_type: str = Field(
        "",
        description="The kind of accelerator as the node label names it, such as nvidia-h100-80gb or "
        "tpu-v5-lite-podslice.",
    )
    accelerator_label: str = Field(
        "", description="The node label that holds accelerator_type; empty for GKE's label of GPUs or TPUs."
    )
    tpu_topology: str = Field(
        "", pattern=r"^(\d+x\d+(x\d+)?)?$", description="The topology of a TPU slice, such as 2x4."
    )
    node_selectors: dict[str, str] = Field({}, description="Further node selectors of every step.")
    tolerations: tuple[Toleration, ...] = Field((), description="The tolerations of the steps with accelerators.")
    cpu: str = Field("4", pattern=_CPU, description="The CPU of the steps with accelerators, and of a job's pods.")
    memory: str = Field(
        "16Gi", pattern=_MEMORY, description="The memory of the steps with accelerators, and of a job's pods."
    )
    steps: dict[str, StepResources] = Field(
        {}, description="The CPU and memory of the other steps, by their names; each has a default."
    )
    shared_memory: str = Field(
        "", pattern=r"^(\d+[KMGT]i?)?$", description="The size of /dev/shm in steps with accelerators."
    )
    volumes: dict[str, str] = Field({}, description="The mount path of each persistent volume claim, by its name.")
    secrets: dict[str, str] = Field(
        {}, description="The mount path of each secret, by its name; its keys are files there."
    )
    environment: dict[str, str] = Field(
        {}, description="Environment variables of every step, such as NCCL's or a proxy's."
    )
    labels: dict[str, str] = Field({}, description="Labels of all pods and of a training job.")
    annotations: dict[str, str] = Field({}, description="Annotations of all pods and of a training job.")
    image_pull_secrets: tuple[str, ...] = Field((), description="The names of secrets for the image's registry.")
    image_pull_policy: Literal["", "Always", "IfNotPresent", "Never"] = Field(
        "", description="When a node pulls the image; empty for the default of Kubernetes."
    )
    service_account: str = Field(
        "", description="The service account of a training job's pods; that of the steps is given to submit."
    )
    user: int = Field(IMAGE_USER, ge=1, description="The user of every process.")
    group: int = Field(IMAGE_USER, ge=1, description="The group of every process, which may write to a job's volumes.")
    scratch: str = Field(
        "",
        description="The folder on one of the volumes, or the URL, from which an interrupted step resumes; a job of "
        "several pods needs it.",
    )
    store: str = Field(
        "",
        description="The folder on one of the volumes, or gs://... or s3://..., that keeps the results of steps: "
        "large ones are passed on by reference, and a run reuses what an earlier one has made.",
    )
    nodes: int = Field(
        1,
        ge=1,
        le=4096,
        description="The number of pods of a training, each with its accelerators, and of an evaluation or a "
        "segmentation whose mesh does not fit into one.",
    )
    job: Literal["TrainJob", "TFJob"] = Field("TrainJob", description="The kind of a job of several pods.")
    gang: Literal["", "coscheduling", "volcano"] = Field(
        "", description="The scheduler plugin that starts all pods of a job or none."
    )
    queue: str = Field("", description="The LocalQueue of a training job in Kueue.")
    priority: str = Field("", description="The WorkloadPriorityClass of a training job in Kueue.")
    priority_class: str = Field("", description="The PriorityClass of a training job's pods.")
    restarts: int | None = Field(
        None,
        ge=0,
        le=100,
        description="How often a training job restarts; None for 3 times with a TrainJob and never with a TFJob.",
    )
    network_policy: bool = Field(True, description="Whether only a training job's own pods may connect to its pods.")
    timeout: int = Field(86_400, ge=60, description="For how many seconds a step, or a training job, may run.")
    queue_timeout: int = Field(604_800, ge=60, description="For how many seconds a training job may wait in queues.")
    peer_timeout: int = Field(
        1800, ge=10, description="For how many seconds the processes of a job wait for each other."
    )
    retries: int = Field(2, ge=0, le=20, description="How often a failed step is tried again, with growing pauses.")

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> Self:
        if bool(self.accelerator) != bool(self.accelerators):
            raise ValueError(
                "accelerator and accelerators: expected both or neither. "
                f"Received: {self.accelerator!r}, {self.accelerators}"
            )
        if self.accelerator_type and not self.accelerator:
            raise ValueError(f"accelerator_type: expected an accelerator with it. Received: {self.accelerator_type!r}")
        if self.accelerator_type and not (self.accelerator_label or self.accelerator in _ACCELERATOR_LABELS):
            raise ValueError(
                f"accelerator_label: expected the node label that holds {self.accelerator_type!r}, because only those "
                f"of {list(_ACCELERATOR_LABELS)} are known. Received: '' with accelerator {self.accelerator!r}"
            )
        if (self.accelerator == "google.com/tpu") != bool(self.tpu_topology):
            raise ValueError(
                f"tpu_topology: expected with google.com/tpu, and with nothing else. Received: {self.tpu_topology!r} "
                f"with accelerator {self.accelerator!r}"
            )
        if self.tpu_topology and self.nodes * self.accelerators != self._chips:
            raise ValueError(
                f"accelerators: a slice of topology {self.tpu_topology} has {self._chips} chips. Received: "
                f"{self.accelerators} in each of {self.nodes} pod(s). Name a topology with the chips of all pods."
            )
        if self.tpu_topology and self.nodes > 1:
            raise ValueError(
                "nodes: a TPU slice of several hosts has no runtime: TensorFlow's client starts only the chips of its "
                f"own host. Received: {self.nodes} pods with google.com/tpu. Take a slice of one host, such as "
                "tpu_topology 2x4 with accelerators 8."
            )
        for field in ("volumes", "secrets"):
            if any(not path.startswith("/") for path in getattr(self, field).values()):
                raise ValueError(f"{field}: expected absolute mount paths. Received: {getattr(self, field)}")
        mounts = list(self.volumes.values())
        for field in ("scratch", "store"):
            place = getattr(self, field)
            if place and not is_url(place) and not _below(place, mounts):
                raise ValueError(
                    f"{field}: expected a folder below one of the volumes {mounts}, or a URL. Received: {place!r}"
                )
        if self.nodes > 1 and not (self.scratch and self.image):
            raise ValueError(
                f"nodes: {self.nodes} pods need image and scratch: the image that they run, and a folder on a volume "
                f"that all of them can write, or a URL. Received: image {self.image!r}, scratch {self.scratch!r}"
            )
        if self.priority and not self.queue:
            raise ValueError(f"priority: expected a queue of Kueue with it. Received: {self.priority!r}")
        if self.job == "TFJob" and self.restarts:
            raise ValueError(f"restarts: a TFJob cannot restart as a whole. Received: {self.restarts} with job TFJob")
        return self

    @pydantic.field_validator("steps", mode="after")
    @classmethod
    def _steps_exist(cls, value: dict[str, StepResources]) -> dict[str, StepResources]:
        for name in value:
            if name in _ACCELERATED:
                raise ValueError(f"{name!r} is a step with accelerators: its CPU and memory are `cpu` and `memory`")
            if name not in _OTHERS:
                near = difflib.get_close_matches(name, (*_OTHERS, *_ACCELERATED), n=1)
                hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(_OTHERS)}."
                raise ValueError(f"there is no step {name!r}. {hint}")
        return value

    @property
    def _chips(self) -> int:
        return math.prod(int(size) for size in self.tpu_topology.split("x"))

    def hardware(self) -> Hardware:
        """The hardware of which a mesh on this cluster can be made."""
        two_cores = self.accelerator == "google.com/tpu" and not any(c in self.accelerator_type for c in _ONE_CORE)
        return Hardware(
            pods=self.nodes,
            accelerator=self.accelerator,
            accelerators=self.accelerators,
            kind=_KINDS.get(self.accelerator, "auto") if self.accelerator else "cpu",
            two_cores=two_cores,
        )

    def resources(self, step: str, *, accelerated: bool) -> StepResources:
        """The CPU and memory of a step."""
        if accelerated:
            return StepResources(cpu=self.cpu, memory=self.memory)
        # `ingest_folder` is the step `ingest` for a folder, and the cluster file has only that name.
        return self.steps.get(step.removesuffix("_folder")) or _STEPS.get(step) or StepResources()

    def accelerator_selectors(self) -> dict[str, str]:
        """The node selectors of the pods with accelerators."""
        selectors = {}
        if self.accelerator_type:
            selectors[self.accelerator_label or _ACCELERATOR_LABELS[self.accelerator]] = self.accelerator_type
        if self.tpu_topology:
            selectors["cloud.google.com/gke-tpu-topology"] = self.tpu_topology
        return selectors

    def pods_job(self) -> JobSettings:
        """The job of several pods that trains, evaluates or segments. A pod gets what an accelerated step would get."""
        same = {f.name for f in dataclasses.fields(JobSettings)} & set(Cluster.model_fields)
        given = {name: getattr(self, name) for name in same}
        tolerations = tuple(t.model_dump(exclude_none=True) for t in self.tolerations) if self.accelerator else ()
        selectors = {**self.node_selectors, **self.accelerator_selectors()}
        return JobSettings(**{**given, "kind": self.job, "tolerations": tolerations, "node_selectors": selectors})


def _below(folder: str, mounts: list[str]) -> bool:
    return any(PurePosixPath(folder).is_relative_to(mount) for mount in mounts)


def load_cluster(path: str | Path, image: str = "") -> Cluster:
    """Read a cluster's YAML file.

    Args:
        path: the path of the file.
        image: the container image that replaces that of the file; "" to keep it.

    Raises:
        SettingsError: if the file cannot be read, or a field is unknown or wrong; the message names the field.
    """
    try:
        values = mapping(read_yaml(path), str(path))
        if image:
            values = {**values, "image": image}
        return Cluster.model_validate(values)
    except YamlError as error:
        raise SettingsError(str(error)) from error
    except pydantic.ValidationError as error:
        raise SettingsError(f"{path}: " + "\n".join(faults(error.errors()))) from None
