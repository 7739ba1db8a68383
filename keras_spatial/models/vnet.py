"""The V-Net of Milletari et al., arXiv 1606.04797, in two and three dimensions."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from keras_spatial.model import Model
from keras_spatial.models.arguments import KITS, check_arguments

# Convolutions of each level in the paper; deeper levels have as many as the last.
_CONVOLUTIONS = (1, 2, 3, 3, 3)


def VNet2D(input_shape: Sequence[int | None], classes: int, **options: Any) -> Model:
    """A 2D V-Net; see `VNet3D` for its options.

    Args:
        input_shape: `(x, y, channels)`, in pixels.
        classes: channels of the output.
        **options: the keyword arguments of `VNet3D`.
    """
    return _vnet(2, input_shape, classes, **options)


def VNet3D(input_shape: Sequence[int | None], classes: int, **options: Any) -> Model:
    """A 3D V-Net: levels of 5³ convolutions whose input is added to their output, joined by strided convolutions.

    Activations are PReLUs with one slope for each channel. The paper has no normalisation; `normalization` adds
    batch normalisation before each activation in place of the convolutions' biases, as most implementations do.

    Args:
        input_shape: `(x, y, z, channels)`, in voxels.
        classes: channels of the output, which are logits.
        filters: filters of the first level, 16; they double from level to level.
        levels: levels, 5, so that the image is halved `levels - 1` times.
        kernel_size: of the convolutions inside a level, 5.
        normalization: whether batch normalisation precedes each activation, False.
        dropout: rate of the dropout after each level, 0.
        name: the model's name.

    Returns:
        A `ks.Model`, partitioned if a `ks.SpatialParallel` is in force.

    Raises:
        ValueError: if an argument is out of its range, or the image cannot be halved so often.

    Example:

    ```python
    model = ks.models.VNet3D((128, 128, 64, 1), classes=2)
    ```
    """
    return _vnet(3, input_shape, classes, **options)


def _vnet(
    rank: int,
    input_shape: Sequence[int | None],
    classes: int,
    *,
    filters: int = 16,
    levels: int = 5,
    kernel_size: int = 5,
    normalization: bool = False,
    dropout: float = 0.0,
    name: str | None = None,
) -> Model:
    check_arguments(
        rank, input_shape, levels=levels, dropout=dropout, classes=classes, filters=filters, kernel_size=kernel_size
    )
    kit, options = KITS[rank], {"use_bias": not normalization}

    def activated(x, label: str):
        if normalization:
            x = layers.BatchNormalization(name=f"{label}_norm")(x)
        return layers.PReLU(shared_axes=list(range(1, rank + 1)), name=f"{label}_prelu")(x)

    def stage(x, shortcut, level: int, label: str):
        width = filters * 2**level
        for number in range(1, _CONVOLUTIONS[min(level, len(_CONVOLUTIONS) - 1)] + 1):
            x = kit.convolution(width, kernel_size, padding="same", name=f"{label}_conv{number}", **options)(x)
            x = activated(x, f"{label}_{number}")
        x = layers.Add(name=f"{label}_sum")([x, shortcut])
        return layers.Dropout(dropout, name=f"{label}_dropout")(x) if dropout else x

    inputs = keras.Input(tuple(input_shape), name="image")
    # The paper adds the image itself to the first level's channels; here a convolution gives it as many.
    x = activated(kit.convolution(filters, kernel_size, padding="same", name="stem_conv", **options)(inputs), "stem")
    skips = []
    for level in range(levels):
        if level:
            x = kit.convolution(filters * 2**level, 2, strides=2, name=f"down{level}_conv", **options)(x)
            x = activated(x, f"down{level}")
        x = stage(x, x, level, f"left{level}")
        skips.append(x)
    for level in reversed(range(levels - 1)):
        x = kit.transposed(filters * 2**level, 2, strides=2, name=f"up{level}_transposed", **options)(x)
        x = activated(x, f"up{level}")
        x = stage(layers.Concatenate(name=f"up{level}_skip")([skips[level], x]), x, level, f"right{level}")
    outputs = kit.convolution(classes, 1, name="classes")(x)
    return Model(inputs, outputs, name=name or f"vnet{rank}d")
