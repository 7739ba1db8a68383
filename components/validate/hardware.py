"""Whether a mesh can be made of the accelerators that a cluster gives the steps."""

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict

from components.validate.settings import Settings, SettingsError

Kind = Literal["auto", "cpu", "gpu", "tpu"]


class Hardware(BaseModel):
    """What a mesh can be made of.

    Attributes:
        pods: the number of pods of a training.
        accelerator: the resource name of the accelerators, or "".
        accelerators: the number of accelerators of each pod.
        kind: what the steps with accelerators must find; auto for other vendors' devices, cpu for none.
        two_cores: whether TensorFlow sees two cores of a chip, or one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pods: int
    accelerator: str
    accelerators: int
    kind: Kind
    two_cores: bool

    def devices(self, pods: int) -> tuple[int, ...]:
        """How many devices a mesh over some pods can have, for what is known of the accelerator."""
        chips = pods * self.accelerators
        return (chips, 2 * chips) if self.two_cores else (chips,)

    def demand(self, settings: Settings, *, trains: bool, predicts: bool) -> Settings:
        """The settings of a pipeline that demand these accelerators.

        Args:
            settings: the settings of the run.
            trains: whether the pipeline trains, on all pods.
            predicts: whether it evaluates or segments, in one pod.

        Raises:
            SettingsError: if the mesh has another number of devices than the pods have accelerators.
        """
        if trains and self.pods > 1 and settings.processes > 1:
            raise SettingsError(
                f"processes: those of one machine. Each of the {self.pods} pods of the cluster file runs one process. "
                f"Received: {settings.processes}. Leave it out."
            )
        if settings.accelerator in ("gpu", "tpu") and self.kind not in (settings.accelerator, "auto"):
            raise SettingsError(
                f"accelerator: the cluster file gives the steps {self.accelerator or 'no accelerators'}. Received: "
                f"{settings.accelerator!r}"
            )
        if not self.accelerator or settings.accelerator == "cpu":
            return settings
        per_pod = f"{self.accelerators} {self.accelerator} in each pod"
        found, wanted = math.prod(settings.mesh_axes.values()), self.devices(self.pods)
        if trains and found not in wanted:
            raise SettingsError(
                f"mesh: {self.pods} pod(s) of the cluster file have {per_pod}: expected a mesh of "
                f"{' or '.join(map(str, wanted))} devices. Received: {settings.mesh!r}, {found} devices"
            )
        placed = settings.placed if trains else settings
        found, most = math.prod(placed.mesh_axes.values()), self.devices(1)[-1]
        if predicts and found > most:
            name = "evaluation_mesh" if trains else "mesh"
            raise SettingsError(
                f"{name}: evaluation and segmentation run in one pod, with {per_pod}: expected a mesh of at most "
                f"{most} devices. Received: {placed.mesh!r}, {found} devices"
            )
        return settings.model_copy(update={"accelerator": self.kind}) if settings.accelerator == "auto" else settings
