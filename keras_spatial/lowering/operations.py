"""`keras.ops` in functional models: pointwise, reducing and windowed operations."""

from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import backend, tree
from keras.src.ops import core, image, math, nn, numpy  # Keras exports its operations' functions, not their classes.

from keras_spatial.lowering import convolutional, normalization, pooling, reductions
from keras_spatial.lowering.formats import to_channels_first, to_channels_last
from keras_spatial.lowering.products import variable_tensor
from keras_spatial.lowering.reshaping import resized
from keras_spatial.lowering.table import register_lowering
from keras_spatial.lowering.tensors import Axis, SpatialTensor
from keras_spatial.lowering.trace import Trace

_POINTWISE = {
    numpy: """Absolute Abs Fabs Add Arccos Arccosh Arcsin Arcsinh Arctan Arctan2 Arctanh BitwiseAnd BitwiseInvert
        BitwiseNot BitwiseOr BitwiseXor BitwiseLeftShift LeftShift BitwiseRightShift RightShift Cbrt Ceil
        Clip Copy Cos Cosh Deg2rad Rad2deg Digitize Equal Exp Exp2 Expm1 Floor FloorDivide Fmax Fmin Fmod
        FullLike Gcd Greater GreaterEqual Heaviside Hypot Isclose Isfinite Isinf Isnan Isneginf Isposinf Lcm
        Ldexp Less LessEqual Log Log10 Log1p Log2 Logaddexp Logaddexp2 LogicalAnd LogicalNot LogicalOr
        LogicalXor Maximum Minimum Mod NanToNum Negative Nextafter NotEqual OnesLike ZerosLike Power
        Reciprocal Round Sign Signbit Sin Sinc Sinh Sqrt Square Subtract Multiply Divide DivideNoNan Tan
        Tanh TrueDivide Trunc Where""",
    nn: """Relu Relu6 Sigmoid SparseSigmoid Softplus Softsign SoftShrink SparsePlus Silu Squareplus LogSigmoid LeakyRelu
        HardSigmoid HardSilu Elu Selu Gelu Celu TanhShrink HardTanh HardShrink Threshold""",
    math: "Rsqrt Erf Erfc Erfinv",
    core: "Cast SaturateCast StopGradient",
}
POINTWISE = tuple(getattr(module, name) for module, names in _POINTWISE.items() for name in names.split())

# Their derivatives may be infinite for what lies beyond the logical size, where nothing but 0 would be multiplied.
_SINGULAR = tuple(
    getattr(numpy, name)
    for name in [
        "Arccos",
        "Arccosh",
        "Arcsin",
        "Arctanh",
        "Cbrt",
        "Divide",
        "DivideNoNan",
        "Fmod",
        "Hypot",
        "Log",
        "Log10",
        "Log1p",
        "Log2",
        "Mod",
        "Power",
        "Reciprocal",
        "Sqrt",
        "Tan",
        "TrueDivide",
    ]
) + (math.Rsqrt, math.Erfinv)


@register_lowering(*POINTWISE)
def pointwise_operation(operation, trace: Trace, *args: Any, **kwargs: Any) -> SpatialTensor:
    """Any elementwise operation, on tensors, variables, arrays and numbers that broadcast against each other."""
    tensors = [t for t in tree.flatten((args, kwargs)) if _is_operand(t)]
    operands = [as_operand(trace, t) for t in tensors]
    symbols = iter(keras.KerasTensor(x.shape, dtype=x.dtype.name) for x in operands)
    symbolic_args, symbolic_kwargs = tree.map_structure(
        lambda t: next(symbols) if _is_operand(t) else t, (args, kwargs)
    )
    dtype = operation.compute_output_spec(*symbolic_args, **symbolic_kwargs).dtype

    if isinstance(operation, _SINGULAR):
        operands = [_with_ones_outside(trace, x) for x in operands]

    def on_slices(*slices: tf.Tensor) -> tf.Tensor:
        remaining = iter(slices)
        local_args, local_kwargs = tree.map_structure(
            lambda t: next(remaining) if _is_operand(t) else t, (args, kwargs)
        )
        return tf.cast(operation.call(*local_args, **local_kwargs), dtype)

    return trace.pointwise(on_slices, operands, dtype=dtype, name=operation.name)


def _with_ones_outside(trace: Trace, x: SpatialTensor) -> SpatialTensor:
    inside = trace.inside(x)
    if inside is None:
        return x
    return trace.pointwise(
        lambda t, mask: tf.where(tf.cast(mask, tf.bool), t, tf.ones_like(t)), [x, inside], name="inside"
    )


def _is_operand(value: Any) -> bool:
    if isinstance(value, (SpatialTensor, keras.Variable)):
        return True
    return isinstance(value, (np.ndarray, tf.Tensor)) and value.ndim > 0


