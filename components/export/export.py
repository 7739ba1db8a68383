"""Export a model from the pipeline as files."""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras_spatial as ks
from components.evaluate.results import load_scores
from components.files import write_json
from components.train.settings import MODEL
from keras_spatial.volumes import TASK, Task, metric_name, read_task

VERSION = "1"
"""The version of the exported model. To deploy several versions, copy each one into the folder of the next number."""


def export_model(model: str, evaluation: str, exported: str) -> Mapping[str, Mapping[str, Any]]:
    """Write the model as a Keras file, as a TensorFlow SavedModel for one device, and a description.

    Args:
        model: the folder of the step train.
        evaluation: the folder of the step evaluate.
        exported: the folder to make, with `model.keras`, which holds its task, `serving/1/`, `task.json` and
            `model.json` (metrics, input, classes, SHA-256).

    Returns:
        The metadata of the exported model: its SHA-256, and the Dice of each class.

    Raises:
        TaskError: if the model holds no task.
    """
    folder = Path(exported)
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(model) / MODEL
    shutil.copyfile(source, folder / MODEL)
    network = ks.load_model(source, compile=False)
    # TensorFlow Serving looks for a folder whose name is a number, the model's version.
    network.export(str(folder / "serving" / VERSION), verbose=False)
    task, scores = read_task(source), load_scores(evaluation)
    write_json(folder / TASK, task.as_dict())
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    facts = {
        **described(task),
        "input_shape": list(network.input_shape[1:]),
        "dice": scores["dice"],
        "cases": scores["cases"],
        "sha256": digest,
    }
    write_json(folder / "model.json", facts)
    dice = {f"dice_{metric_name(part)}": value for part, value in scores["dice"].items()}
    return {"exported": {"sha256": digest, **dice}}


def described(task: Task) -> dict[str, Any]:
    """A description of a task for those who serve the model."""
    count = len(task.channels)
    channels = "; ".join(f"{number} {c.name}: {c.intensities}" for number, c in enumerate(task.channels))
    grid = task.grid
    if grid.resolution is not None:
        where = f"the whole field of view in {grid.resolution} voxels along each axis"
    else:
        where = "the scan's own voxels" if grid.spacing is None else f"voxels of {grid} over the whole field of view"
        where += ", in the middle of zeros where it is smaller than the input, in sliding windows where it is larger"
    order = "resampled, rounded to whole HU, then" if task.scores == "lits" else "resampled after it is"
    return {
        "name": task.name,
        "input": f"float32 [batch, x, y, z, {count}] in RAS order: {where}; {order} normalised. Channels: {channels}",
        "output": f"logits of {', '.join(task.labels)} [batch, x, y, z, {len(task.labels)}]",
        "classes": list(task.labels),
        "channels": [channel.name for channel in task.channels],
        "resolution": grid.resolution,
        "spacing": list(grid.edges) or None,
    }
