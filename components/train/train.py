"""Training in this process, or in several on this machine. TensorFlow is imported only by the process that trains."""

import io
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from components.files import write_json
from components.owner import locks
from components.train.settings import TRAINING, LocalTrainingSettings, TrainingError, TrainingSettings

METRICS = ("best_validation_dice", "best_epoch", "final_loss", "seconds_per_step")
"""What of a model's metadata KFP shows, and compares between runs. The seconds include those of validations."""


def train_model(
    dataset: str,
    model: str,
    *,
    network_files: str = "",
    loss_files: str = "",
    scratch: str | None = None,
    **settings: Any,
) -> Mapping[str, Mapping[str, Any]]:
    """Train a network and save it with its history.

    Args:
        dataset: folder that the step preprocess made.
        model: folder to make: `model.keras` (a plain Keras file that holds its task), `task.json`,
            `training.json` (history, settings, time, memory), `logs` (for TensorBoard).
        network_files: the `.keras` file to fine-tune, where it is on this machine; otherwise, as `loss_files`, it only
            takes part in the step's key, see `components.train.settings.files_of`.
        scratch: folder that outlives a failure: a training that was killed resumes there at its last backup.
        settings: those of `LocalTrainingSettings`.

    Returns:
        Metadata of the model.

    Raises:
        TrainingError: if the loss is not finite, no training case is there, or a process fails.
        ValueError: if mesh and layout do not fit together or to the devices.
    """
    given = LocalTrainingSettings.model_validate(settings)
    if given.network_source == "file" and network_files:
        given = given.model_copy(update={"network": network_files})
    wanted = given.for_a_process()
    with tempfile.TemporaryDirectory() as temporary:
        work = scratch or temporary
        if given.processes == 1:
            from components.train.fit import fit

            fit(dataset, model, work, wanted)
        else:
            _launch(dataset, model, work, wanted, given.processes)
    return {"model": metadata(model)}


def metadata(model: str | Path) -> dict[str, Any]:
    """What KFP records of a trained model."""
    training = json.loads((Path(model) / TRAINING).read_text(encoding="utf-8"))
    names = ("framework", "mesh", "layout", "resolution", "epochs", "parameters", "processes")
    steps = training["epochs"] * training["steps_per_epoch"]
    return {
        **{name: training[name] for name in names},
        "best_validation_dice": training["best"]["dice"],
        "best_epoch": training["best"]["epoch"],
        "final_loss": training["history"]["loss"][-1],
        "seconds_per_step": round(training["seconds"] / steps, 4),
    }


def _launch(dataset: str, model: str, work: str, settings: TrainingSettings, processes: int) -> None:
    from keras_spatial.launch import launch

    job = write_json(
        Path(work) / "job.json",
        {
            "dataset": str(dataset),
            "model": str(model),
            "work": str(work),
            "settings": settings.model_dump(mode="json"),
            "local_processes": processes,
        },
    )
    output: Any = _Remembering(sys.stdout)
    command = [sys.executable, "-m", "components.train.worker", str(job)]
    status = launch(command, processes, output, pass_fds=locks())
    if status:
        raise TrainingError(f"training in {processes} processes ended with status {status}:\n{output.verdict()}")


class _Remembering(io.TextIOBase):
    """Passes text on, and remembers what the launcher says of a process that failed."""

    def __init__(self, stream: TextIO):
        self._stream, self._text = stream, ""

    def write(self, text: str, /) -> int:
        self._text = (self._text + text)[-100_000:]
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def verdict(self) -> str:
        return "\n".join(line for line in self._text.splitlines() if line.startswith("[launch]"))
