"""`data_format="channels_first"`: channels-last rules between two permutations, which move no data between devices."""

import functools
from collections.abc import Callable

import keras

from keras_spatial.engine.reshard import permuted, whole
from keras_spatial.engine.tensors import SpatialTensor
from keras_spatial.engine.trace import Trace


def in_either_format(lower: Callable) -> Callable:
    """Make a rule for channels-last images also serve layers and operations with `data_format="channels_first"`.

    Operations of `keras.ops` without a `data_format` use Keras's default.
    """

    @functools.wraps(lower)
    def either(layer, trace: Trace, x: SpatialTensor, *args, **kwargs):
        if (layer.data_format or keras.config.image_data_format()) != "channels_first":
            return lower(layer, trace, whole(trace, x, [x.ndim - 1]), *args, **kwargs)
        y = lower(layer, trace, to_channels_last(trace, whole(trace, x, [1])), *args, **kwargs)
        return to_channels_first(trace, y) if y.ndim == x.ndim else y

    return either


def to_channels_last(trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return permuted(trace, x, (0, *range(2, x.ndim), 1))


def to_channels_first(trace: Trace, x: SpatialTensor) -> SpatialTensor:
    return permuted(trace, x, (0, x.ndim - 1, *range(1, x.ndim - 1)))
