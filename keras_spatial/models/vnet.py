"""The V-Net of Milletari et al., arXiv 1606.04797, in two and three dimensions."""

from collections.abc import Sequence
from typing import TypedDict, Unpack

import keras
from keras import layers

from keras_spatial.model import Model
from keras_spatial.models.arguments import KITS, check_arguments
from keras_spatial.models.normalization import Normalization, check_normalization, normalized

# The number of convolutions of each level in the paper; deeper levels have as many as the last.
_CONVOLUTIONS = (1, 2, 3, 3, 3)


class VNetOptions(TypedDict, total=False):
    """The keyword arguments of `VNet2D` and `VNet3D`, which `VNet3D` describes."""

    filters: int
    levels: int
    kernel_size: int
    normalization: Normalization
    dropout: float
    name: str | None


def VNet2D(input_shape: Sequence[int | None], classes: int, **options: Unpack[VNetOptions]) -> Model:
    """A 2D V-Net; see `VNet3D` for its options.

    Args:
        input_shape: the shape `(x, y, channels)` of an image, in pixels.
        classes: the number of channels of the output.
        **options: the keyword arguments of `VNet3D`.

    Returns:
        A `ks.Model`, partitioned if a `ks.SpatialParallel` is in force.

    Raises:
        ValueError: as for `VNet3D`.

    Example:

    ```python
    model = ks.models.VNet2D((256, 256, 3), classes=2)
    ```
    """
    return _vnet(2, input_shape, classes, **options)


def VNet3D(input_shape: Sequence[int | None], classes: int, **options: Unpack[VNetOptions]) -> Model:
    """A 3D V-Net (Milletari et al., arXiv 1606.04797): levels of 5³ convolutions, connected by strided convolutions.

    The input of each level is added to its output. Activations are PReLUs with one slope for each channel. The paper
    has no normalization; `normalization` adds one before each activation in place of the convolutions' biases, as most
    implementations do.

    Args:
        input_shape: the shape `(x, y, z, channels)` of an image, in voxels.
        classes: the number of channels of the output, which are logits.

    Keyword Args:
        filters: the number of filters of the first level, 16 by default. It doubles from level to level.
        levels: the number of levels, 5 by default. The image is halved `levels - 1` times.
        kernel_size: the kernel size of the convolutions inside a level, 5 by default.
        normalization: what precedes each activation: `"batch"` normalization, `"instance"` normalization, with the
            statistics of each image, or None, the default.
        dropout: the rate of the dropout after each level, 0 by default.
        name: the model's name.

    Returns:
        A `ks.Model`, partitioned if a `ks.SpatialParallel` is in force.

    Raises:
        ValueError: if an argument is out of range, or the image cannot be halved that often.

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
    normalization: Normalization = None,
    dropout: float = 0.0,
    name: str | None = None,
) -> Model:
    check_arguments(
        rank, input_shape, levels=levels, dropout=dropout, classes=classes, filters=filters, kernel_size=kernel_size
    )
    check_normalization(normalization)
    kit, use_bias = KITS[rank], normalization is None

    def activated(x, label: str):
        x = normalized(x, normalization, f"{label}_norm")
        return layers.PReLU(shared_axes=list(range(1, rank + 1)), name=f"{label}_prelu")(x)

    def stage(x, shortcut, level: int, label: str):
        width = filters * 2**level
        for number in range(1, _CONVOLUTIONS[min(level, len(_CONVOLUTIONS) - 1)] + 1):
            x = kit.convolution(width, kernel_size, padding="same", name=f"{label}_conv{number}", use_bias=use_bias)(x)
            x = activated(x, f"{label}_{number}")
        x = layers.Add(name=f"{label}_sum")([x, shortcut])
        return layers.Dropout(dropout, name=f"{label}_dropout")(x) if dropout else x

    inputs = keras.Input(tuple(input_shape), name="image")
    # The paper adds the image itself to each channel of the first level; here a convolution first gives it as many.
    x = activated(
        kit.convolution(filters, kernel_size, padding="same", name="stem_conv", use_bias=use_bias)(inputs), "stem"
    )
    skips = []
    for level in range(levels):
        if level:
            x = kit.convolution(filters * 2**level, 2, strides=2, name=f"down{level}_conv", use_bias=use_bias)(x)
            x = activated(x, f"down{level}")
        x = stage(x, x, level, f"left{level}")
        skips.append(x)
    for level in reversed(range(levels - 1)):
        x = kit.transposed(filters * 2**level, 2, strides=2, name=f"up{level}_transposed", use_bias=use_bias)(x)
        x = activated(x, f"up{level}")
        x = stage(layers.Concatenate(name=f"up{level}_skip")([skips[level], x]), x, level, f"right{level}")
    outputs = kit.convolution(classes, 1, name="classes")(x)
    return Model(inputs, outputs, name=name or f"vnet{rank}d")
