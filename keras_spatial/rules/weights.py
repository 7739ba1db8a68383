"""Variables as operands, and a layer's kernel, with or without low-rank adaptation (LoRA)."""

from collections.abc import Sequence

import keras
import tensorflow as tf
from keras import ops

from keras_spatial import keras_private
from keras_spatial.engine.tensors import SpatialTensor
from keras_spatial.engine.trace import Trace
from keras_spatial.keras_private import raw_kernel
from keras_spatial.layout import Axis


def kernel_variables(layer) -> list[keras.Variable]:
    """The variables of a layer's kernel: the kernel itself, and with LoRA also its two factors."""
    if getattr(layer, "lora_enabled", False):
        return [raw_kernel(layer), layer.lora_kernel_a, layer.lora_kernel_b]
    return [raw_kernel(layer)]


def kernel_value(layer, values: Sequence[tf.Tensor], dtype: tf.DType) -> tf.Tensor:
    """The kernel, computed from the values of `kernel_variables`."""
    kernel, *factors = values
    if factors:
        kernel = kernel + (layer.lora_alpha / layer.lora_rank) * ops.matmul(*factors)
    return tf.cast(kernel, dtype)


def variable_tensor(trace: Trace, variable) -> SpatialTensor:
    """A Keras variable as an operand, in the dtype in which the layer under way reads it."""
    value = SpatialTensor(trace.weight(variable), tuple(Axis(f"weight{i}", n) for i, n in enumerate(variable.shape)))
    if trace.variable_dtype is None or not keras_private.is_autocast(variable):
        return value
    return trace.cast(value, trace.variable_dtype)
