"""`keras-spatial info`: describe a model."""

import argparse
import json

from keras import tree

from keras_spatial import model_tasks
from keras_spatial.commands.models import load, planned
from keras_spatial.commands.saying import say
from keras_spatial.planning import readable
from keras_spatial.planning.receptive_field import WHOLE, receptive_field


def run(chosen: argparse.Namespace) -> int:
    """Print a description of the model, and return the exit status."""
    model = load(chosen.model)
    parameters = model.count_params()
    weights = sum(int(v.shape.num_elements() or 0) * v.value.dtype.size for v in model.variables)
    task, channels = _task(chosen.model)
    rows = [
        ("model", f"{model.name} ({type(model).__name__})"),
        ("task", task),
        ("channels", channels),
        ("inputs", _shapes(model.inputs)),
        ("outputs", _shapes(model.outputs)),
        ("classes", ", ".join(str(output.shape[-1]) for output in tree.flatten(model.outputs))),
        ("parameters", f"{parameters:,} ({readable(weights)})"),
        ("receptive field", _field(model)),
    ]
    for name, value in rows:
        say(f"{name:<17}{value}")
    if chosen.mesh is not None:
        say(f"\n{planned(model, chosen.mesh, chosen.layout, chosen.image)}")
    return 0


def _task(path: str) -> tuple[str, str]:
    """The task in a model's file with its classes, and its channels in the order in which they are read."""
    # Read without the `medical` extra, which nothing else here needs.
    text = model_tasks.read_text(path)
    if text is None:
        return "not in the file", "not in the file"
    try:
        task = json.loads(text)
        channels = ", ".join(f"{number:04} {channel['name']}" for number, channel in enumerate(task["channels"]))
        return f"{task['name']}: {', '.join(task['labels'])}", channels
    except (KeyError, RecursionError, TypeError, ValueError):
        return "damaged", "damaged"


def _shapes(tensors) -> str:
    return "; ".join(
        f"{tensor.name} [{', '.join('any' if n is None else str(n) for n in tensor.shape)}] {tensor.dtype}"
        for tensor in tree.flatten(tensors)
    )


def _field(model) -> str:
    found = receptive_field(model)
    if found is None:
        return "not known: the model has layers whose receptive field is not known"
    if found == WHOLE:
        return "the whole image"
    return " x ".join(str(n) for n in found) + " voxels"
