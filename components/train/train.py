"""Training in this process, or in several on this machine. TensorFlow is imported only by the process that trains."""

import io
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from components.files import write_json
from components.train.settings import TRAINING, TrainingError, TrainingSettings


def train_model(
    dataset: str, model: str, *, processes: int = 1, scratch: str | None = None, **settings: Any
) -> Mapping[str, Mapping[str, Any]]:
    """Train `ks.models.UNet3D` and save it with its history.

    Args:
        dataset: folder that the step preprocess made.
        model: folder to make: `model.keras` (a plain Keras file), `training.json` (history, settings, time, memory),
            `logs` (for TensorBoard).
        processes: of this machine, which share the mesh.
        scratch: folder that outlives a failure: a training that was killed goes on there at its last backup.
        settings: those of `TrainingSettings`.

    Returns:
        Metadata of the model.

    Raises:
        TrainingError: if the loss is not finite, no training case is there, or a process fails.
        ValueError: if mesh and layout do not fit together or to the devices.
    """
    wanted = TrainingSettings.of(settings)
    with tempfile.TemporaryDirectory() as temporary:
        work = scratch or temporary
        if processes == 1:
            from components.train.fit import fit

            fit(dataset, model, work, wanted)
        else:
            _launch(dataset, model, work, wanted, processes)
    return {"model": metadata(model)}


def metadata(model: str | Path) -> dict[str, Any]:
    """What KFP records of a trained model."""
    training = json.loads((Path(model) / TRAINING).read_text(encoding="utf-8"))
    names = ("framework", "mesh", "layout", "resolution", "epochs", "parameters", "processes")
    return {**{name: training[name] for name in names}, "final_loss": training["history"]["loss"][-1]}


def _launch(dataset: str, model: str, work: str, settings: TrainingSettings, processes: int) -> None:
    from keras_spatial.launch import launch

    job = write_json(
        Path(work) / "job.json",
        {"dataset": str(dataset), "model": str(model), "work": str(work), "settings": asdict(settings)},
    )
    output: Any = _Remembering(sys.stdout)
    status = launch([sys.executable, "-m", "components.train.worker", str(job)], processes, output)
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
