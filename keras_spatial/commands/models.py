"""Load models and make plans for the commands."""

import math
from pathlib import Path
from zipfile import BadZipFile

import keras

from keras_spatial._paths import regular
from keras_spatial.distribution import SpatialParallel
from keras_spatial.layout import parse_pairs
from keras_spatial.mesh import device_mesh
from keras_spatial.planning.plan import Plan, plan


def load(path: str | Path, *, compiled: bool = False) -> keras.Model:
    """The model of a `.keras` file.

    Args:
        path: the path of the file.
        compiled: whether to load its optimizer, losses and metrics as well.

    Raises:
        ValueError: if it cannot be read.
    """
    try:
        return keras.saving.load_model(regular(path), compile=compiled)
    except (ValueError, TypeError, KeyError, OSError, BadZipFile) as error:
        raise ValueError(
            f"{path}: expected a model that Keras saved as a .keras file. Received: {str(error)[:300]}"
        ) from error


def planned(model: keras.Model, mesh: str, layout: str, image: tuple[int, ...] | None) -> Plan:
    """The plan of a prediction: what it costs each device of a mesh. The devices need not exist.

    Raises:
        ValueError: if the mesh or the layout is malformed, or the model cannot be partitioned.
    """
    shape = dict(parse_pairs(mesh, "mesh shape"))
    if not all(value.isdigit() for value in shape.values()):
        raise ValueError(f"--mesh is written as 'name:size, name:size'. Received: {mesh!r}")
    devices = ["cpu:0"] * math.prod(int(value) for value in shape.values())
    return plan(model, SpatialParallel(device_mesh(mesh, devices), layout), training=False, input_shape=image)
