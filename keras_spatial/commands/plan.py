"""`keras-spatial plan`: what a step costs on a mesh, or which mesh is enough."""

import argparse
import math

import keras

from keras_spatial.commands.models import load
from keras_spatial.distribution import SpatialParallel
from keras_spatial.layout import parse_pairs
from keras_spatial.mesh import device_mesh
from keras_spatial.models import UNet3D
from keras_spatial.planning.plan import plan
from keras_spatial.planning.search import NothingFits, smallest_mesh


def run(chosen: argparse.Namespace) -> int:
    """Print the plan; returns the exit status."""
    if chosen.mesh is None and chosen.memory is None:
        raise ValueError("give --mesh, or --memory to look for a mesh, or both")
    model, shape = _model(chosen)
    options = {"dtype": chosen.dtype, "training": not chosen.predict, "input_shape": shape}
    options["batch_size"] = chosen.batch_size
    if chosen.mesh is None:
        try:
            print(smallest_mesh(model, chosen.memory, most_devices=chosen.most_devices, **options))
        except NothingFits as error:
            print(error)
            return 1
        return 0
    sizes = dict(parse_pairs(chosen.mesh, "mesh shape"))
    if not all(value.isdigit() for value in sizes.values()):
        raise ValueError(f"--mesh is written as 'name:size, name:size'. Received: {chosen.mesh!r}")
    count = math.prod(int(value) for value in sizes.values())
    mesh = device_mesh(chosen.mesh, devices=["cpu:0"] * count)
    found = plan(model, SpatialParallel(mesh, chosen.layout), **options)
    print(found)
    if chosen.memory is None:
        return 0
    print(found.explain(chosen.memory))
    return 0 if found.fits(chosen.memory) else 1


def _model(chosen: argparse.Namespace) -> tuple[keras.Model, tuple[int, ...] | None]:
    if chosen.model != "unet3d":
        return load(chosen.model, compiled=True), chosen.image
    if chosen.image is None or len(chosen.image) != 4:
        raise ValueError("--model unet3d needs the image's shape: --image 512,512,512,1")
    return UNet3D(chosen.image, chosen.classes, filters=chosen.filters, levels=chosen.levels), None
