"""Layers for volumes and for series."""

from keras import layers as L

import keras_spatial as ks

INFERENCE_3D = {
    "Conv3D": {
        "conv": lambda: L.Conv3D(3, 3, padding="same", activation="relu"),
        "conv-valid": lambda: L.Conv3D(3, (3, 2, 1), padding="valid"),
        "conv-strided": lambda: L.Conv3D(3, 3, strides=2, padding="same"),
        "conv-dilated": lambda: L.Conv3D(3, 3, dilation_rate=2, padding="same"),
    },
    "Conv3DTranspose": {
        "transposed-2-2": lambda: L.Conv3DTranspose(3, 2, strides=2, padding="same"),
        "transposed-3-2": lambda: L.Conv3DTranspose(3, 3, strides=2, padding="same"),
    },
    "MaxPooling3D": {
        "max-pool": lambda: L.MaxPooling3D(2),
        "max-pool-overlapping": lambda: L.MaxPooling3D(3, strides=2, padding="same"),
    },
    "AveragePooling3D": {
        "average-pool": lambda: L.AveragePooling3D(2, padding="same"),
    },
    "UpSampling3D": {
        "up-sampling": lambda: L.UpSampling3D(2),
    },
    "GlobalAveragePooling3D": {
        "global-average": lambda: L.GlobalAveragePooling3D(),
    },
    "GlobalMaxPooling3D": {
        "global-max": lambda: L.GlobalMaxPooling3D(),
    },
    "AdaptiveAveragePooling3D": {
        "adaptive-average": lambda: L.AdaptiveAveragePooling3D((4, 2, 3)),
    },
    "AdaptiveMaxPooling3D": {
        "adaptive-max": lambda: L.AdaptiveMaxPooling3D((4, 2, 3)),
    },
    "ZeroPadding3D": {
        "zero-padding": lambda: L.ZeroPadding3D(((1, 0), (2, 1), (0, 3))),
    },
    "Cropping3D": {
        "cropping": lambda: L.Cropping3D(((1, 2), (3, 0), (0, 1))),
    },
    "LayerNormalization": {
        "layer-norm": lambda: L.LayerNormalization(axis=[1, 2, 3, 4]),
    },
    "GroupNormalization": {
        "group-norm": lambda: L.GroupNormalization(2, gamma_initializer="uniform"),
        "instance-norm": lambda: L.GroupNormalization(-1),
    },
    "UnitNormalization": {
        "unit-norm": lambda: L.UnitNormalization(axis=[1, 4]),
    },
    "PReLU": {
        "prelu-shared": lambda: L.PReLU(alpha_initializer="uniform", shared_axes=[1, 2, 3]),
    },
    "Softmax": {
        "softmax-y": lambda: L.Softmax(axis=2),
    },
    "Permute": {
        "permute": lambda: L.Permute((3, 1, 2, 4)),
    },
    "Reshape": {
        "reshape": lambda: L.Reshape((9, 7, 10)),
    },
    "Flatten": {
        "flatten": lambda: L.Flatten(),
    },
    "TimeDistributed": {
        "time-distributed": lambda: L.TimeDistributed(L.Conv2D(3, 3, padding="same")),
    },
    "Rescaling": {
        "rescaling": lambda: L.Rescaling(2.0, offset=-1.0),
    },
    "Resizing3D": {
        "resizing": lambda: ks.layers.Resizing3D((13, 4, 20)),
        "resizing-average": lambda: ks.layers.Resizing3D((3, 7, 3), antialias=True),
        "resizing-nearest": lambda: ks.layers.Resizing3D((4, 17, 10), interpolation="nearest"),
    },
    "CenterCrop3D": {
        "center-crop": lambda: ks.layers.CenterCrop3D((5, 7, 4)),
    },
    "RandomCrop3D": {
        "random-crop-inference": lambda: ks.layers.RandomCrop3D((5, 7, 4)),
    },
}

TRAINING_3D = {
    "BatchNormalization": {
        "batch-norm": lambda: L.BatchNormalization(),
    },
}

INFERENCE_1D = {
    "Conv1D": {
        "conv": lambda: L.Conv1D(4, 3, padding="same"),
        "conv-causal": lambda: L.Conv1D(4, 3, padding="causal", dilation_rate=2),
    },
    "DepthwiseConv1D": {
        "depthwise": lambda: L.DepthwiseConv1D(3, padding="same"),
    },
    "SeparableConv1D": {
        "separable": lambda: L.SeparableConv1D(4, 3, padding="same"),
    },
    "Conv1DTranspose": {
        "transposed": lambda: L.Conv1DTranspose(4, 3, strides=2, padding="same"),
    },
    "MaxPooling1D": {
        "max-pool": lambda: L.MaxPooling1D(3, strides=2, padding="same"),
    },
    "AveragePooling1D": {
        "average-pool": lambda: L.AveragePooling1D(2),
    },
    "UpSampling1D": {
        "up-sampling": lambda: L.UpSampling1D(2),
    },
    "GlobalMaxPooling1D": {
        "global-max": lambda: L.GlobalMaxPooling1D(),
    },
    "GlobalAveragePooling1D": {
        "global-average": lambda: L.GlobalAveragePooling1D(),
    },
    "AdaptiveAveragePooling1D": {
        "adaptive-average": lambda: L.AdaptiveAveragePooling1D(5),
    },
    "AdaptiveMaxPooling1D": {
        "adaptive-max": lambda: L.AdaptiveMaxPooling1D(5),
    },
    "ZeroPadding1D": {
        "zero-padding": lambda: L.ZeroPadding1D((2, 1)),
    },
    "Cropping1D": {
        "cropping": lambda: L.Cropping1D((2, 1)),
    },
}
