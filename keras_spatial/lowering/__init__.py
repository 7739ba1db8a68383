"""From Keras layers to Mesh-TensorFlow operations: the table, the four kinds, the walk over a model."""

from keras_spatial.lowering import (  # noqa: F401  Importing them fills the table.
    array_operations,
    augmentation,
    composite,
    convolutional,
    normalization,
    operations,
    pointwise,
    pooling,
    preprocessing,
    products,
    regularization,
    reshaping,
)
from keras_spatial.lowering.table import UnsupportedLayer, find_lowering, register_lowering
from keras_spatial.lowering.tensors import Axis, SpatialTensor
from keras_spatial.lowering.trace import Trace

__all__ = ["Axis", "SpatialTensor", "Trace", "UnsupportedLayer", "find_lowering", "register_lowering"]
