"""Layers for 2D images, each in configurations with different halos, strides and axes."""

import keras
from keras import layers as L

INFERENCE = {
    "Conv2D": {
        "conv": lambda: L.Conv2D(4, 3, padding="same", activation="relu"),
        "conv-valid": lambda: L.Conv2D(4, 3, padding="valid"),
        "conv-even-kernel": lambda: L.Conv2D(4, (4, 2), padding="same"),
        "conv-wide-kernel": lambda: L.Conv2D(2, (9, 7), padding="same"),
        "conv-strided": lambda: L.Conv2D(4, 3, strides=2, padding="same"),
        "conv-strided-valid": lambda: L.Conv2D(4, 3, strides=2, padding="valid"),
        "conv-stride-3": lambda: L.Conv2D(4, 5, strides=(3, 2), padding="same"),
        "conv-stride-over-kernel": lambda: L.Conv2D(4, 1, strides=2, padding="same"),
        "conv-dilated": lambda: L.Conv2D(4, 3, dilation_rate=2, padding="same"),
        "conv-grouped": lambda: L.Conv2D(6, 3, groups=3, padding="same"),
        "conv-pointwise": lambda: L.Conv2D(5, 1, use_bias=False),
    },
    "DepthwiseConv2D": {
        "depthwise": lambda: L.DepthwiseConv2D(3, padding="same", depth_multiplier=2),
        "depthwise-strided": lambda: L.DepthwiseConv2D(3, strides=2, padding="same"),
    },
    "SeparableConv2D": {
        "separable": lambda: L.SeparableConv2D(4, 3, padding="same"),
    },
    "Conv2DTranspose": {
        "transposed-2-2": lambda: L.Conv2DTranspose(4, 2, strides=2, padding="same"),
        "transposed-3-2": lambda: L.Conv2DTranspose(4, 3, strides=2, padding="same"),
        "transposed-4-2": lambda: L.Conv2DTranspose(4, 4, strides=2, padding="same"),
        "transposed-5-3": lambda: L.Conv2DTranspose(2, 5, strides=3, padding="same"),
        "transposed-3-1": lambda: L.Conv2DTranspose(4, 3, strides=1, padding="same"),
        "transposed-valid": lambda: L.Conv2DTranspose(4, 3, strides=2, padding="valid"),
        "transposed-output-padding": lambda: L.Conv2DTranspose(4, 3, strides=2, padding="same", output_padding=1),
    },
    "MaxPooling2D": {
        "max-pool": lambda: L.MaxPooling2D(2),
        "max-pool-same": lambda: L.MaxPooling2D(2, padding="same"),
        "max-pool-overlapping": lambda: L.MaxPooling2D(3, strides=2, padding="same"),
        "max-pool-overlapping-valid": lambda: L.MaxPooling2D(3, strides=1, padding="valid"),
    },
    "AveragePooling2D": {
        "average-pool": lambda: L.AveragePooling2D(2),
        "average-pool-same": lambda: L.AveragePooling2D(2, padding="same"),
        "average-pool-overlapping": lambda: L.AveragePooling2D(3, strides=2, padding="same"),
        "average-pool-overlapping-valid": lambda: L.AveragePooling2D(3, strides=2, padding="valid"),
    },
    "UpSampling2D": {
        "up-sampling": lambda: L.UpSampling2D((2, 3)),
        "up-sampling-bilinear": lambda: L.UpSampling2D(2, interpolation="bilinear"),
        "up-sampling-bicubic": lambda: L.UpSampling2D((3, 2), interpolation="bicubic"),
        "up-sampling-lanczos": lambda: L.UpSampling2D(2, interpolation="lanczos5"),
    },
    "GlobalAveragePooling2D": {
        "global-average": lambda: L.GlobalAveragePooling2D(),
        "global-average-keepdims": lambda: L.GlobalAveragePooling2D(keepdims=True),
    },
    "GlobalMaxPooling2D": {
        "global-max": lambda: L.GlobalMaxPooling2D(),
    },
    "ReLU": {
        "relu": lambda: L.ReLU(max_value=1.0, negative_slope=0.1),
    },
    "LeakyReLU": {
        "leaky-relu": lambda: L.LeakyReLU(0.1),
    },
    "PReLU": {
        "prelu": lambda: L.PReLU(alpha_initializer="uniform"),
        "prelu-shared": lambda: L.PReLU(alpha_initializer="uniform", shared_axes=[1, 2]),
        "prelu-x": lambda: L.PReLU(alpha_initializer="uniform", shared_axes=[2]),
    },
    "Softmax": {
        "softmax": lambda: L.Softmax(),
        "softmax-image": lambda: L.Softmax(axis=[1, 2]),
        "softmax-x": lambda: L.Softmax(axis=1),
    },
    "Activation": {
        "activation": lambda: L.Activation("gelu"),
    },
    "Dense": {
        "dense": lambda: L.Dense(4, activation="tanh"),
    },
    "AdaptiveAveragePooling2D": {
        "adaptive-average": lambda: L.AdaptiveAveragePooling2D((5, 3)),
        "adaptive-average-many": lambda: L.AdaptiveAveragePooling2D((11, 8)),
    },
    "AdaptiveMaxPooling2D": {
        "adaptive-max": lambda: L.AdaptiveMaxPooling2D((5, 9)),
    },
    "ZeroPadding2D": {
        "zero-padding": lambda: L.ZeroPadding2D(((1, 2), (0, 3))),
        "zero-padding-wide": lambda: L.ZeroPadding2D(11),
    },
    "Cropping2D": {
        "cropping": lambda: L.Cropping2D(((1, 2), (3, 0))),
        "cropping-most": lambda: L.Cropping2D(((9, 5), (7, 2))),
    },
    "LayerNormalization": {
        "layer-norm": lambda: L.LayerNormalization(gamma_initializer="uniform", beta_initializer="uniform"),
        "layer-norm-image": lambda: L.LayerNormalization(axis=[1, 2, 3], gamma_initializer="uniform"),
        "layer-norm-rms": lambda: L.LayerNormalization(axis=[1, 3], rms_scaling=True),
    },
    "GroupNormalization": {
        "group-norm": lambda: L.GroupNormalization(3, gamma_initializer="uniform", beta_initializer="uniform"),
        "instance-norm": lambda: L.GroupNormalization(-1),
        "group-norm-one": lambda: L.GroupNormalization(1, scale=False),
    },
    "RMSNormalization": {
        "rms-norm": lambda: L.RMSNormalization(),
        "rms-norm-image": lambda: L.RMSNormalization(axis=[1, 2, 3]),
    },
    "UnitNormalization": {
        "unit-norm": lambda: L.UnitNormalization(),
        "unit-norm-image": lambda: L.UnitNormalization(axis=[1, 2]),
    },
    "ELU": {
        "elu": lambda: L.ELU(0.5),
    },
    "Identity": {
        "identity": lambda: L.Identity(),
    },
    "Flatten": {
        "flatten": lambda: L.Flatten(),
        "flatten-dense": lambda: keras.Sequential([L.Flatten(), L.Dense(5)]),
    },
    "Reshape": {
        "reshape": lambda: L.Reshape((19, 21, 3)),
        "reshape-channels": lambda: L.Reshape((21, 19, 1, 3)),
    },
    "Permute": {
        "permute": lambda: L.Permute((2, 1, 3)),
        "permute-channels": lambda: L.Permute((3, 1, 2)),
    },
    "EinsumDense": {
        "einsum-dense": lambda: L.EinsumDense("bxyc,cd->bxyd", (None, None, 4), bias_axes="d"),
        "einsum-dense-image": lambda: L.EinsumDense("bxyc,xcd->byd", (None, 4)),
    },
    "TimeDistributed": {
        "time-distributed": lambda: L.TimeDistributed(L.Conv1D(4, 3, padding="same")),
    },
    "Rescaling": {
        "rescaling": lambda: L.Rescaling(1 / 255, offset=[0.1, -0.2, 0.3]),
    },
    "Normalization": {
        "normalization": lambda: L.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 3.0]),
    },
    "Resizing": {
        "resizing": lambda: L.Resizing(25, 9),
        "resizing-nearest": lambda: L.Resizing(8, 31, interpolation="nearest"),
        "resizing-double": lambda: L.Resizing(42, 6, antialias=True),
    },
    "CenterCrop": {
        "center-crop": lambda: L.CenterCrop(12, 7),
    },
    "SpectralNormalization": {
        "spectral-norm-inference": lambda: L.SpectralNormalization(L.Conv2D(4, 3, padding="same")),
    },
    "Add": {
        "add": lambda: lambda x: L.Add()([x, x[:, :1], x]),
    },
    "Subtract": {
        "subtract": lambda: lambda x: L.Subtract()([x, L.ReLU()(x)]),
    },
    "Multiply": {
        "multiply": lambda: lambda x: L.Multiply()([x, L.GlobalAveragePooling2D(keepdims=True)(x)]),
    },
    "Average": {
        "average": lambda: lambda x: L.Average()([x, L.ReLU()(x)]),
    },
    "Maximum": {
        "maximum": lambda: lambda x: L.Maximum()([x, -x]),
    },
    "Minimum": {
        "minimum": lambda: lambda x: L.Minimum()([x, -x]),
    },
    "Concatenate": {
        "concatenate": lambda: lambda x: L.Concatenate()([x, L.ReLU()(x)]),
        "concatenate-x": lambda: lambda x: L.Concatenate(axis=1)([x, L.ReLU()(x)]),
    },
    "Dot": {
        "dot-images": lambda: lambda x: L.Dot(axes=2)([x, L.ReLU()(x)]),
        "dot-vectors": lambda: lambda x: L.Dot(axes=1, normalize=True)([x[:, 0, 0], x[:, -1, -1]]),
    },
    "RepeatVector": {
        "repeat-vector": lambda: lambda x: L.RepeatVector(3)(L.GlobalAveragePooling2D()(x)),
    },
    "Lambda": {
        "lambda": lambda: L.Lambda(lambda x: keras.ops.relu(x) * 2.0),
    },
}

TRAINING = {
    "SpectralNormalization": {
        "spectral-norm": lambda: L.SpectralNormalization(L.Conv2D(4, 3, padding="same")),
    },
    "BatchNormalization": {
        "batch-norm": lambda: L.BatchNormalization(),
        "batch-norm-no-scale": lambda: L.BatchNormalization(scale=False, momentum=0.9),
        "batch-norm-axis": lambda: L.BatchNormalization(axis=1),
    },
}
