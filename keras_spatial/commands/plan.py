"""`keras-spatial plan`: what a step costs on a mesh, or which mesh is enough."""

import argparse
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from keras_spatial.commands.models import load
from keras_spatial.commands.saying import say
from keras_spatial.distribution import SpatialParallel
from keras_spatial.fitting import recomputed_plan
from keras_spatial.layout import parse_pairs
from keras_spatial.mesh import device_mesh
from keras_spatial.models import UNet3D
from keras_spatial.planning import (
    NothingFits,
    Room,
    Shards,
    free_space,
    host_memory,
    plan,
    readable,
    smallest_mesh,
    smallest_sharing,
)

# Bytes per second that a common bus (PCI Express 4) and a common disk (NVMe) move.
_BUS, _DISK = 20 * 10**9, 2 * 10**9


def run(chosen: argparse.Namespace) -> int:
    """Print the plan, and return the exit status."""
    if chosen.mesh is None and chosen.memory is None:
        raise ValueError("give --mesh, or --memory to look for a mesh, or both")
    model, shape = _model(chosen)
    options = {"dtype": chosen.dtype, "training": not chosen.predict, "input_shape": shape}
    options["batch_size"] = chosen.batch_size
    if chosen.devices is not None:
        if chosen.mesh is not None or chosen.memory is None:
            raise ValueError("--devices is how many devices the shards share: give --memory as well, and no --mesh")
        return _shared(model, chosen, options)
    if chosen.host_memory is not None or chosen.offload is not None or chosen.disk is not None:
        raise ValueError("--host-memory, --offload and --disk say where shards that share devices wait. Give --devices")
    if chosen.mesh is None:
        try:
            say(smallest_mesh(model, chosen.memory, most_devices=chosen.most_devices, **options))
        except NothingFits as error:
            say(error)
            return 1
        return 0
    sizes = dict(parse_pairs(chosen.mesh, "mesh shape"))
    if not all(value.isdigit() for value in sizes.values()):
        raise ValueError(f"--mesh is written as 'name:size, name:size'. Received: {chosen.mesh!r}")
    count = math.prod(int(value) for value in sizes.values())
    mesh = device_mesh(chosen.mesh, devices=["cpu:0"] * count)
    found = plan(model, SpatialParallel(mesh, chosen.layout), **options)
    say(found)
    if chosen.memory is None:
        return 0
    say(found.explain(chosen.memory))
    return 0 if found.fits(chosen.memory) else 1


def _shared(model: keras.Model, chosen: argparse.Namespace, options: dict[str, Any]) -> int:
    """Find out into how many shards an image must be cut for the given devices."""
    if chosen.devices < 1:
        raise ValueError(f"--devices: expected at least 1. Received: {chosen.devices}")
    folder, disk = None if chosen.offload is None else Path(chosen.offload), chosen.disk or 0
    if folder is not None and chosen.disk is None:
        disk = free_space(folder)
    if chosen.disk is not None and folder is None:
        folder = Path(tempfile.gettempdir())
    room = Room(
        chosen.memory,
        [f"{chosen.kind}:{i}" for i in range(chosen.devices)],
        chosen.host_memory or host_memory(),
        None if folder is None else Path(folder),
        disk,
    )
    try:
        found = smallest_sharing(model, room, recomputed_plan(model, chosen.batch_size), **options)
    except NothingFits as error:
        say(error)
        return 1
    say(found.plan)
    say("\n".join(_advice(found, chosen.bandwidth, folder)))
    return 0


def _advice(found: Shards, bandwidth: int | None, folder: Path | None) -> Iterator[str]:
    """Print how to use the plan that was found, and the least time that a step takes."""
    planned = found.plan
    mesh = f'ks.device_mesh("{planned.mesh}", devices={sorted({str(d) for d in found.distribution.runtime.devices})})'
    offload = f", offload={planned.offload!r}" if planned.offload else ""
    yield f'ks.SpatialParallel({mesh}, "{planned.layout}"{offload})'
    if found.recomputed:
        yield "ks.recompute: all layers; without it there is too little room for the waiting shards"
    if planned.offload:
        slowest = bandwidth or (_BUS if planned.offload == "host" else _DISK)
        yield (
            f"A step takes at least {planned.least_seconds(slowest):.3g} s to move {readable(planned.moved)} at "
            f"{readable(slowest)} a second."
        )


def _model(chosen: argparse.Namespace) -> tuple[keras.Model, tuple[int, ...] | None]:
    if chosen.model != "unet3d":
        return load(chosen.model, compiled=True), chosen.image
    if chosen.image is None or len(chosen.image) != 4:
        raise ValueError("--model unet3d needs the image's shape: --image 512,512,512,1")
    return UNet3D(chosen.image, chosen.classes, filters=chosen.filters, levels=chosen.levels), None
