"""Layers for channels-first images."""

from collections.abc import Callable

from conformance.table.statuses import IMAGE_2D, IMAGE_3D, Case
from keras import layers as L
from keras import ops as O


def _first(make: Callable, shape: tuple[int, ...], training: bool = False, **options) -> Case:
    first = (0, len(shape), *range(1, len(shape)))

    def call(x):
        y = make()(O.transpose(x, first))
        return O.transpose(y, (0, *range(2, len(first)), 1)) if len(y.shape) == len(first) else y

    return Case(call, shape, training, **options)


# TensorFlow has none of these in float64.
_SINGLE = {"dtypes": ("float32",)}


CHANNELS_FIRST = {
    "Conv2D": {
        "channels-first conv-2d": _first(
            lambda: L.Conv2D(4, 3, padding="same", data_format="channels_first"), IMAGE_2D, **_SINGLE
        )
    },
    "Conv3D": {
        "channels-first conv-3d": _first(
            lambda: L.Conv3D(4, 3, strides=2, padding="same", data_format="channels_first"), IMAGE_3D, **_SINGLE
        )
    },
    "DepthwiseConv2D": {
        "channels-first depthwise": _first(
            lambda: L.DepthwiseConv2D(3, padding="same", data_format="channels_first"), IMAGE_2D
        )
    },
    "SeparableConv2D": {
        "channels-first separable": _first(lambda: L.SeparableConv2D(4, 3, data_format="channels_first"), IMAGE_2D)
    },
    "MaxPooling2D": {
        "channels-first max-pool": _first(lambda: L.MaxPooling2D(2, data_format="channels_first"), IMAGE_2D)
    },
    "AveragePooling3D": {
        "channels-first average-pool": _first(
            lambda: L.AveragePooling3D(2, data_format="channels_first"), IMAGE_3D, **_SINGLE
        )
    },
    "GlobalMaxPooling2D": {
        "channels-first global-max": _first(lambda: L.GlobalMaxPooling2D(data_format="channels_first"), IMAGE_2D)
    },
    "GlobalAveragePooling3D": {
        "channels-first global-average": _first(
            lambda: L.GlobalAveragePooling3D(data_format="channels_first", keepdims=True), IMAGE_3D
        )
    },
    "AdaptiveAveragePooling2D": {
        "channels-first adaptive": _first(
            lambda: L.AdaptiveAveragePooling2D((5, 3), data_format="channels_first"), IMAGE_2D
        )
    },
    "UpSampling2D": {
        "channels-first up-sampling": _first(lambda: L.UpSampling2D(2, data_format="channels_first"), IMAGE_2D)
    },
    "ZeroPadding3D": {
        "channels-first zero-padding": _first(lambda: L.ZeroPadding3D(1, data_format="channels_first"), IMAGE_3D)
    },
    "Cropping2D": {"channels-first cropping": _first(lambda: L.Cropping2D(1, data_format="channels_first"), IMAGE_2D)},
    "BatchNormalization": {"channels-first batch-norm": _first(lambda: L.BatchNormalization(axis=1), IMAGE_2D, True)},
    "GroupNormalization": {"channels-first group-norm": _first(lambda: L.GroupNormalization(3, axis=1), IMAGE_2D)},
    "Flatten": {"channels-first flatten": _first(lambda: L.Flatten(data_format="channels_first"), IMAGE_2D)},
}
