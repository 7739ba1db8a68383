"""What a job of several pods is given: one value, which travels to the launching step as JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

Kind = Literal["TrainJob", "TFJob"]
Gang = Literal["", "coscheduling", "volcano"]

IMAGE_USER = 10001
"""User and group of the container image, see `Dockerfile`."""
TRAINJOB_RESTARTS = 3
_TUPLES = ("tolerations", "image_pull_secrets")


class JobSettingsError(ValueError):
    """The description of a job of several pods cannot be used."""


@dataclass(frozen=True)
class JobSettings:
    """A job of several pods; quantities are written as Kubernetes writes them.

    Attributes:
        kind: "TrainJob" of Kubeflow Trainer v2, or "TFJob" of the training operator v1.
        nodes: pods, each with one process.
        image: container image.
        cpu, memory: The CPU and memory of each pod.
        accelerator, accelerators: resource name and count of each pod; "" and 0 for none.
        node_selectors: the node selectors of the pods.
        tolerations: the tolerations of the pods, with Kubernetes's field names.
        shared_memory: size of /dev/shm; "" for the node's default of 64 MB.
        volumes: mount path by name of persistent volume claim.
        secrets: mount path by name of secret; every key of it is a file there.
        environment: plain variables, such as NCCL's or a proxy's.
        image_pull_secrets: names of secrets for the image's registry.
        image_pull_policy: "Always", "IfNotPresent", "Never", or "" for Kubernetes's default.
        service_account: the service account of the pods, which get no token of it; "" for the namespace's default.
        labels, annotations: Labels and annotations of the job and its pods, beside its own.
        user, group: identity of the pods' processes; volumes are made writable for the group (`fsGroup`).
        gang: scheduler plugin that places all pods or none: "coscheduling", "volcano", or "" for none.
        queue: Kueue's LocalQueue; "" for none.
        priority: Kueue's WorkloadPriorityClass; needs a queue.
        priority_class: Kubernetes's PriorityClass of the pods.
        restarts: How often the job restarts after a failed pod, a training from its last backup; None for 3 of a
            TrainJob and 0 of a TFJob. Pods that Kubernetes evicts or preempts restart a TrainJob without counting.
        peer_timeout: seconds that a process waits for the others, for one message too: at the beginning images are
            pulled and nodes added.
        timeout: seconds that the job may run, its time in queues not counted.
        queue_timeout: seconds that it may wait for its pods to run.
        network_policy: whether only the job's own pods may connect to them.
    """

    kind: Kind
    nodes: int
    image: str
    cpu: str
    memory: str
    accelerator: str = ""
    accelerators: int = 0
    node_selectors: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    shared_memory: str = ""
    volumes: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    image_pull_secrets: tuple[str, ...] = ()
    image_pull_policy: str = ""
    service_account: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    user: int = IMAGE_USER
    group: int = IMAGE_USER
    gang: Gang = ""
    queue: str = ""
    priority: str = ""
    priority_class: str = ""
    restarts: int | None = None
    peer_timeout: int = 1800
    timeout: int = 86_400
    queue_timeout: int = 604_800
    network_policy: bool = True

    def __post_init__(self):
        if self.kind not in get_args(Kind):
            raise JobSettingsError(f"kind: expected one of {get_args(Kind)}. Received: {self.kind!r}")
        if self.gang not in get_args(Gang):
            raise JobSettingsError(f"gang: expected one of {get_args(Gang)}. Received: {self.gang!r}")
        for name, least in (("nodes", 1), ("timeout", 1), ("queue_timeout", 1), ("peer_timeout", 1), ("user", 1)):
            if getattr(self, name) < least:
                raise JobSettingsError(f"{name}: expected at least {least}. Received: {getattr(self, name)}")
        if not self.image:
            raise JobSettingsError("image: the job needs the container image of the steps. Received: ''")
        if self.priority and not self.queue:
            raise JobSettingsError(f"priority: Kueue's needs a queue. Received: {self.priority!r} with queue ''")
        if self.kind == "TFJob" and self.restarts:
            raise JobSettingsError(
                "restarts: a TFJob cannot restart as a whole: its operator replaces single pods, whose peers have "
                f"failed by then. Received: {self.restarts}. Use job TrainJob, or restarts 0 and the step's retries."
            )

    @property
    def job_restarts(self) -> int:
        """Restarts of the whole job, the default for the kind filled in."""
        if self.restarts is not None:
            return self.restarts
        return TRAINJOB_RESTARTS if self.kind == "TrainJob" else 0

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "JobSettings":
        """The settings that `to_json` wrote.

        Raises:
            JobSettingsError: if the text is not JSON, or has other names.
        """
        try:
            values = json.loads(text)
            return cls(**{**values, **{name: tuple(values.get(name, ())) for name in _TUPLES}})
        except (ValueError, TypeError, AttributeError) as error:
            if isinstance(error, JobSettingsError):
                raise
            names = ", ".join(f.name for f in fields(cls))
            raise JobSettingsError(f"job: expected JSON with {names}. Received: {text!r} ({error})") from error
