"""The U-Net with a residual encoder of nnU-Net (Isensee et al., arXiv 2404.09556), in two and three dimensions."""

from collections.abc import Sequence
from typing import TypedDict, Unpack

import keras
from keras import layers

from keras_spatial.model import Model
from keras_spatial.models.arguments import KITS, check_arguments

# The number of residual blocks of each encoder level in nnU-Net's ResEnc presets; deeper levels have as many as the
# last.
_BLOCKS = (1, 3, 4, 6, 6, 6)


class ResidualUNetOptions(TypedDict, total=False):
    """The keyword arguments of `ResidualUNet2D` and `ResidualUNet3D`, which `ResidualUNet3D` describes."""

    filters: int
    most_filters: int
    levels: int
    blocks: Sequence[int] | None
    deep_supervision: bool
    dropout: float
    name: str | None


def ResidualUNet2D(input_shape: Sequence[int | None], classes: int, **options: Unpack[ResidualUNetOptions]) -> Model:
    """A 2D U-Net with a residual encoder; see `ResidualUNet3D` for its options.

    Args:
        input_shape: the shape `(x, y, channels)` of an image, in pixels.
        classes: the number of channels of the outputs.
        **options: the keyword arguments of `ResidualUNet3D`.

    Returns:
        A `ks.Model`, partitioned if a `ks.SpatialParallel` is in force.

    Raises:
        ValueError: as for `ResidualUNet3D`.

    Example:

    ```python
    model = ks.models.ResidualUNet2D((256, 256, 3), classes=2, deep_supervision=False)
    ```
    """
    return _residual_unet(2, input_shape, classes, **options)


def ResidualUNet3D(input_shape: Sequence[int | None], classes: int, **options: Unpack[ResidualUNetOptions]) -> Model:
    """A 3D U-Net whose encoder consists of residual blocks with instance normalization, with deep supervision.

    It is the network of nnU-Net's "ResEnc" presets (Isensee et al., arXiv 2404.09556). An encoder level begins with a
    strided convolution and has residual blocks of two 3³ convolutions, each followed by instance normalization, which
    makes a bias superfluous, and a leaky ReLU (slope 0.01). A decoder level is a transposed convolution and one
    convolution.

    With deep supervision, the decoder's coarser levels predict the classes too, and these predictions are repeated to
    the full resolution, so that every output is compared with the same labels. Weight their losses by 1, 1/2, 1/4, ...
    For inference take only the first output: `keras.Model(model.inputs, model.outputs[0])`.

    Args:
        input_shape: the shape `(x, y, z, channels)` of an image, in voxels.
        classes: the number of channels of the outputs, which are logits.

    Keyword Args:
        filters: the number of filters of the first level, 32 by default. It doubles from level to level.
        most_filters: the largest number of filters of any level, 320 by default.
        levels: the number of levels, 6 by default. The image is halved `levels - 1` times.
        blocks: the number of residual blocks of each encoder level, `(1, 3, 4, 6, 6, 6)` by default.
        deep_supervision: whether the model has an output for each decoder level, True by default.
        dropout: the rate of the dropout after each encoder block, 0 by default.
        name: the model's name.

    Returns:
        A `ks.Model`, partitioned if a `ks.SpatialParallel` is in force. Its outputs have the shape of the image with
        `classes` channels. The first output is the finest one; without deep supervision it is the only one.

    Raises:
        ValueError: if an argument is out of range, or the image cannot be halved that often.

    Example:

    ```python
    model = ks.models.ResidualUNet3D((128, 128, 128, 1), classes=3, levels=5)
    losses = [ks.losses.DiceCrossentropy()] * 4
    model.compile("adam", loss=losses, loss_weights=[1, 0.5, 0.25, 0.125])
    ```
    """
    return _residual_unet(3, input_shape, classes, **options)


def _residual_unet(
    rank: int,
    input_shape: Sequence[int | None],
    classes: int,
    *,
    filters: int = 32,
    most_filters: int = 320,
    levels: int = 6,
    blocks: Sequence[int] | None = None,
    deep_supervision: bool = True,
    dropout: float = 0.0,
    name: str | None = None,
) -> Model:
    check_arguments(
        rank, input_shape, levels=levels, dropout=dropout, classes=classes, filters=filters, most_filters=most_filters
    )
    counts = [_BLOCKS[min(level, len(_BLOCKS) - 1)] for level in range(levels)] if blocks is None else list(blocks)
    if len(counts) != levels or any(not isinstance(n, int) or n < 1 for n in counts):
        raise ValueError(f"blocks must be a positive integer for each of {levels} levels. Received: blocks={blocks!r}")
    kit = KITS[rank]

    def convolution(x, width: int, label: str, stride: int = 1, activation: bool = True):
        x = kit.convolution(width, 3, strides=stride, padding="same", use_bias=False, name=f"{label}_conv")(x)
        x = layers.GroupNormalization(groups=-1, epsilon=1e-5, name=f"{label}_norm")(x)
        return layers.LeakyReLU(0.01, name=f"{label}_relu")(x) if activation else x

    def residual(x, width: int, label: str, stride: int):
        y = convolution(x, width, f"{label}_first", stride)
        y = convolution(y, width, f"{label}_second", activation=False)
        if stride > 1 or x.shape[-1] != width:
            x = kit.convolution(width, 1, strides=stride, use_bias=False, name=f"{label}_shortcut_conv")(x)
            x = layers.GroupNormalization(groups=-1, epsilon=1e-5, name=f"{label}_shortcut_norm")(x)
        x = layers.LeakyReLU(0.01, name=f"{label}_relu")(layers.Add(name=f"{label}_sum")([x, y]))
        return layers.Dropout(dropout, name=f"{label}_dropout")(x) if dropout else x

    widths = [min(filters * 2**level, most_filters) for level in range(levels)]
    inputs = keras.Input(tuple(input_shape), name="image")
    x, skips = convolution(inputs, widths[0], "stem"), []
    for level, (width, count) in enumerate(zip(widths, counts, strict=True)):
        for number in range(count):
            x = residual(x, width, f"down{level}_block{number + 1}", 2 if level and not number else 1)
        skips.append(x)
    coarser = []
    for level in reversed(range(levels - 1)):
        x = kit.transposed(widths[level], 2, strides=2, name=f"up{level}_transposed")(x)
        x = layers.Concatenate(name=f"up{level}_skip")([skips[level], x])
        x = convolution(x, widths[level], f"up{level}")
        if level and deep_supervision:
            head = kit.convolution(classes, 1, name=f"supervised{level}_conv")(x)
            coarser.insert(0, kit.upsampling(2**level, name=f"supervised{level}")(head))
    outputs = kit.convolution(classes, 1, name="classes")(x)
    return Model(inputs, [outputs, *coarser] if coarser else outputs, name=name or f"residual_unet{rank}d")