def as_operand(trace: Trace, value: Any) -> SpatialTensor:
    """A tensor of the model as it is; a variable or an array whole on every device."""
    if isinstance(value, SpatialTensor):
        return value
    if isinstance(value, keras.Variable):
        return variable_tensor(trace, value)
    return trace.constant(tf.convert_to_tensor(value))


# Reductions.


def _over(operation, x: SpatialTensor) -> list[int]:
    return reductions.normalized_axes(operation.axis, x.ndim)


def _as_float(trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return x if x.dtype.is_floating else trace.cast(x, backend.result_type(x.dtype.name, float))


@register_lowering(numpy.Sum)
def sum_operation(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    x = trace.cast(x, operation.compute_output_spec(keras.KerasTensor(x.shape, dtype=x.dtype.name)).dtype)
    return reductions.total(trace, x, _over(operation, x), keepdims=operation.keepdims)


@register_lowering(numpy.Mean)
def mean_operation(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return reductions.mean(trace, _as_float(trace, x), _over(operation, x), keepdims=operation.keepdims)


@register_lowering(numpy.Max, numpy.Amax)
def max_operation(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    _refuse_initial(operation)
    return reductions.maximum(trace, x, _over(operation, x), keepdims=operation.keepdims)


@register_lowering(numpy.Min, numpy.Amin)
def min_operation(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    _refuse_initial(operation)
    negative = trace.pointwise(tf.negative, [x], name="negative")
    largest = reductions.maximum(trace, negative, _over(operation, x), keepdims=operation.keepdims)
    return trace.pointwise(tf.negative, [largest], name="minimum")


def _refuse_initial(operation) -> None:
    if getattr(operation, "initial", None) is not None:
        raise ValueError(f"A partitioned maximum or minimum takes no initial value. Received: {operation.initial}")


@register_lowering(numpy.Var)
def variance_operation(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return reductions.moments(trace, _as_float(trace, x), _over(operation, x), keepdims=operation.keepdims)[1]


@register_lowering(numpy.Std)
def deviation_operation(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return trace.pointwise(tf.sqrt, [variance_operation(operation, trace, x)], name="deviation")


@register_lowering(numpy.Any, numpy.All)
def logical_operation(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    wanted = isinstance(operation, numpy.Any)
    count = trace.pointwise(lambda t: tf.cast(tf.cast(t, tf.bool) == wanted, tf.int32), [x], dtype=tf.int32)
    over = _over(operation, x)
    found = reductions.total(trace, count, over, keepdims=operation.keepdims)
    return trace.pointwise(lambda n: (n > 0) == wanted, [found], dtype=tf.bool)


@register_lowering(nn.Moments)
def moments_operation(operation, trace: Trace, x: SpatialTensor) -> tuple[SpatialTensor, SpatialTensor]:
    over = reductions.normalized_axes(operation.axes, x.ndim)
    return reductions.moments(trace, x, over, keepdims=operation.keepdims)


@register_lowering(math.Logsumexp)
def log_sum_exp_operation(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    over = _over(operation, x)
    _, sums, largest = reductions.exponentials(trace, x, over)
    y = trace.pointwise(
        lambda s, m: tf.math.log(tf.where(s == 0, tf.ones_like(s), s)) + tf.stop_gradient(m),
        [sums, largest],
        name=operation.name,
    )
    if operation.keepdims:
        return y
    return trace.reduced(lambda t: tf.squeeze(t, over), [y], reductions.reduced_axes(x, over, False))


@register_lowering(nn.Softmax)
def softmax_operation(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    over = _over(operation, x)
    if any(x.axes[i].split for i in over):
        return reductions.softmax(trace, x, over, name=operation.name)
    return trace.pointwise(operation.call, [x], name=operation.name)


@register_lowering(nn.LogSoftmax, numpy.Argmax, numpy.Argmin, math.TopK, numpy.Cumsum, numpy.Sort, nn.Glu)
def along_one_axis(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor | tuple[SpatialTensor, ...]:
    """Operations along one axis that may be of channels, or of any other axis that the layout leaves whole."""
    axis = getattr(operation, "axis", -1)
    if axis is None or isinstance(axis, (tuple, list)) or x.axes[axis].split:
        raise ValueError(
            f"{type(operation).__name__} is partitioned along the channels or another axis that the layout leaves "
            f"whole. Received: axis={axis} of a tensor with the axes {[a.name for a in x.axes]}"
        )
    specs = tree.flatten(operation.compute_output_spec(keras.KerasTensor(x.shape, dtype=x.dtype.name)))
    removed = len(specs[0].shape) < x.ndim
    index = axis % x.ndim
    outputs = []
    for spec in specs:
        axes = [a for i, a in enumerate(x.axes) if not (removed and i == index)]
        if not removed:
            axes[index] = Axis(axes[index].name, spec.shape[index])
        outputs.append((tuple(axes), tf.as_dtype(spec.dtype)))
    results = trace.local(lambda t: tuple(tree.flatten(operation.call(t))), [x], outputs, name=operation.name)
    return results[0] if len(results) == 1 else tuple(results)


@register_lowering(nn.Normalize)
def normalize_operation(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    if operation.order not in (2, "euclidean"):
        raise ValueError(f"A partitioned normalize has order=2. Received: order={operation.order}")
    x = _as_float(trace, x)
    epsilon = operation.epsilon if operation.epsilon is not None else backend.epsilon()
    squares = trace.pointwise(tf.square, [x], name="squares")
    sums = reductions.total(trace, squares, _over(operation, x), keepdims=True)
    return trace.pointwise(lambda t, s: t * tf.math.rsqrt(tf.maximum(s, epsilon**2)), [x, sums], name=operation.name)


@register_lowering(nn.LayerNorm)
def layer_norm_operation(operation, trace: Trace, x: SpatialTensor, gamma=None, beta=None) -> SpatialTensor:
    epsilon = operation.epsilon if operation.epsilon is not None else backend.epsilon()
    rms = operation.rms_scaling
    return normalization.normalized_over(
        trace, x, operation.axis, gamma, beta, epsilon, rms_scaling=rms, name=operation.name
    )


# Windowed operations: the rules of the layers that do the same.


@register_lowering(nn.MaxPool)
def max_pool_operation(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return pooling.max_pooling(_pooling_arguments(operation), trace, x)


@register_lowering(nn.AveragePool)
def average_pool_operation(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return pooling.average_pooling(_pooling_arguments(operation), trace, x)


def _pooling_arguments(operation) -> SimpleNamespace:
    return SimpleNamespace(
        name=operation.name,
        pool_size=operation.pool_size,
        strides=operation.pool_size if operation.strides is None else operation.strides,
        padding=operation.padding,
        data_format=_data_format(operation),
    )


def _data_format(operation) -> str:
    return operation.data_format or keras.config.image_data_format()


@register_lowering(nn.AdaptiveAveragePool)
def adaptive_average_pool_operation(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return pooling.adaptive_average_pooling(_adaptive_arguments(operation, x), trace, x)


@register_lowering(nn.AdaptiveMaxPool)
def adaptive_max_pool_operation(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return pooling.adaptive_max_pooling(_adaptive_arguments(operation, x), trace, x)


def _adaptive_arguments(operation, x: SpatialTensor) -> SimpleNamespace:
    return SimpleNamespace(
        output_size=convolutional.per_axis(operation.output_size, x.ndim - 2),
        data_format=_data_format(operation),
    )


@register_lowering(nn.Conv)
def conv_operation(operation, trace: Trace, x: SpatialTensor, kernel) -> SpatialTensor:
    arguments = _convolution_arguments(operation, x, kernel)
    arguments.filters = kernel.shape[-1]
    return convolutional.convolution(arguments, trace, x)


@register_lowering(nn.DepthwiseConv)
def depthwise_conv_operation(operation, trace: Trace, x: SpatialTensor, kernel) -> SpatialTensor:
    arguments = _convolution_arguments(operation, x, kernel)
    arguments.depth_multiplier = kernel.shape[-1]
    return convolutional.depthwise_convolution(arguments, trace, x)


def _convolution_arguments(operation, x: SpatialTensor, kernel) -> SimpleNamespace:
    if not isinstance(kernel, keras.Variable):
        raise ValueError(
            "The kernel of a partitioned convolution must be a variable; make it a layer's, and register a lowering "
            f"for the layer where it is computed. Received: {type(kernel).__name__}"
        )
    rank = x.ndim - 2
    return SimpleNamespace(
        name=operation.name,
        rank=rank,
        kernel=kernel,
        kernel_size=tuple(kernel.shape[:rank]),
        strides=convolutional.per_axis(operation.strides, rank),
        dilation_rate=convolutional.per_axis(operation.dilation_rate, rank),
        padding=operation.padding,
        data_format=_data_format(operation),
        compute_dtype=x.dtype.name,
        use_bias=False,
        activation=None,
    )


@register_lowering(image.Resize)
def resize_operation(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    if operation.crop_to_aspect_ratio or operation.pad_to_aspect_ratio:
        raise ValueError("A partitioned resize neither crops nor pads to the aspect ratio: do so before it.")
    first = operation.data_format == "channels_first"
    y = to_channels_last(trace, x) if first else x
    dtype = y.dtype
    if not dtype.is_floating and operation.interpolation != "nearest":
        y = trace.cast(y, tf.float32)
    y = resized(trace, y, operation.size, operation.interpolation, operation.antialias)
    if dtype.is_integer and y.dtype != dtype:
        limits = dtype.limits
        y = trace.pointwise(lambda t: tf.cast(tf.clip_by_value(tf.round(t), *limits), dtype), [y], dtype=dtype)
    return to_channels_first(trace, y) if first else y
