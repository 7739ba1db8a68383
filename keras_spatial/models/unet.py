"""The U-Net of Hou et al., arXiv 1909.03108, in two and three dimensions."""

from collections.abc import Sequence
from typing import TypedDict, Unpack

import keras
from keras import layers

from keras_spatial.model import Model
from keras_spatial.models.arguments import KITS, check_arguments
from keras_spatial.models.normalization import Normalization, check_normalization, normalized


class UNetOptions(TypedDict, total=False):
    """The keyword arguments of `UNet2D` and `UNet3D`, which `UNet3D` describes."""

    filters: int
    levels: int
    convolutions: int
    kernel_size: int
    normalization: Normalization
    negative_slope: float
    dropout: float
    use_bias: bool | None
    activation_of_output: str | None
    name: str | None


def UNet2D(input_shape: Sequence[int | None], classes: int, **options: Unpack[UNetOptions]) -> Model:
    """A 2D U-Net; see `UNet3D` for its options.

    Args:
        input_shape: the shape `(x, y, channels)` of an image, in pixels.
        classes: the number of channels of the output.
        **options: the keyword arguments of `UNet3D`.

    Returns:
        A `ks.Model`, partitioned if a `ks.SpatialParallel` is in force.

    Raises:
        ValueError: as for `UNet3D`.

    Example:

    ```python
    model = ks.models.UNet2D((256, 256, 3), classes=2)
    ```
    """
    return _unet(2, input_shape, classes, **options)


def UNet3D(input_shape: Sequence[int | None], classes: int, **options: Unpack[UNetOptions]) -> Model:
    """A 3D U-Net: levels of convolutions, connected by max pooling and transposed convolutions.

    The defaults are those of the released code of Hou et al., arXiv 1909.03108 (`tensorflow/mesh`,
    `experimental/unet.py`). With them the network has 5,600,960 trainable parameters for one input channel and three
    classes.

    Args:
        input_shape: the shape `(x, y, z, channels)` of an image, in voxels.
        classes: the number of channels of the output, which are logits unless `activation_of_output` is given.

    Keyword Args:
        filters: the number of filters of the first level, 32 by default. It doubles from level to level.
        levels: the number of levels, 4 by default. There are `levels - 1` poolings.
        convolutions: the number of convolutions of each level in the encoder and in the decoder, 2 by default.
        kernel_size: the size of their kernels, 3 by default.
        normalization: what follows each of them: `"batch"` normalization (momentum 0.9, epsilon 1e-6) by default;
            `"instance"` normalization, with the statistics of each image, as in nnU-Net; or None. Where a batch is one
            image, both are the same in training, but batch normalization predicts with a moving average over images
            instead of the image's own statistics.
        negative_slope: the slope of the leaky ReLU after each of them, 0.1 by default.
        dropout: the rate of the dropout after each convolution but the first and the last, 0.5 by default.
        use_bias: whether convolutions have a bias. By default they have one only without normalization, whose offset
            makes it superfluous; the paper's code never has one.
        activation_of_output: the activation of the output, such as `"softmax"`; None by default.
        name: the model's name.

    Returns:
        A `ks.Model`, partitioned if a `ks.SpatialParallel` is in force.

    Raises:
        ValueError: if an argument is out of range, or the image cannot be halved that often.

    Example:

    ```python
    model = ks.models.UNet3D((128, 128, 128, 1), classes=3, filters=16)
    ```
    """
    return _unet(3, input_shape, classes, **options)


def _unet(
    rank: int,
    input_shape: Sequence[int | None],
    classes: int,
    *,
    filters: int = 32,
    levels: int = 4,
    convolutions: int = 2,
    kernel_size: int = 3,
    normalization: Normalization = "batch",
    negative_slope: float = 0.1,
    dropout: float = 0.5,
    use_bias: bool | None = None,
    activation_of_output: str | None = None,
    name: str | None = None,
) -> Model:
    check_arguments(
        rank,
        input_shape,
        levels=levels,
        dropout=dropout,
        classes=classes,
        filters=filters,
        convolutions=convolutions,
        kernel_size=kernel_size,
    )
    check_normalization(normalization)
    use_bias = normalization is None if use_bias is None else use_bias
    convolution, transposed, pooling = KITS[rank].convolution, KITS[rank].transposed, KITS[rank].pooling

    def level_of(x, width: int, label: str, dropout_of: Sequence[bool]):
        for number, drop in enumerate(dropout_of, start=1):
            x = convolution(width, kernel_size, padding="same", use_bias=use_bias, name=f"{label}_conv{number}")(x)
            x = normalized(x, normalization, f"{label}_norm{number}", momentum=0.9, epsilon=1e-6)
            x = layers.LeakyReLU(negative_slope, name=f"{label}_relu{number}")(x)
            if drop and dropout:
                x = layers.Dropout(dropout, name=f"{label}_dropout{number}")(x)
        return x

    inputs = keras.Input(tuple(input_shape), name="image")
    x, skips = inputs, []
    for level in range(levels):
        if level:
            x = pooling(2, name=f"down{level}_pool")(x)
        drops = [level > 0 or number > 0 for number in range(convolutions)]
        x = level_of(x, filters * 2**level, f"down{level}", drops)
        skips.append(x)
    for level in reversed(range(levels - 1)):
        x = transposed(filters * 2**level, 2, strides=2, use_bias=use_bias, name=f"up{level}_transposed")(x)
        x = layers.Concatenate(name=f"up{level}_skip")([skips[level], x])
        drops = [level > 0 or number < convolutions - 1 for number in range(convolutions)]
        x = level_of(x, filters * 2**level, f"up{level}", drops)
    outputs = convolution(classes, 1, activation=activation_of_output, use_bias=use_bias, name="classes")(x)
    return Model(inputs, outputs, name=name or f"unet{rank}d")
