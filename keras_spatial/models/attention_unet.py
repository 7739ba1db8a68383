"""The attention U-Net of Oktay et al., arXiv 1804.03999, in two and three dimensions."""

from collections.abc import Sequence
from typing import TypedDict, Unpack

import keras
from keras import layers

from keras_spatial.model import Model
from keras_spatial.models.arguments import KITS, check_arguments
from keras_spatial.models.normalization import Normalization, check_normalization, normalized


class AttentionUNetOptions(TypedDict, total=False):
    """The keyword arguments of `AttentionUNet2D` and `AttentionUNet3D`, which `AttentionUNet3D` describes."""

    filters: int
    levels: int
    normalization: Normalization
    dropout: float
    name: str | None


def AttentionUNet2D(input_shape: Sequence[int | None], classes: int, **options: Unpack[AttentionUNetOptions]) -> Model:
    """A 2D attention U-Net; see `AttentionUNet3D` for its options.

    Args:
        input_shape: the shape `(x, y, channels)` of an image, in pixels.
        classes: the number of channels of the output.
        **options: the keyword arguments of `AttentionUNet3D`.

    Returns:
        A `ks.Model`, partitioned if a `ks.SpatialParallel` is in force.

    Raises:
        ValueError: as for `AttentionUNet3D`.

    Example:

    ```python
    model = ks.models.AttentionUNet2D((256, 256, 3), classes=2)
    ```
    """
    return _attention_unet(2, input_shape, classes, **options)


def AttentionUNet3D(input_shape: Sequence[int | None], classes: int, **options: Unpack[AttentionUNetOptions]) -> Model:
    """A 3D U-Net whose skip connections pass through additive attention gates (Oktay et al., arXiv 1804.03999).

    A gate multiplies every voxel of a skip connection by a weight between 0 and 1. The weights are computed from the
    skip connection and from the decoder's features at the next coarser level, and repeated to the resolution of the
    skip connection.

    Args:
        input_shape: the shape `(x, y, z, channels)` of an image, in voxels.
        classes: the number of channels of the output, which are logits.

    Keyword Args:
        filters: the number of filters of the first level, 16 by default. It doubles from level to level.
        levels: the number of levels, 4 by default. The image is halved `levels - 1` times.
        normalization: what follows each convolution: `"batch"` normalization by default, `"instance"` normalization,
            with the statistics of each image, or None.
        dropout: the rate of the dropout after each level, 0 by default.
        name: the model's name.

    Returns:
        A `ks.Model`, partitioned if a `ks.SpatialParallel` is in force.

    Raises:
        ValueError: if an argument is out of range, or the image cannot be halved that often.

    Example:

    ```python
    model = ks.models.AttentionUNet3D((160, 160, 96, 1), classes=8)
    ```
    """
    return _attention_unet(3, input_shape, classes, **options)


def _attention_unet(
    rank: int,
    input_shape: Sequence[int | None],
    classes: int,
    *,
    filters: int = 16,
    levels: int = 4,
    normalization: Normalization = "batch",
    dropout: float = 0.0,
    name: str | None = None,
) -> Model:
    check_arguments(rank, input_shape, levels=levels, dropout=dropout, classes=classes, filters=filters)
    check_normalization(normalization)
    kit = KITS[rank]

    def level_of(x, width: int, label: str):
        for number in (1, 2):
            bias = normalization is None
            x = kit.convolution(width, 3, padding="same", use_bias=bias, name=f"{label}_conv{number}")(x)
            x = normalized(x, normalization, f"{label}_norm{number}")
            x = layers.ReLU(name=f"{label}_relu{number}")(x)
        return layers.Dropout(dropout, name=f"{label}_dropout")(x) if dropout else x

    def gated(skip, gate, width: int, label: str):
        coarse = kit.convolution(width, 2, strides=2, use_bias=False, name=f"{label}_theta")(skip)
        weights = layers.Add(name=f"{label}_sum")([coarse, kit.convolution(width, 1, name=f"{label}_phi")(gate)])
        weights = kit.convolution(1, 1, activation="sigmoid", name=f"{label}_psi")(
            layers.ReLU(name=f"{label}_relu")(weights)
        )
        return layers.Multiply(name=f"{label}_gated")([skip, kit.upsampling(2, name=f"{label}_weights")(weights)])

    inputs = keras.Input(tuple(input_shape), name="image")
    x, skips = inputs, []
    for level in range(levels):
        if level:
            x = kit.pooling(2, name=f"down{level}_pool")(x)
        x = level_of(x, filters * 2**level, f"down{level}")
        skips.append(x)
    for level in reversed(range(levels - 1)):
        width = filters * 2**level
        skip = gated(skips[level], x, width, f"gate{level}")
        x = kit.transposed(width, 2, strides=2, name=f"up{level}_transposed")(x)
        x = level_of(layers.Concatenate(name=f"up{level}_skip")([skip, x]), width, f"up{level}")
    outputs = kit.convolution(classes, 1, name="classes")(x)
    return Model(inputs, outputs, name=name or f"attention_unet{rank}d")
