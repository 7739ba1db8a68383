"""Train in this process, or in several on this machine. Only the processes that train import TensorFlow."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components import storage
from components.jobs.description import Description
from components.jobs.here import run_here
from components.train.settings import READ, TRAINING, LocalTrainingSettings, TrainingSettings

METRICS = ("best_validation_dice", "best_epoch", "final_loss", "seconds_per_step")
"""The metadata of a model that KFP shows and compares between runs. The seconds include those of validations."""


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
        dataset: the folder of the step preprocess, by path or URL. From a URL, only the splits that a training reads
            are downloaded.
        model: the folder to make, with `model.keras` (a plain Keras file that holds its task), `task.json`,
            `training.json` (history, settings, time, memory) and `logs` (for TensorBoard).
        network_files: the `.keras` file to fine-tune, if the network is a file. Otherwise it is only part of the step's
            key, see `components.train.settings.files_of`.
        loss_files: the files of the user's loss, which are only part of the step's key.
        scratch: a folder that is kept after a failure. A training that was killed resumes from its last backup there.
        settings: the settings of `LocalTrainingSettings`.

    Returns:
        The metadata of the model.

    Raises:
        TrainingError: if the loss is not finite, or there are no training cases.
        JobError: if one of several processes fails.
        ValueError: if mesh, layout and devices do not fit together.
    """
    given = LocalTrainingSettings.model_validate(settings)
    if given.network_source == "file" and network_files:
        given = given.model_copy(update={"network": network_files})
    wanted = given.part(TrainingSettings)
    if storage.is_url(dataset):
        from components.preprocess.preprocess import near_dataset

        # The download is shared by all processes of this machine.
        dataset = near_dataset(dataset, READ)
    with tempfile.TemporaryDirectory() as temporary:
        job = Description(
            step="train",
            inputs={"dataset": str(dataset)},
            outputs={"model": str(model)},
            settings=wanted.model_dump(mode="json"),
            facts="",
            work=str(scratch or temporary),
        )
        run_here(job, given.processes)
    return {"model": metadata(model)}


def metadata(model: str | Path) -> dict[str, Any]:
    """The metadata of a trained model, which KFP records."""
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
