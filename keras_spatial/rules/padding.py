"""A pass over a graph of layers: padding that only windows read becomes the windows' own.

Keras's networks, and those that were ported from PyTorch, pad before a convolution or pooling with `padding="valid"`.
As a tensor of its own, an image of 512 pixels with a padding of 3 has 518 pixels, which shards no longer divide evenly,
and all later layers have to mask what lies beyond the image. As part of the window, the padding is a halo that comes
from outside the image.
"""

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

import keras
from keras import tree

from keras_spatial.engine.tensors import SpatialTensor
from keras_spatial.engine.trace import Trace
from keras_spatial.keras_private import nodes_of, output_structure
from keras_spatial.layout import Padding
from keras_spatial.rules.table import find_lowering

_PADDINGS: set[Callable] = set()
_WINDOWS: set[Callable] = set()


def adds_padding(rule: Callable) -> Callable:
    """Mark the rule of a Keras layer or operation that adds padding around images."""
    _PADDINGS.add(rule)
    return rule


def takes_padding(rule: Callable) -> Callable:
    """Mark the rule of a windowed Keras layer that takes the padding around the image as its argument `padding`."""
    _WINDOWS.add(rule)
    return rule


def folded_paddings(graph: keras.Model) -> dict[keras.Operation, Callable]:
    """The rules of those layers of a graph that are lowered differently from the table.

    A padding layer passes its input on, and the windows that read it do the padding. The layer is left alone if
    anything else reads it, if it is an output, or if it or such a window is called several times.

    Args:
        graph: a functional model.
    """
    nodes = [node for node in nodes_of(graph) if not node.is_input]
    calls = Counter(node.operation for node in nodes)
    outputs = {id(t) for t in tree.flatten(output_structure(graph))}
    readers: dict[int, list[keras.Operation]] = {}
    for node in nodes:
        for tensor in node.arguments.keras_tensors:
            readers.setdefault(id(tensor), []).append(node.operation)
    rules: dict[keras.Operation, Callable] = {}
    for node in nodes:
        if find_lowering(node.operation) not in _PADDINGS:
            continue
        (tensor,) = node.output_tensors
        windows = {window: _seen_by(window, node) for window in readers.get(id(tensor), ())}
        alone = all(calls[operation] == 1 for operation in (node.operation, *windows))
        if windows and alone and id(tensor) not in outputs and None not in windows.values():
            rules[node.operation] = _handed_on
            for window, padding in windows.items():
                rules[window] = functools.partial(_rule_of(window), padding=padding)
    return rules


def _handed_on(operation: Any, trace: Trace, x: SpatialTensor, constant_values: Any = None) -> SpatialTensor:
    return x.masked(None)


def _seen_by(window: Any, node: Any) -> Padding | None:
    """The padding that a windowed layer takes over from the layer before it; None if the padding must stay.

    Only the layer's own rule may lower it, because no other rule knows of the padding.
    """
    if find_lowering(window) not in _WINDOWS or window.padding != "valid" or window.activity_regularizer is not None:
        return None
    operation = node.operation
    if not isinstance(operation, keras.Layer):
        return _padding_of_operation(operation, node, window.data_format)
    if operation.data_format != window.data_format or operation.activity_regularizer is not None:
        return None
    return _padding([operation.padding] if isinstance(operation.padding[0], int) else operation.padding)


def _padding_of_operation(operation: Any, node: Any, data_format: str) -> Padding | None:
    """What `keras.ops.pad` adds to the image axes; None if it pads the batch or channels, or not with a constant."""
    given = node.arguments
    fill = given.args[1] if len(given.args) > 1 else given.kwargs.get("constant_values")
    fill = 0 if fill is None else fill
    widths = list(operation.pad_width)
    channels = 1 if data_format == "channels_first" else len(widths) - 1
    others = [n for i in {0, channels} for n in widths[i]]
    if operation.mode != "constant" or not isinstance(fill, (int, float)) or len(widths) < 3 or any(others):
        return None
    return _padding([pair for i, pair in enumerate(widths) if i not in (0, channels)], float(fill))


def _padding(widths: Any, fill: float = 0.0) -> Padding | None:
    pairs = tuple((int(before), int(after)) for before, after in widths)
    return Padding(pairs, fill) if all(n >= 0 for pair in pairs for n in pair) else None


def _rule_of(operation: keras.Operation) -> Callable:
    rule = find_lowering(operation)
    assert rule is not None
    return rule
