"""What a training job of several pods is given: one value, which travels to the launching step as JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

Kind = Literal["TrainJob", "TFJob"]


class JobSettingsError(ValueError):
    """The description of a training job cannot be used."""


@dataclass(frozen=True)
class JobSettings:
    """A training job; quantities are written as Kubernetes writes them.

    Attributes:
        kind: "TrainJob" of Kubeflow Trainer v2, or "TFJob" of the training operator v1.
        nodes: pods, each with one process.
        image: container image.
        cpu, memory: of each pod.
        accelerator, accelerators: resource name and count of each pod; "" and 0 for none.
        node_selectors: of the pods.
        tolerations: of the pods, with Kubernetes's field names.
        shared_memory: size of /dev/shm; "" for the node's default of 64 MB.
        volumes: mount path by name of persistent volume claim.
        secrets: environment variable by key, by name of secret.
        timeout: seconds after which the job is ended.
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
    secrets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    timeout: int = 86_400

    def __post_init__(self):
        if self.kind not in get_args(Kind):
            raise JobSettingsError(f"kind: expected one of {get_args(Kind)}. Received: {self.kind!r}")
        if self.nodes < 1 or self.timeout < 1:
            raise JobSettingsError(
                f"expected nodes and timeout of at least 1. Received: nodes={self.nodes}, timeout={self.timeout}"
            )
        if not self.image:
            raise JobSettingsError("image: the job needs the container image of the steps. Received: ''")

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "JobSettings":
        """The settings that `to_json` wrote.

        Raises:
            JobSettingsError: not JSON, or with other names.
        """
        try:
            values = json.loads(text)
            return cls(**{**values, "tolerations": tuple(values.get("tolerations", ()))})
        except (ValueError, TypeError, AttributeError) as error:
            if isinstance(error, JobSettingsError):
                raise
            names = ", ".join(f.name for f in fields(cls))
            raise JobSettingsError(f"job: expected JSON with {names}. Received: {text!r} ({error})") from error
