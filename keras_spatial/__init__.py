"""Convolutional networks on images too large for one device: Keras models, split over a mesh with Mesh-TensorFlow."""

import importlib
from typing import Any

from keras_spatial import _environment, interruption

interruption.end_with_a_sentence("keras_spatial")
_environment.prepare()

from keras_spatial import layers, losses, metrics, models  # noqa: E402
from keras_spatial.backup import Backup  # noqa: E402
from keras_spatial.conversion import load_model, partition  # noqa: E402
from keras_spatial.distribution import SpatialParallel  # noqa: E402
from keras_spatial.fitting import partition_to_fit  # noqa: E402
from keras_spatial.mesh import device_mesh  # noqa: E402
from keras_spatial.model import Model  # noqa: E402
from keras_spatial.planning import plan  # noqa: E402
from keras_spatial.processes import initialize  # noqa: E402
from keras_spatial.profiling import Profile  # noqa: E402
from keras_spatial.recomputation import recompute  # noqa: E402
from keras_spatial.rules import UnsupportedLayer, register_lowering  # noqa: E402
from keras_spatial.runtimes.blocks import LocalBlocks  # noqa: E402
from keras_spatial.runtimes.storage import OffloadError  # noqa: E402
from keras_spatial.runtimes.tpu import tpu_strategy  # noqa: E402

__version__ = "0.2.0"

__all__ = [
    "Backup",
    "LocalBlocks",
    "Model",
    "OffloadError",
    "Profile",
    "SpatialParallel",
    "UnsupportedLayer",
    "device_mesh",
    "initialize",
    "layers",
    "load_model",
    "losses",
    "metrics",
    "models",
    "partition",
    "partition_to_fit",
    "plan",
    "recompute",
    "register_lowering",
    "tpu_strategy",
]

# Parts that need the optional packages of `keras-spatial[medical]`, or time to import: loaded when first used.
_ON_DEMAND = ("data", "evaluation", "inference", "plot", "volumes")


def __getattr__(name: str) -> Any:
    if name in _ON_DEMAND:
        return importlib.import_module(f"keras_spatial.{name}")
    raise AttributeError(f"module 'keras_spatial' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_ON_DEMAND])
