"""`keras-spatial segment`: volumes in, label files out."""

import argparse
import math
import sys
from pathlib import Path
from typing import Literal

import keras

import keras_spatial as ks
from keras_spatial.commands.models import load, planned
from keras_spatial.commands.saying import say
from keras_spatial.inference import Patches, check_results, find_sources, segment_all
from keras_spatial.inference.batches import FAILED
from keras_spatial.inference.tasks import channel_names, check_fits, chosen_task
from keras_spatial.planning import readable
from keras_spatial.volumes import Task


def run(chosen: argparse.Namespace) -> int:
    """Segment the chosen volumes, and return the exit status."""
    ending = f".{chosen.format}"
    if chosen.offload is not None and (chosen.memory is None or chosen.mesh is not None):
        raise ValueError("--offload is where shards that share a device wait. Give --memory as well, and no --mesh")
    patches = None
    if chosen.patches:
        patches = Patches(grid=chosen.grid, overlap=0.5 if chosen.overlap is None else chosen.overlap)
    elif chosen.overlap is not None or chosen.grid is not None:
        raise ValueError("--overlap and --grid apply to patches. Give --patches as well, or leave them out")
    if chosen.grid is not None and len(chosen.grid) != 3:
        raise ValueError(f"--grid: expected three sizes, along x, y and z. Received: {chosen.grid}")
    task = chosen_task(chosen.model, chosen.task)
    sources = find_sources(chosen.inputs, ending, channel_names(task))
    check_results(sources, chosen.output, ending, overwrite=chosen.overwrite)
    model = _model(chosen, task)
    say(f"{len(sources)} {'volume' if len(sources) == 1 else 'volumes'} to segment into {chosen.output}")
    outcomes = segment_all(
        model,
        sources,
        chosen.output,
        say,
        ending=ending,
        patches=patches,
        flips=chosen.flips,
        largest_liver=chosen.largest_liver,
        from_logits=not chosen.probabilities,
        classes=chosen.classes,
        task=task,
    )
    failed = [outcome for outcome in outcomes if outcome.reason is not None]
    if not failed:
        return 0
    table = Path(chosen.output) / FAILED
    say(f"error: {len(failed)} of {len(sources)} volumes have no result; {table} says why.", file=sys.stderr)
    return 1


def _model(chosen: argparse.Namespace, task: Task | Literal["lits"]) -> keras.Model:
    # Before TensorFlow creates its devices, because the mesh decides how many are needed.
    shape: str | None = chosen.mesh
    mesh = None if shape is None else ks.device_mesh(shape)
    model = load(chosen.model)
    classes = model.output_shape[-1] if isinstance(model.output_shape, tuple) else None
    if chosen.classes and classes is not None and len(chosen.classes) != classes:
        raise ValueError(
            f"--classes: expected {classes} names, one for each class of the model. Received: {len(chosen.classes)}"
        )
    # Checked here, before the model is rebuilt for its shards.
    check_fits([model], None if task == "lits" else task)
    if shape is None or mesh is None:
        return model if chosen.memory is None else _in_shards(model, chosen)
    if chosen.memory is not None:
        needed = planned(model, shape, chosen.layout, None)
        if not needed.fits(chosen.memory):
            raise ValueError(
                f"--memory: choose a larger mesh; keras-spatial plan finds one.\n{needed.explain(chosen.memory)}"
            )
    say(f"mesh of {math.prod(mesh.shape)} devices: {', '.join(dict.fromkeys(map(str, mesh.devices.flatten())))}")
    return ks.partition(model, ks.SpatialParallel(mesh, chosen.layout))


def _in_shards(model: keras.Model, chosen: argparse.Namespace) -> keras.Model:
    folder = Path(chosen.offload or chosen.output)
    spatial, plan = ks.partition_to_fit(model, chosen.memory, folder, training=False)
    assert spatial.distribution is not None
    runtime = spatial.distribution.runtime
    count = len(runtime.devices)
    say(f"{count} {'shard' if count == 1 else 'shards, one after another'}, on {runtime.devices[0]}")
    if plan.offload:
        say(f"{readable(plan.kept)} wait in {'host memory' if plan.offload == 'host' else plan.offload}")
    return spatial
