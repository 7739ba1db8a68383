"""Attention: queries stay sharded, and every device gathers all keys and values."""

from typing import Any

import numpy as np
import tensorflow as tf
from keras import backend

from keras_spatial.engine.tensors import SpatialTensor
from keras_spatial.engine.trace import Trace
from keras_spatial.keras_private import nn
from keras_spatial.layout import Axis
from keras_spatial.rules import reductions
from keras_spatial.rules.keras_ops import as_operand
from keras_spatial.rules.products import einsum
from keras_spatial.rules.table import register_lowering


@register_lowering(nn.DotProductAttention)
def dot_product_attention(
    operation,
    trace: Trace,
    query: SpatialTensor,
    key: SpatialTensor,
    value: SpatialTensor,
    bias: Any = None,
    mask: Any = None,
    scale: float | None = None,
) -> SpatialTensor:
    """Lower an attention whose scores are computed in float32 at least, as in Keras."""
    if operation.attn_logits_soft_cap is not None:
        raise ValueError(
            "Keras ignores attn_logits_soft_cap on TensorFlow, so a partitioned attention refuses it. Received: "
            f"attn_logits_soft_cap={operation.attn_logits_soft_cap}"
        )
    dtype = tf.as_dtype(backend.result_type(*(x.dtype.name for x in (query, key, value))))
    precise = tf.as_dtype(backend.result_type(dtype.name, "float32"))
    query, key, value = (trace.cast(x, dtype) for x in (query, key, value))
    groups = query.shape[2] // key.shape[2] if key.shape[2] > 1 else 1
    if groups > 1:
        key, value = (_repeated_heads(trace, x, groups) for x in (key, value))
    # Keras's own scale is a number in float32, whatever the dtype.
    scale = float(np.float32(1.0) / np.sqrt(np.float32(key.shape[-1]))) if scale is None else scale
    scores = trace.cast(einsum(trace, "btnh,bsnh->bnts", [query, key], "scores"), precise)
    scores = trace.pointwise(lambda t: t * tf.cast(scale, t.dtype), [scores], name="scaled")
    if bias is not None:
        scores = trace.pointwise(tf.add, [scores, trace.cast(as_operand(trace, bias), precise)], name="biased")
    masks = [] if mask is None else [as_operand(trace, mask)]
    if operation.is_causal:
        masks.append(as_operand(trace, np.tri(scores.shape[2], scores.shape[3], dtype=bool)[None, None]))
    for kept in masks:
        # The value that Keras puts in place of a masked score.
        lowest = precise.min * 0.7
        scores = trace.pointwise(
            lambda t, m, lowest=lowest: tf.where(tf.cast(m, tf.bool), t, tf.cast(lowest, t.dtype)),
            [scores, kept],
            name="masked",
        )
    shares = trace.cast(reductions.softmax(trace, scores, [3]), dtype)
    return einsum(trace, "bnts,bsnh->btnh", [shares, value], operation.name)


def _repeated_heads(trace: Trace, x: SpatialTensor, groups: int) -> SpatialTensor:
    """Repeat each head of keys or values for the group of queries that share it."""
    x = trace.whole(x, [2])
    heads = Axis(x.axes[2].name, x.axes[2].size * groups)
    axes = [*x.axes[:2], heads, x.axes[3]]
    return trace.reduced(lambda t: tf.repeat(t, groups, axis=2), [x], axes, name="heads")
