"""What each process of a job is told: one value, which travels as a JSON file."""

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from components import storage
from components.settings import MeshSettings

_WORK = {
    "train": ("components.train.fit:fit", "components.train.settings:TrainingSettings"),
    "evaluate": ("components.evaluate.process:evaluate_cases", "components.evaluate.settings:EvaluationSettings"),
    "segment": ("components.segment.process:segment_share", "components.segment.settings:SegmentationSettings"),
}
"""By name of step: what every process calls, and what it is given as `settings`."""


class JobError(RuntimeError):
    """A job of several processes has failed, or cannot be started."""


@dataclass(frozen=True)
class Description:
    """A step as its processes see it. Each place is a path that all of them see, or a URL.

    Attributes:
        step: "train", "evaluate" or "segment".
        inputs: what is read, by argument.
        outputs: the folders to make, by argument.
        settings: the settings of the step.
        facts: the JSON file that gets what the step's function returns.
        work: the folder that outlives a failure, for a step that resumes from it; "" for one that does not.
        live: by output, the folder in it that is uploaded while the step runs, where the output is a URL.
        arguments: further arguments of the step's function.
        remote: inputs of which the function takes the URL, because it needs only some of what is there; others are
            downloaded.
        heartbeat: the file by which the step that launched the job says that it lives; "" where it needs not.
        local_processes: how many processes of the job share this machine; 0 where each has a machine of its own.
    """

    step: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    settings: Mapping[str, Any]
    facts: str
    work: str = ""
    live: Mapping[str, str] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
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
        if not isinstance(value, dict) or set(value) != names or value["step"] not in _WORK:
            raise JobError(
                f"{location}: expected the JSON of a job with {', '.join(sorted(names))}. Received: {value!r:.200}"
            )
        return cls(**value)

    def function(self) -> Callable[..., Mapping[str, Mapping[str, Any]] | None]:
        """What every process of the step calls with inputs, outputs, arguments, `settings`, and `work` where there is
        one. Importing it imports TensorFlow."""
        return pkgutil.resolve_name(_WORK[self.step][0])

    def given(self) -> MeshSettings:
        """The settings of the step, checked."""
        return pkgutil.resolve_name(_WORK[self.step][1]).model_validate(self.settings)
