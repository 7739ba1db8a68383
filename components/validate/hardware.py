"""Check that a mesh fits the accelerators that a cluster gives the steps."""

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict

from components.validate.settings import Settings, SettingsError, check

Kind = Literal["auto", "cpu", "gpu", "tpu"]


class Hardware(BaseModel):
    """The hardware that a mesh can use.

    Attributes:
        pods: the number of pods of a job.
        accelerator: the resource name of the accelerators, or "".
        accelerators: the number of accelerators of each pod.
        kind: the kind of devices that the steps with accelerators must find: "auto" for those of other vendors, and
            "cpu" if there are no accelerators.
        two_cores: whether TensorFlow sees two cores of a chip, or one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pods: int
    accelerator: str
    accelerators: int
    kind: Kind
    two_cores: bool

    def devices(self, pods: int) -> tuple[int, ...]:
        """The possible numbers of devices of a mesh over some pods, if the accelerator is known."""
        chips = pods * self.accelerators
        return (chips, 2 * chips) if self.two_cores else (chips,)

    def spans_pods(self, settings: Settings, *, trains: bool) -> bool:
        """Whether an evaluation or a segmentation runs in all pods, rather than in one.

        It runs in one pod if its mesh fits there. Without accelerators, it is not known what fits: then a separate mesh
        (`evaluation_mesh`) counts as fitting, and the mesh of the training does not.

        Args:
            settings: the settings of the run.
            trains: whether the pipeline trains. If it does not, there is no mesh of a training.
        """
        if self.pods == 1:
            return False
        if self._counts(settings):
            placed = settings.placed if trains else settings
            return math.prod(placed.mesh_axes.values()) > self.devices(1)[-1]
        return not (trains and settings.evaluation_mesh)

    def _counts(self, settings: Settings) -> bool:
        """Whether the devices of a mesh are accelerators, whose number in each pod is known."""
        return bool(self.accelerator) and settings.accelerator != "cpu"

    def demand(self, settings: Settings, *, trains: bool, predicts: bool) -> Settings:
        """Check the settings of a pipeline against this hardware, and set `accelerator` to the kind that is there.

        Args:
            settings: the settings of the run.
            trains: whether the pipeline trains, which it does in all pods.
            predicts: whether it evaluates or segments, in one pod or in all of them.

        Returns:
            The settings, whose `accelerator` is no longer "auto" if the mesh is made of accelerators.

        Raises:
            SettingsError: if the mesh does not fit the accelerators of the pods, or a setting does not suit their kind.
        """
        spans = predicts and self.spans_pods(settings, trains=trains)
        if self.pods > 1 and settings.processes > 1 and (trains or spans):
            raise SettingsError(
                f"processes: the number for one machine, but each of the {self.pods} pods of the cluster file runs one "
                f"process. Received: {settings.processes}. Leave it out."
            )
        if settings.accelerator in ("gpu", "tpu") and self.kind not in (settings.accelerator, "auto"):
            raise SettingsError(
                f"accelerator: the cluster file gives the steps {self.accelerator or 'no accelerators'}. Received: "
                f"{settings.accelerator!r}"
            )
        found, placed = math.prod(settings.mesh_axes.values()), settings.placed if trains else settings
        predicted = math.prod(placed.mesh_axes.values())
        if not self._counts(settings):
            if (trains or spans) and found % self.pods:
                raise SettingsError(
                    f"mesh: expected a multiple of the {self.pods} pods of the cluster file, which share its devices. "
                    f"Received: {settings.mesh!r}, {found} devices"
                )
            return settings
        per_pod = f"{self.accelerators} {self.accelerator} in each pod"
        wanted, most = self.devices(self.pods), self.devices(1)[-1]
        if trains and found not in wanted:
            raise SettingsError(
                f"mesh: {self.pods} pod(s) of the cluster file have {per_pod}: expected a mesh of "
                f"{' or '.join(map(str, wanted))} devices. Received: {settings.mesh!r}, {found} devices"
            )
        if predicts and predicted > most and (self.pods == 1 or predicted not in wanted):
            name = "evaluation_mesh" if trains and settings.evaluation_mesh else "mesh"
            over = "" if self.pods == 1 else f", or of {' or '.join(map(str, wanted))} devices over all of them"
            raise SettingsError(
                f"{name}: evaluation and segmentation run in one pod, with {per_pod}, or in all {self.pods}: expected "
                f"a mesh of at most {most} devices{over}. Received: {placed.mesh!r}, {predicted} devices"
            )
        # What does not suit this kind is refused, such as numbers of GPUs for a TPU slice.
        return check({**dict(settings), "accelerator": self.kind}) if settings.accelerator == "auto" else settings
