"""The network: a plain U-Net with instance normalization, like nnU-Net's."""

from collections.abc import Sequence

import keras
from keras import layers

import keras_spatial as ks


def unet(size: tuple[int, int, int], classes: int, filters: Sequence[int]) -> ks.Model:
    """A 3D U-Net with instance normalization and strided convolutions downwards, partitioned if a distribution is set.

    Args:
        size: the number of voxels along x, y and z.
        classes: the number of channels of the output, which are logits.
        filters: the number of filters of each level, from the finest one on.
    """

    def block(x, width: int, stride: int = 1):
        for step in (stride, 1):
            x = layers.Conv3D(width, 3, strides=step, padding="same", use_bias=False)(x)
            x = layers.GroupNormalization(groups=-1)(x)
            x = layers.LeakyReLU(0.01)(x)
        return x

    inputs = keras.Input((*size, 1), name="image")
    x, skips = inputs, []
    for level, width in enumerate(filters):
        x = block(x, width, 1 if level == 0 else 2)
        skips.append(x)
    for width, skip in zip(filters[-2::-1], skips[-2::-1], strict=True):
        x = layers.Conv3DTranspose(width, 2, strides=2)(x)
        x = block(layers.Concatenate()([skip, x]), width)
    # The logits are float32 under every policy, because the loss needs their last digits.
    return ks.Model(inputs, layers.Conv3D(classes, 1, dtype="float32", name="classes")(x), name="hippocampus")
