"""What the components share: the container image. Not imported where a step runs, for KFP has no decorator there."""

import os
from collections.abc import Callable
from typing import Any

from kfp import dsl

IMAGE = os.environ.get("KERAS_SPATIAL_IMAGE", "keras-spatial-python:0.1.0")
"""Default container image; `compile --image` and `submit --image` set it too. It is built of the `Dockerfile`."""


def component(function: Callable[..., Any]) -> Any:
    """A KFP component of a function; the image holds all it needs, so nothing is installed when a step starts."""
    return dsl.component(function, base_image=IMAGE, install_kfp_package=False)
