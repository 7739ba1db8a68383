"""The description of a step that several processes run: one value, which each of them reads from a JSON file."""

import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from components import storage
from components.settings import MeshSettings

_WORK = {
    "train": ("components.train.fit:fit", "components.train.settings:TrainingSettings"),
    "evaluate": ("components.evaluate.process:evaluate_cases", "components.evaluate.settings:EvaluationSettings"),
    "segment": ("components.segment.process:segment_share", "components.segment.settings:SegmentationSettings"),
}
"""The function that every process of a step calls, and the class of its `settings`, by the name of the step."""


class JobError(RuntimeError):
    """A job of several processes failed, or cannot be started."""


@dataclass(frozen=True)
class Description:
    """A step as its processes see it. Every place is a URL, or a path that all processes see.

    Attributes:
        step: "train", "evaluate" or "segment".
        inputs: the places of the inputs, by the argument of the step's function.
        outputs: the places of the folders to make, by the argument of the step's function.
        settings: the settings of the step.
        facts: the place of the JSON file that gets what the step's function returns.
        work: the place of the folder that is kept after a failure, for a step that resumes from it; otherwise "".
        live: the folder in an output that is uploaded while the step runs if the output is at a URL, by the argument of
            the output.
        arguments: further arguments of the step's function.
        shared: the URL of a folder for what the processes give each other, if they have no folder in common. Then
            every process uploads the files of the outputs that it has made. "" if all see the outputs' folders, or only
            the first process writes.
        remote: the inputs that the function takes as URLs, because it needs only some of the files there; other inputs
            are downloaded.
        heartbeat: the place of the file by which the step that launched the job shows that it still runs; "" for none.
        local_processes: how many processes of the job share this machine; 0 if each has a machine of its own.
    """

    step: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    settings: Mapping[str, Any]
    facts: str
    work: str = ""
    live: Mapping[str, str] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    shared: str = ""
    remote: Sequence[str] = ()
    heartbeat: str = ""
    local_processes: int = 0

    def write(self, location: str) -> str:
        """Write the description to a path or URL, which is returned."""
        storage.write_json(location, asdict(self))
        return location

    @classmethod
    def read(cls, location: str) -> "Description":
        """The description that `write` wrote.

        Raises:
            JobError: if it is missing or damaged.
        """
        value = storage.read_json(location)
        names = {f.name for f in fields(cls)}
        if not isinstance(value, dict) or set(value) != names or value["step"] not in [*_WORK]:
            raise JobError(
                f"{location}: expected the JSON of a job with {', '.join(sorted(names))}. Received: {value!r:.200}"
            )
        return cls(**value)

    def given(self) -> MeshSettings:
        """The settings of the step, checked."""
        return pkgutil.resolve_name(_WORK[self.step][1]).model_validate(self.settings)

    @property
    def places(self) -> dict[str, str]:
        """The places of the inputs, the outputs and, if there are any, of the folder that is kept and of the folder
        that the processes share, by the function's arguments."""
        others = {name: place for name, place in (("work", self.work), ("shared", self.shared)) if place}
        return {**self.inputs, **self.outputs, **others}

    def run(self, places: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
        """Do the work of one process of the step. This imports TensorFlow.

        Args:
            places: the places as this process sees them, by the function's arguments; see `places`.

        Returns:
            What the step's function returns.
        """
        function = pkgutil.resolve_name(_WORK[self.step][0])
        return function(**places, **self.arguments, settings=self.given()) or {}
