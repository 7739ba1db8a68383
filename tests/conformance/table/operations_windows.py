"""`keras.ops` over neighbourhoods, and `keras.ops.image`."""

import keras
import numpy as np
from conformance.table.statuses import IMAGE_3D, Case, Equal, Refused
from keras import ops as O


def _kernel(x, *shape: int) -> np.ndarray:
    return np.random.default_rng(2).normal(size=shape).astype(x.dtype)


class Transposed(keras.layers.Layer):
    """A transposed convolution that uses the operation, as libraries of models write their own."""

    def __init__(self, **arguments):
        super().__init__()
        self.arguments = arguments

    def build(self, shape):
        self.kernel = self.add_weight(shape=(3, 3, 4, shape[-1]), name="kernel")

    def call(self, x):
        return O.conv_transpose(x, self.kernel, **self.arguments)


class Depthwise(keras.layers.Layer):
    """Convolutions with variables, one of which is computed from another."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(3, 3, shape[-1], 2), name="kernel")
        self.mixing = self.add_weight(shape=(1, 1, 2 * shape[-1], 4), name="mixing")

    def call(self, x):
        y = O.depthwise_conv(x, self.kernel, padding="same")
        return O.conv(y, self.mixing) + O.separable_conv(x, self.kernel, self.mixing, padding="same")


def _cases(**calls) -> Equal:
    return Equal({name.replace("_", "-"): Case(call) for name, call in calls.items()})


WINDOWED = {
    "adaptive_average_pool": _cases(image=lambda x: O.adaptive_average_pool(x, (4, 4))),
    "adaptive_max_pool": _cases(image=lambda x: O.adaptive_max_pool(x, (4, 5))),
    "average_pool": _cases(
        valid=lambda x: O.average_pool(x, 2), same=lambda x: O.average_pool(x, 3, strides=2, padding="same")
    ),
    "max_pool": _cases(valid=lambda x: O.max_pool(x, 2), same=lambda x: O.max_pool(x, 3, strides=2, padding="same")),
    "conv": _cases(
        same=lambda x: O.conv(x, _kernel(x, 3, 3, 3, 4), padding="same"),
        strided=lambda x: O.conv(x, _kernel(x, 3, 2, 3, 4), strides=2),
        dilated=lambda x: O.conv(x, _kernel(x, 3, 3, 3, 4), padding="same", dilation_rate=2),
        computed_kernel=lambda x: O.conv(
            x, O.reshape(O.mean(x, axis=(0, 1, 2)), (1, 1, 3, 1)) * _kernel(x, 3, 3, 3, 4), padding="same"
        ),
    ),
    # Keras confuses two of its arguments where it is an operation of a model by itself.
    "conv_transpose": _cases(
        in_a_layer=lambda x: Transposed(strides=2, padding="same")(x),
        valid_in_a_layer=lambda x: Transposed(strides=(3, 2), padding="valid")(x),
    ),
    "depthwise_conv": _cases(
        same=lambda x: O.depthwise_conv(x, _kernel(x, 3, 3, 3, 2), padding="same"),
        strided=lambda x: O.depthwise_conv(x, _kernel(x, 3, 3, 3, 1), strides=2, padding="same"),
        in_a_layer=lambda x: Depthwise()(x),
    ),
    "separable_conv": _cases(
        same=lambda x: O.separable_conv(x, _kernel(x, 3, 3, 3, 2), _kernel(x, 1, 1, 6, 4), padding="same")
    ),
    "depth_to_space": _cases(image=lambda x: O.depth_to_space(O.concatenate([x, -x, x * 2.0, x + 1.0], -1), 2)),
    "space_to_depth": _cases(image=lambda x: O.space_to_depth(x[:, :20, :18], 2)),
}

IMAGE = {
    "image.crop_images": _cases(
        margins=lambda x: O.image.crop_images(x, top_cropping=2, left_cropping=3, target_height=10, target_width=12)
    ),
    "image.extract_patches": _cases(
        valid=lambda x: O.image.extract_patches(x, 3, strides=3),
        same=lambda x: O.image.extract_patches(x, 3, strides=1, padding="same"),
    ),
    "image.extract_patches_3d": Equal({"valid": Case(lambda x: O.image.extract_patches_3d(x, 2, strides=2), IMAGE_3D)}),
    "image.gaussian_blur": _cases(image=lambda x: O.image.gaussian_blur(x, (3, 5))),
    "image.hsv_to_rgb": _cases(image=lambda x: O.image.hsv_to_rgb(O.sigmoid(x))),
    "image.pad_images": _cases(
        margins=lambda x: O.image.pad_images(x, top_padding=2, left_padding=3, target_height=25, target_width=23)
    ),
    "image.resize": Equal(
        {
            "double": Case(lambda x: O.image.resize(x, (42, 38), interpolation="bilinear"), precision=1e-5),
            "odd": Case(lambda x: O.image.resize(x, (11, 29), interpolation="bicubic"), precision=1e-5),
            "nearest": Case(lambda x: O.image.resize(x, (11, 29), interpolation="nearest"), precision=1e-5),
            "average": Case(lambda x: O.image.resize(x, (11, 8), antialias=True), dtypes=("float32",)),
        },
        {
            "aspect": Refused(
                Case(lambda x: O.image.resize(x, (11, 29), crop_to_aspect_ratio=True)),
                "A resize that crops or pads to an aspect ratio.",
                "aspect ratio",
            )
        },
    ),
    "image.rgb_to_grayscale": _cases(image=lambda x: O.image.rgb_to_grayscale(x)),
    "image.rgb_to_hsv": _cases(image=lambda x: O.image.rgb_to_hsv(O.sigmoid(x))),
    "image.sobel_edges": _cases(image=lambda x: O.image.sobel_edges(x)),
}
