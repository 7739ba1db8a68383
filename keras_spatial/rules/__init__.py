"""Lowering rules: from Keras layers and operations to Mesh-TensorFlow operations, and the walk over a model."""

from keras_spatial.engine.tensors import SpatialTensor
from keras_spatial.engine.trace import Trace
from keras_spatial.layout import Axis
from keras_spatial.rules import (  # noqa: F401  Importing them fills the table.
    along_axes,
    array_operations,
    attention,
    augmentation,
    composite,
    convolution,
    definitions,
    keras_ops,
    normalization,
    patches,
    pointwise,
    pooling,
    preprocessing,
    products,
    regularization,
    reshaping,
)
from keras_spatial.rules.table import UnsupportedLayer, find_lowering, register_lowering

__all__ = ["Axis", "SpatialTensor", "Trace", "UnsupportedLayer", "find_lowering", "register_lowering"]
