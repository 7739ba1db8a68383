"""The receptive field of a network: on how much of the image the output for one voxel depends.

Intervals of voxels are followed from the output back to the input, axis by axis, for every phase of the output against
the network's strides; the widest interval is the receptive field. The edges of the image are ignored.
"""

import math
from typing import Any

import keras
from keras import layers

from keras_spatial.keras_private import functional_part, nodes_of

WHOLE = "whole"
"""The receptive field if some layer takes statistics or sums of the whole image, or attends to all of it."""

_Interval = tuple[int, int]
_POINTWISE = (
    layers.Activation, layers.ReLU, layers.LeakyReLU, layers.PReLU, layers.ELU, layers.Softmax, layers.Dropout,
    layers.SpatialDropout2D, layers.SpatialDropout3D, layers.GaussianNoise, layers.GaussianDropout,
    layers.BatchNormalization, layers.Concatenate, layers.Add, layers.Subtract, layers.Multiply, layers.Average,
    layers.Maximum, layers.Minimum, layers.Rescaling, layers.Dense, layers.Identity,
)  # fmt: skip
_CONVOLUTIONS = (layers.Conv2D, layers.Conv3D, layers.DepthwiseConv2D, layers.SeparableConv2D)
_TRANSPOSED = (layers.Conv2DTranspose, layers.Conv3DTranspose)
_POOLING = (layers.MaxPooling2D, layers.MaxPooling3D, layers.AveragePooling2D, layers.AveragePooling3D)
_UPSAMPLING = (layers.UpSampling2D, layers.UpSampling3D)
_GLOBAL = (
    layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D, layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D,
    layers.GroupNormalization, layers.LayerNormalization, layers.Flatten,
)  # fmt: skip


def receptive_field(model: keras.Model) -> tuple[int, ...] | str | None:
    """The number of input voxels along each image axis on which one output voxel may depend at inference.

    Args:
        model: functional or sequential, with one input `[batch, ..., channels]`.

    Returns:
        The sizes; `WHOLE` if the whole image counts; None if the model has a layer whose receptive field is not known.

    Example:

    ```python
    from keras_spatial.planning.receptive_field import receptive_field

    receptive_field(ks.models.UNet3D((64, 64, 64, 1), classes=3, levels=2))
    ```
    """
    graph = functional_part(model)
    if graph is None or len(graph.inputs) != 1 or len(graph.inputs[0].shape) not in (4, 5):
        return None
    nodes = _from_the_outputs(list(nodes_of(graph)))
    operations = [node.operation for node in nodes if not node.is_input]
    known = (*_POINTWISE, *_CONVOLUTIONS, *_TRANSPOSED, *_POOLING, *_UPSAMPLING, *_GLOBAL)
    if not all(isinstance(operation, known) for operation in operations):
        return None
    if any(isinstance(operation, _GLOBAL) and not _of_channels(operation) for operation in operations):
        return WHOLE
    rank = len(graph.inputs[0].shape) - 2
    return tuple(_along(graph, nodes, axis, rank) for axis in range(rank))


def _from_the_outputs(nodes: list[Any]) -> list[Any]:
    """The nodes in an order in which each comes before those whose outputs it reads."""
    maker = {id(tensor): node for node in nodes for tensor in node.output_tensors}
    ordered: dict[int, Any] = {}
    waiting = list(nodes)
    while waiting:
        node = waiting[-1]
        takes = [maker[id(t)] for t in node.arguments.keras_tensors if id(maker[id(t)]) not in ordered]
        if takes and id(node) not in ordered:
            waiting += takes
        else:
            ordered.setdefault(id(waiting.pop()), node)
    return list(ordered.values())[::-1]


def _of_channels(operation: Any) -> bool:
    """Whether a layer normalization takes its statistics only over the channels of each voxel."""
    return isinstance(operation, layers.LayerNormalization) and operation.axis in (-1, [-1])


def _along(graph: keras.Model, nodes: list[Any], axis: int, rank: int) -> int:
    strides = math.prod(_window(node.operation, axis, rank)[1] for node in nodes if not node.is_input)
    return max(_width(graph, nodes, axis, rank, phase) for phase in range(min(strides, 4096)))


def _width(graph: keras.Model, nodes: list[Any], axis: int, rank: int, phase: int) -> int:
    wanted: dict[int, _Interval] = {id(tensor): (phase, phase) for tensor in graph.outputs}
    for node in nodes:
        outputs = [wanted[id(tensor)] for tensor in node.output_tensors if id(tensor) in wanted]
        if node.is_input or not outputs:
            continue
        low, high = min(a for a, _ in outputs), max(b for _, b in outputs)
        needed = _needed(node.operation, low, high, axis, rank)
        for tensor in node.arguments.keras_tensors:
            other = wanted.get(id(tensor), needed)
            wanted[id(tensor)] = min(needed[0], other[0]), max(needed[1], other[1])
    low, high = wanted.get(id(graph.inputs[0]), (0, -1))
    return high - low + 1


def _needed(operation: Any, low: int, high: int, axis: int, rank: int) -> _Interval:
    """The voxels of a layer's input that its output from `low` to `high` depends on."""
    window, stride, up = _window(operation, axis, rank)
    if up:
        # Output o takes inputs i with o = i * stride + tap - before, for a tap of the window.
        same = getattr(operation, "padding", "valid") == "same" or isinstance(operation, _UPSAMPLING)
        before = max(window - stride, 0) // 2 if same else 0
        return -(-(low + before - window + 1) // stride), (high + before) // stride
    before = max(window - stride, 0) // 2 if getattr(operation, "padding", "valid") == "same" else 0
    return low * stride - before, high * stride - before + window - 1


def _window(operation: Any, axis: int, rank: int) -> tuple[int, int, bool]:
    """The length of the window in voxels, the stride, and whether the output is the finer grid."""
    if isinstance(operation, (*_CONVOLUTIONS, *_TRANSPOSED)):
        size, dilation = (_axis(getattr(operation, n), axis) for n in ("kernel_size", "dilation_rate"))
        return (size - 1) * dilation + 1, _axis(operation.strides, axis), isinstance(operation, _TRANSPOSED)
    if isinstance(operation, _POOLING):
        return _axis(operation.pool_size, axis), _axis(operation.strides, axis), False
    if isinstance(operation, _UPSAMPLING):
        factor = _axis(operation.size, axis)
        # Linear interpolation reads two neighbours.
        taps = 1 if getattr(operation, "interpolation", "nearest") == "nearest" else 3
        return factor * taps, factor, True
    return 1, 1, False


def _axis(value: Any, axis: int) -> int:
    return int(value) if isinstance(value, int) else int(value[axis])
