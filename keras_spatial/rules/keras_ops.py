"""`keras.ops` in functional models: pointwise, reducing and windowed operations."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import backend, tree

from keras_spatial.engine.tensors import SpatialTensor
from keras_spatial.engine.trace import Trace
from keras_spatial.keras_private import core, image, math, nn, numpy
from keras_spatial.rules import convolution, normalization, pooling, reductions
from keras_spatial.rules.broadcasting import check_sum
from keras_spatial.rules.formats import in_either_format, to_channels_first, to_channels_last
from keras_spatial.rules.reshaping import resized
from keras_spatial.rules.table import register_lowering
from keras_spatial.rules.weights import variable_tensor

_POINTWISE = {
    numpy: """Absolute Abs Angle Conjugate Fabs I0 Imag Isreal Real Select
        Add Arccos Arccosh Arcsin Arcsinh Arctan Arctan2 Arctanh BitwiseAnd BitwiseInvert
        BitwiseNot BitwiseOr BitwiseXor BitwiseLeftShift LeftShift BitwiseRightShift RightShift Cbrt Ceil
        Clip Copy Cos Cosh Deg2rad Rad2deg Digitize Equal Exp Exp2 Expm1 Floor FloorDivide Fmax Fmin Fmod
        FullLike Gcd Greater GreaterEqual Heaviside Hypot Isclose Isfinite Isinf Isnan Isneginf Isposinf Lcm
        Ldexp Less LessEqual Log Log10 Log1p Log2 Logaddexp Logaddexp2 LogicalAnd LogicalNot LogicalOr
        LogicalXor Maximum Minimum Mod NanToNum Negative Nextafter NotEqual OnesLike ZerosLike Power
        Reciprocal Round Sign Signbit Sin Sinc Sinh Sqrt Square Subtract Multiply Divide DivideNoNan Tan
        Tanh TrueDivide Trunc Where""",
    nn: """Relu Relu6 Sigmoid SparseSigmoid Softplus Softsign SoftShrink SparsePlus Silu Squareplus LogSigmoid LeakyRelu
        HardSigmoid HardSilu Polar Elu Selu Gelu Celu TanhShrink HardTanh HardShrink Threshold""",
    math: "Rsqrt Erf Erfc Erfinv",
    core: "Cast SaturateCast StopGradient",
}
POINTWISE = tuple(getattr(module, name) for module, names in _POINTWISE.items() for name in names.split())

# These and their derivatives are finite for any values beyond the logical size, where a gradient of 0 is multiplied by
# the derivative. The operands of all other operations are filled there.
_FINITE = {
    numpy: """Absolute Abs Add Angle Arctan Arcsinh BitwiseAnd BitwiseInvert BitwiseNot BitwiseOr BitwiseXor
        BitwiseLeftShift LeftShift BitwiseRightShift RightShift Ceil Clip Conjugate Copy Cos Deg2rad Digitize Equal Fabs
        Floor Fmax Fmin FullLike Gcd Greater GreaterEqual Heaviside Imag Isclose Isfinite Isinf Isnan Isneginf Isposinf
        Isreal Lcm Less LessEqual LogicalAnd LogicalNot LogicalOr LogicalXor Maximum Minimum Multiply NanToNum Negative
        NotEqual OnesLike Rad2deg Real Round Select Sign Signbit Sin Square Subtract Tanh Trunc Where ZerosLike""",
    nn: """Relu Relu6 Sigmoid SparseSigmoid Softplus Softsign SoftShrink SparsePlus Silu LogSigmoid LeakyRelu
        HardSigmoid HardSilu Elu Selu Gelu Celu TanhShrink HardTanh HardShrink Threshold""",
    math: "Erf Erfc",
    core: "Cast SaturateCast StopGradient",
}
FINITE = tuple(getattr(module, name) for module, names in _FINITE.items() for name in names.split())


@register_lowering(*POINTWISE)
def pointwise_operation(operation, trace: Trace, *args: Any, **kwargs: Any) -> SpatialTensor:
    """Lower any elementwise operation on tensors, variables, arrays and numbers that broadcast against each other."""
    if names := hidden_arrays(operation):
        raise ValueError(
            f"{type(operation).__name__} with an array as {names} is not partitioned, because its elements may belong "
            "to voxels. Use operations that take both as tensors, such as keras.ops.minimum and keras.ops.maximum"
        )
    tensors = [t for t in tree.flatten((args, kwargs)) if _is_operand(t)]
    operands = [as_operand(trace, t) for t in tensors]
    dtype = _result_dtype(operation, args, kwargs, operands)
    if dtype.is_complex or any(x.dtype.is_complex for x in operands):
        raise ValueError(
            f"{type(operation).__name__} computes with complex numbers, which have no gradients on a mesh: keep the "
            f"real and imaginary parts as channels. Received: {dtype.name}"
        )

    if not isinstance(operation, FINITE):
        operands = [trace.filled(x, 1.0) if x.dtype.is_floating else x for x in operands]
    call = operation.call
    if isinstance(operation, numpy.Add):
        check_sum(*(t.shape if _is_operand(t) else () for t in (*args, *kwargs.values())))
        call = _plain_sum(dtype)

    def on_shards(*shards: tf.Tensor) -> tf.Tensor:
        remaining = iter(shards)
        local_args, local_kwargs = tree.map_structure(
            lambda t: next(remaining) if _is_operand(t) else t, (args, kwargs)
        )
        return tf.cast(call(*local_args, **local_kwargs), dtype)

    return trace.pointwise(on_shards, operands, dtype=dtype, name=operation.name)


def hidden_arrays(operation: keras.Operation) -> list[str]:
    """The attributes of an elementwise operation that may differ from voxel to voxel, such as limits of `ops.clip`."""
    if isinstance(operation, numpy.Digitize):
        return []
    values = {name: value for name, value in vars(operation).items() if not name.startswith("_")}
    kinds = (list, tuple, np.ndarray, tf.Tensor, keras.Variable)
    return [name for name, value in values.items() if isinstance(value, kinds) and np.size(value) > 1]


def _plain_sum(dtype: tf.DType) -> Callable[[Any, Any], tf.Tensor]:
    """A sum by broadcasting. Keras's own may treat an operand as a bias because of the size of a shard."""
    return lambda x1, x2: tf.add(*(keras.ops.convert_to_tensor(x, dtype.name) for x in (x1, x2)))


