"""The U-Net of Hou et al., arXiv 1909.03108, in two and three dimensions."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from keras_spatial.model import Model
from keras_spatial.models.arguments import KITS, check_arguments


def UNet2D(input_shape: Sequence[int | None], classes: int, **options: Any) -> Model:
    """A 2D U-Net; see `UNet3D` for its options.

    Args:
        input_shape: `(x, y, channels)`, in pixels.
        classes: channels of the output.
        **options: the keyword arguments of `UNet3D`.
    """
    return _unet(2, input_shape, classes, **options)


def UNet3D(input_shape: Sequence[int | None], classes: int, **options: Any) -> Model:
    """A 3D U-Net: levels of convolutions, joined by max pooling downwards and transposed convolutions upwards.

    The defaults are those of the paper's released code (`tensorflow/mesh`, `experimental/unet.py`); with them the
    network has 5,600,960 trainable parameters for one input channel and three classes.

    Args:
        input_shape: `(x, y, z, channels)`, in voxels.
        classes: channels of the output, which are logits unless `activation_of_output` is given.
        filters: filters of the first level, 32; they double from level to level.
        levels: levels, 4, so that there are `levels - 1` poolings.
        convolutions: convolutions of each level on each side, 2.
        kernel_size: of these convolutions, 3.
        batch_normalization: whether one follows each of them (momentum 0.9, epsilon 1e-6), True.
        negative_slope: of the leaky ReLU after it, 0.1.
        dropout: rate of the dropout after each convolution but the first and the last, 0.5.
        use_bias: whether convolutions have a bias. By default only without batch normalization, whose own offset makes
            one superfluous; the paper's code has none at all.
        activation_of_output: such as `"softmax"`; None by default.
        name: the model's name.

    Returns:
        A `ks.Model`, partitioned if a `ks.SpatialParallel` is in force.

    Raises:
        ValueError: if an argument is out of its range, or the image cannot be halved so often.

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
    batch_normalization: bool = True,
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
    use_bias = not batch_normalization if use_bias is None else use_bias
    convolution, transposed, pooling = KITS[rank].convolution, KITS[rank].transposed, KITS[rank].pooling

    def block(x, width: int, label: str, dropout_of: Sequence[bool]):
        for number, drop in enumerate(dropout_of, start=1):
            x = convolution(width, kernel_size, padding="same", use_bias=use_bias, name=f"{label}_conv{number}")(x)
            if batch_normalization:
                x = layers.BatchNormalization(momentum=0.9, epsilon=1e-6, name=f"{label}_norm{number}")(x)
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
        x = block(x, filters * 2**level, f"down{level}", drops)
        skips.append(x)
    for level in reversed(range(levels - 1)):
        x = transposed(filters * 2**level, 2, strides=2, use_bias=use_bias, name=f"up{level}_transposed")(x)
        x = layers.Concatenate(name=f"up{level}_skip")([skips[level], x])
        drops = [level > 0 or number < convolutions - 1 for number in range(convolutions)]
        x = block(x, filters * 2**level, f"up{level}", drops)
    outputs = convolution(classes, 1, activation=activation_of_output, use_bias=use_bias, name="classes")(x)
    return Model(inputs, outputs, name=name or f"unet{rank}d")
