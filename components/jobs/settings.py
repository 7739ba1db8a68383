"""The settings of a job of several pods: one value, which the launching step gets as JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from components.files import parse_json

Kind = Literal["TrainJob", "TFJob"]
Gang = Literal["", "coscheduling", "volcano"]

IMAGE_USER = 10001
"""The user and the group of the container image, see `Dockerfile`."""
TRAINJOB_RESTARTS = 3
_TUPLES = ("tolerations", "image_pull_secrets")


class JobSettingsError(ValueError):
    """The description of a job of several pods cannot be used."""


@dataclass(frozen=True)
class JobSettings:
    """The settings of a job of several pods. Quantities are written as Kubernetes writes them.

    Attributes:
        kind: "TrainJob" for Kubeflow Trainer v2, or "TFJob" for the training operator v1.
        nodes: the number of pods, each of which has one process.
        image: the container image.
        cpu: the CPU of each pod.
        memory: the memory of each pod.
        accelerator: the resource name of the accelerators; "" for none.
        accelerators: the number of accelerators of each pod.
        node_selectors: the node selectors of the pods.
        tolerations: the tolerations of the pods, with Kubernetes's field names.
        shared_memory: the size of /dev/shm; "" for the node's default of 64 MB.
        volumes: the mount path of each persistent volume claim, by its name.
        secrets: the mount path of each secret, by its name; each key of the secret is a file there.
        environment: plain environment variables, such as NCCL's or a proxy's.
        image_pull_secrets: the names of the secrets for the image's registry.
        image_pull_policy: "Always", "IfNotPresent", "Never", or "" for Kubernetes's default.
        service_account: the service account of the pods, which get no token of it; "" for the namespace's default.
        labels: further labels of the job and its pods.
        annotations: further annotations of the job and its pods.
        user: the user of the pods' processes.
        group: the group of the pods' processes, which may write to the volumes (`fsGroup`).
        gang: the scheduler plugin that places all pods or none: "coscheduling", "volcano", or "" for none.
        queue: the LocalQueue of Kueue; "" for none.
        priority: the WorkloadPriorityClass of Kueue, which needs a queue.
        priority_class: the PriorityClass of the pods.
        restarts: how often the job restarts after a failed pod; a training then resumes at its last backup. None means
            3 times for a TrainJob and never for a TFJob. If Kubernetes evicts or preempts pods, a TrainJob restarts
            without counting it.
        peer_timeout: for how many seconds a process waits for each message of the others. At the start, images are
            pulled and nodes added in this time.
        timeout: for how many seconds the job may run, without its time in queues.
        queue_timeout: for how many seconds the job may wait for its pods to run.
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
            raise JobSettingsError(f"priority: expected a queue of Kueue with it. Received: {self.priority!r}")
        if self.kind == "TFJob" and self.restarts:
            raise JobSettingsError(
                "restarts: a TFJob cannot restart as a whole: its operator replaces single pods, whose peers have "
                f"failed by then. Received: {self.restarts}. Use job TrainJob, or restarts 0 and the step's retries."
            )

    @property
    def job_restarts(self) -> int:
        """How often the whole job restarts, with the default of its kind."""
        if self.restarts is not None:
            return self.restarts
        return TRAINJOB_RESTARTS if self.kind == "TrainJob" else 0

    def to_json(self) -> str:
        """The settings as JSON; `from_json` reads it."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "JobSettings":
        """The settings that `to_json` has written.

        Raises:
            JobSettingsError: if the text is not JSON, or has other names or invalid values.
        """
        try:
            values = parse_json(text)
            return cls(**{**values, **{name: tuple(values.get(name, ())) for name in _TUPLES}})
        except (ValueError, TypeError, AttributeError) as error:
            if isinstance(error, JobSettingsError):
                raise
            names = ", ".join(f.name for f in fields(cls))
            raise JobSettingsError(f"job: expected JSON with {names}. Received: {text!r} ({error})") from error
