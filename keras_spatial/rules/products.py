"""Products of tensors over named indices: matrix products, dot products, Einstein sums, dense layers."""

from collections.abc import Sequence

import tensorflow as tf
from keras import layers

from keras_spatial.engine.reshard import permuted
from keras_spatial.engine.tensors import SpatialTensor
from keras_spatial.engine.trace import Trace
from keras_spatial.keras_private import raw_kernel
from keras_spatial.layout import Axis
from keras_spatial.rules import reductions
from keras_spatial.rules.pointwise import apply_activation
from keras_spatial.rules.reshaping import reshaped
from keras_spatial.rules.table import register_lowering
from keras_spatial.rules.weights import variable_tensor

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def einsum(trace: Trace, equation: str, tensors: Sequence[SpatialTensor], name: str = "einsum") -> SpatialTensor:
    """`tf.einsum` over the mesh.

    Every index keeps the shards of one of its operands, and sums over sharded indices are all-reduced. If two indices
    are sharded over the same mesh axis, the second is gathered on every device, as are the keys of an attention over
    voxels.

    Args:
        trace: the trace of the step.
        equation: an equation without repeated indices within one operand; `...` stands for leading axes. Without `->`,
            the result has the indices that occur once, ordered as in the operands, which is the order that Keras gives
            them.
        tensors: the operands.
        name: a name for the graph.
    """
    operands, result = _indices(equation, [x.ndim for x in tensors])
    axes: dict[str, Axis] = {}
    for letter in [*result, *(letter for operand in operands for letter in operand if letter not in result)]:
        known = [x.axes[o.index(letter)] for o, x in zip(operands, tensors, strict=True) if letter in o]
        best = max(known, key=lambda axis: (axis.size, axis.sharded))
        taken = {axis.name for axis in axes.values() if axis.sharded}
        axes[letter] = Axis(best.name, best.size) if best.sharded and best.name in taken else best
    aligned, spread = [], []
    for operand, x in zip(operands, tensors, strict=True):
        # An axis of size 1 that broadcasts along a longer one, such as the single head of keys that all heads of
        # queries share, is left out of the product.
        spread.append([i for i, letter in enumerate(operand) if x.shape[i] != axes[letter].size])
        target = [x.axes[i].whole(1) if i in spread[-1] else axes[letter] for i, letter in enumerate(operand)]
        aligned.append(trace.reshard(x, _distinct(target)))
    used = [
        "".join(o for i, o in enumerate(operand) if i not in s) for operand, s in zip(operands, spread, strict=True)
    ]

    def product(*shards: tf.Tensor) -> tf.Tensor:
        shards = tuple(tf.squeeze(t, s) if s else t for t, s in zip(shards, spread, strict=True))
        return tf.einsum(",".join(used) + "->" + result, *shards)

    return trace.reduced(product, aligned, _distinct([axes[letter] for letter in result]), name=name)


def _indices(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """The operands and the result of an equation, with unused letters in place of `...`."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    if not arrow:
        letters = left.replace("...", "").replace(",", "")
        once = [letter for letter in letters if letters.count(letter) == 1]
        right = ("..." if "..." in left else "") + "".join(once)
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
    """The axes with unique names: whole axes whose name is taken get another one."""
    names: set[str] = {axis.name for axis in axes if axis.sharded}
    result = []
    for i, axis in enumerate(axes):
        if not axis.sharded and axis.name in names:
            axis = Axis(f"axis{i}", axis.size)
        names.add(axis.name)
        result.append(axis)
    return result


def matmul(trace: Trace, a: SpatialTensor, b: SpatialTensor, name: str = "matmul") -> SpatialTensor:
    """`keras.ops.matmul`."""
    if a.ndim == 1 or b.ndim == 1:
        left = "i" if a.ndim == 1 else "...i"
        return einsum(trace, f"{left},i->{left[:-1]}" if b.ndim == 1 else "i,...ij->...j", [a, b], name)
    return einsum(trace, "...ij,...jk->...ik", [a, b], name)


@register_lowering(layers.EinsumDense)
def einsum_dense(layer, trace: Trace, x: SpatialTensor) -> SpatialTensor:
    if getattr(layer, "lora_enabled", False):
        raise ValueError(
            f"Layer '{layer.name}': LoRA on EinsumDense cannot be partitioned. LoRA on Dense and Conv can."
        )
    y = einsum(trace, layer.equation, [x, trace.cast(variable_tensor(trace, raw_kernel(layer)), x.dtype)], layer.name)
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
    # Keras treats the first axes as batches and takes the outer product of the remaining ones.
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
