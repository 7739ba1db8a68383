"""Products of tensors over named indices: matrix products, dot products, Einstein sums, dense layers."""

import math
from collections.abc import Sequence

import tensorflow as tf
from keras import layers
from keras.src.ops import nn  # Keras exports its operations' functions, not their classes.

from keras_spatial.lowering import reductions
from keras_spatial.lowering.pointwise import apply_activation
from keras_spatial.lowering.relayout import permuted
from keras_spatial.lowering.reshaping import reshaped
from keras_spatial.lowering.table import register_lowering
from keras_spatial.lowering.tensors import Axis, SpatialTensor
from keras_spatial.lowering.trace import Trace

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def einsum(trace: Trace, equation: str, tensors: Sequence[SpatialTensor], name: str = "einsum") -> SpatialTensor:
    """`tf.einsum` over the mesh.

    Every index keeps the blocks of one of its operands, and sums over split indices are completed by the mesh. Of two
    indices that are split over the same mesh axis, the second is put together on every device, as the keys of an
    attention over voxels are.

    Args:
        trace: the trace under way.
        equation: with `->` and without repeated indices within one operand; `...` stands for leading axes.
        tensors: the operands.
    """
    operands, result = _indices(equation, [x.ndim for x in tensors])
    axes: dict[str, Axis] = {}
    for letter in [*result, *(letter for operand in operands for letter in operand if letter not in result)]:
        known = [x.axes[o.index(letter)] for o, x in zip(operands, tensors, strict=True) if letter in o]
        best = max(known, key=lambda axis: (axis.size, axis.split))
        taken = {axis.name for axis in axes.values() if axis.split}
        axes[letter] = Axis(best.name, best.size) if best.split and best.name in taken else best
    aligned, inputs = [], []
    for operand, x in zip(operands, tensors, strict=True):
        target = [
            axes[letter] if x.shape[i] == axes[letter].size else x.axes[i].whole(1) for i, letter in enumerate(operand)
        ]
        aligned.append(trace.relayout(x, _distinct(target)))
    contracted = [letter for letter in axes if letter not in result]
    masks = []
    for number, (operand, x) in enumerate(zip(operands, aligned, strict=True)):
        inside = trace.inside(x) if any(axes[letter].padded for letter in operand if letter in contracted) else None
        if inside is not None:
            masks.append(number)
            inputs.append(inside)

    def product(*values: tf.Tensor) -> tf.Tensor:
        slices = list(values[: len(aligned)])
        for number, mask in zip(masks, values[len(aligned) :], strict=True):
            slices[number] = reductions.masked(slices[number], [mask])
        return tf.einsum(",".join(operands) + "->" + result, *slices)

    return trace.reduced(product, [*aligned, *inputs], _distinct([axes[letter] for letter in result]), name=name)


def _indices(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """Operands and result of an equation, with letters of their own for `...`."""
    left, right = equation.replace(" ", "").split("->")
    operands = left.split(",")
    free = [letter for letter in _LETTERS if letter not in equation]
    extra = [rank - len(o.replace("...", "")) for o, rank in zip(operands, ranks, strict=True) if "..." in o]
    dots = "".join(free[: max(extra, default=0)])
    expanded = []
    for operand, rank in zip(operands, ranks, strict=True):
        count = rank - len(operand.replace("...", ""))
        expanded.append(operand.replace("...", dots[len(dots) - count :]) if "..." in operand else operand)
    return expanded, right.replace("...", dots)


def _distinct(axes: Sequence[Axis]) -> list[Axis]:
    """Axes whose names differ: whole ones that share a name get another."""
    names: set[str] = {axis.name for axis in axes if axis.split}
    result = []
    for i, axis in enumerate(axes):
        if not axis.split and axis.name in names:
            axis = Axis(f"axis{i}", axis.size)
        names.add(axis.name)
        result.append(axis)
    return result


def variable_tensor(trace: Trace, variable) -> SpatialTensor:
    """A Keras variable as an operand."""
    return SpatialTensor(trace.weight(variable), tuple(Axis(f"weight{i}", n) for i, n in enumerate(variable.shape)))


def matmul(trace: Trace, a: SpatialTensor, b: SpatialTensor, name: str = "matmul") -> SpatialTensor:
    """`keras.ops.matmul`."""
    if a.ndim == 1 or b.ndim == 1:
        left = "i" if a.ndim == 1 else "...i"
        return einsum(trace, f"{left},i->{left[:-1]}" if b.ndim == 1 else "i,...ij->...j", [a, b], name)
    return einsum(trace, "...ij,...jk->...ik", [a, b], name)


@register_lowering(nn.DotProductAttention)
def dot_product_attention(operation, trace: Trace, query, key, value, bias=None, mask=None, scale=None):
    """Queries stay with their devices; every device has all keys and values."""
    if bias is not None or mask is not None or operation.is_causal or operation.attn_logits_soft_cap is not None:
        raise ValueError("A partitioned attention has no bias, mask, causality or soft cap.")
    scale = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = einsum(trace, "btnh,bsnh->btns", [query, key], "scores")
    shares = reductions.softmax(trace, trace.pointwise(lambda t: t * scale, [scores], name="scaled"), [3])
    return einsum(trace, "btns,bsnh->btnh", [shares, value], operation.name)


@register_lowering(layers.EinsumDense)
def einsum_dense(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    if getattr(layer, "lora_enabled", False):
        raise ValueError(f"Layer '{layer.name}': LoRA on EinsumDense is not partitioned; on Dense and Conv it is.")
    y = einsum(trace, layer.equation, [x, trace.cast(variable_tensor(trace, layer._kernel), x.dtype)], layer.name)
    if layer.bias is not None:
        bias = trace.cast(variable_tensor(trace, layer.bias), y.dtype)
        y = trace.pointwise(tf.add, [y, bias], name=f"{layer.name}_bias")
    return apply_activation(trace, layer.activation, y)


@register_lowering(layers.Dot)
def dot(layer, trace: Trace, xs: list[SpatialTensor]) -> SpatialTensor:
    a, b = xs
    axes = (layer.axes, layer.axes) if isinstance(layer.axes, int) else tuple(layer.axes)
    over = [axis % x.ndim for axis, x in zip(axes, xs, strict=True)]
    if layer.normalize:
        a, b = (_unit(trace, x, axis) for x, axis in zip(xs, over, strict=True))
    # Keras pairs leading axes of equal number as batches and takes the outer product of the others.
    if a.ndim == 2 and b.ndim == 2:
        return _column(trace, a, b, layer.name)
    a = permuted(trace, a, [*(i for i in range(a.ndim) if i != over[0]), over[0]])
    b = permuted(trace, b, [0, over[1], *(i for i in range(1, b.ndim) if i != over[1])])
    left, right = _LETTERS[2 : 2 + a.ndim - 2], _LETTERS[12 : 12 + b.ndim - 2]
    return einsum(trace, f"a{left}b,ab{right}->a{left}{right}", [a, b], layer.name)


def _column(trace: Trace, a: SpatialTensor, b: SpatialTensor, name: str) -> SpatialTensor:
    y = einsum(trace, "bi,bi->b", [a, b], name)
    return reshaped(trace, y, (y.shape[0], 1))


def _unit(trace: Trace, x: SpatialTensor, axis: int) -> SpatialTensor:
    sums = reductions.total(trace, trace.pointwise(tf.square, [x], name="squares"), [axis], keepdims=True)
    return trace.pointwise(lambda t, s: t * tf.math.rsqrt(tf.maximum(s, 1e-12)), [x, sums], name="unit")