@register_lowering(core.ConvertToTensor)
def convert_operation(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return x if operation.dtype is None else trace.cast(x, operation.dtype)


@register_lowering(nn.CategoricalCrossentropy, nn.SparseCategoricalCrossentropy, nn.BinaryCrossentropy)
def crossentropy_operation(operation, trace: Trace, target, output: SpatialTensor) -> SpatialTensor:
    """A cross-entropy works element by element, or along the channels."""
    target = as_operand(trace, target)
    if isinstance(operation, nn.BinaryCrossentropy):
        return trace.pointwise(operation.call, [target, output], dtype=output.dtype, name=operation.name)
    i = operation.axis % output.ndim
    if i != output.ndim - 1:
        raise ValueError(f"A partitioned cross-entropy needs its classes last. Received: axis={operation.axis}")
    output = trace.whole(output, [i])
    lead = output.axes[:-1]
    target = trace.reshard(target, [*lead, *target.axes[len(lead) :]])
    return trace.reduced(operation.call, [target, output], lead, dtype=output.dtype, name=operation.name)


def _result_dtype(operation, args: Any, kwargs: Any, operands: list[SpatialTensor]) -> tf.DType:
    """The dtype of the operation's result on a single element, since Keras predicts float32 wrongly for some."""
    with tf.init_scope():
        elements = iter(tf.ones([1] * x.ndim, x.dtype) for x in operands)
        args, kwargs = tree.map_structure(lambda t: next(elements) if _is_operand(t) else t, (args, kwargs))
        return tf.convert_to_tensor(operation.call(*args, **kwargs)).dtype


def _is_operand(value: Any) -> bool:
    if isinstance(value, (SpatialTensor, keras.Variable)):
        return True
    return isinstance(value, (np.ndarray, tf.Tensor)) and value.ndim > 0


def as_operand(trace: Trace, value: Any) -> SpatialTensor:
    """A tensor of the model unchanged, or a variable or an array, replicated."""
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
    # For integers the complement, which reverses the order of unsigned integers and of the lowest one, too.
    reverse = tf.bitwise.invert if x.dtype.is_integer else tf.negative
    reversed_x = trace.pointwise(reverse, [x], name="reversed")
    largest = reductions.maximum(trace, reversed_x, _over(operation, x), keepdims=operation.keepdims)
    return trace.pointwise(reverse, [largest], name="minimum")


def _refuse_initial(operation) -> None:
    if getattr(operation, "initial", None) is not None:
        raise ValueError(
            f"A partitioned maximum or minimum cannot have an initial value. Received: {operation.initial}"
        )


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
    if any(x.axes[i].sharded for i in over):
        return reductions.softmax(trace, x, over, name=operation.name)
    return trace.pointwise(operation.call, [x], name=operation.name)


@register_lowering(nn.Normalize)
def normalize_operation(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    if operation.order not in (2, "euclidean"):
        raise ValueError(f"A partitioned normalize must have order=2. Received: order={operation.order}")
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


# Windowed operations use the rules of the layers that do the same.


@register_lowering(nn.MaxPool)
@in_either_format
def max_pool_operation(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return pooling.maxima(trace, x, pooling.Pooling.of(operation, x.ndim - 2), operation.name)


@register_lowering(nn.AveragePool)
@in_either_format
def average_pool_operation(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return pooling.averages(trace, x, pooling.Pooling.of(operation, x.ndim - 2), operation.name)


@register_lowering(nn.AdaptiveAveragePool)
@in_either_format
def adaptive_average_pool_operation(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return pooling.adaptive_averages(trace, x, convolution.per_axis(operation.output_size, x.ndim - 2))


@register_lowering(nn.AdaptiveMaxPool)
@in_either_format
def adaptive_max_pool_operation(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return pooling.adaptive_maxima(trace, x, convolution.per_axis(operation.output_size, x.ndim - 2))


@register_lowering(nn.Conv)
@in_either_format
def conv_operation(operation, trace: Trace, x: SpatialTensor, kernel) -> SpatialTensor:
    def function(padding: str, shard: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        kernel = tf.cast(kernel, shard.dtype)
        return keras.ops.conv(shard, kernel, operation.strides, padding, "channels_last", operation.dilation_rate)

    return _convolved(operation, trace, x, [kernel], function, kernel.shape[-1])


@register_lowering(nn.DepthwiseConv)
@in_either_format
def depthwise_conv_operation(operation, trace: Trace, x: SpatialTensor, kernel) -> SpatialTensor:
    def function(padding: str, shard: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        kernel = tf.cast(kernel, shard.dtype)
        return keras.ops.depthwise_conv(
            shard, kernel, operation.strides, padding, "channels_last", operation.dilation_rate
        )

    return _convolved(operation, trace, x, [kernel], function, kernel.shape[-1] * kernel.shape[-2])


@register_lowering(nn.SeparableConv)
@in_either_format
def separable_conv_operation(operation, trace: Trace, x: SpatialTensor, depthwise, pointwise) -> SpatialTensor:
    def function(padding: str, shard: tf.Tensor, *kernels: tf.Tensor) -> tf.Tensor:
        first, second = (tf.cast(kernel, shard.dtype) for kernel in kernels)
        return keras.ops.separable_conv(
            shard, first, second, operation.strides, padding, "channels_last", operation.dilation_rate
        )

    return _convolved(operation, trace, x, [depthwise, pointwise], function, pointwise.shape[-1])


def _convolved(operation, trace: Trace, x: SpatialTensor, kernels: list, function, channels: int) -> SpatialTensor:
    rank = x.ndim - 2
    what = convolution.Convolution(
        tuple(kernels[0].shape[:rank]),
        convolution.per_axis(operation.strides, rank),
        convolution.per_axis(operation.dilation_rate, rank),
        operation.padding,
        channels,
    )
    return convolution.convolve(trace, x, what, function, [_kernel(trace, k) for k in kernels], operation.name)


@register_lowering(nn.ConvTranspose)
@in_either_format
def conv_transpose_operation(operation, trace: Trace, x: SpatialTensor, kernel) -> SpatialTensor:
    rank, surplus = x.ndim - 2, operation.output_padding
    what = convolution.TransposedConvolution(
        tuple(kernel.shape[:rank]),
        convolution.per_axis(operation.strides, rank),
        convolution.per_axis(operation.dilation_rate, rank),
        operation.padding,
        None if surplus is None else convolution.per_axis(surplus, rank),
        kernel.shape[-2],
    )
    return convolution.convolve_transposed(trace, x, what, _kernel(trace, kernel), operation.name)


def _kernel(trace: Trace, kernel: Any) -> convolution.Weight:
    """A variable unchanged, or a constant or computed kernel, replicated."""
    if isinstance(kernel, keras.Variable):
        return kernel
    operand = as_operand(trace, kernel)
    return trace.whole(operand, range(operand.ndim))


@register_lowering(image.Resize)
def resize_operation(operation, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    if operation.crop_to_aspect_ratio or operation.pad_to_aspect_ratio:
        raise ValueError("A partitioned resize cannot crop or pad to the aspect ratio: crop or pad before it.")
    first = operation.data_format == "channels_first"
    y = to_channels_last(trace, x) if first else x
    dtype = y.dtype
    if not dtype.is_floating and operation.interpolation != "nearest":
        y = trace.cast(y, tf.float32)
    # A `call` that computes sizes with keras.ops passes them as tensors.
    y = resized(trace, y, [int(n) for n in operation.size], operation.interpolation, operation.antialias)
    if dtype.is_integer and y.dtype != dtype:
        limits = dtype.limits
        y = trace.pointwise(lambda t: tf.cast(tf.clip_by_value(tf.round(t), *limits), dtype), [y], dtype=dtype)
    return to_channels_first(trace, y) if first else y
