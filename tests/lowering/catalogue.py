"""The catalogue: for every layer, the configurations in which it is compared with Keras on meshes.

The table of layers in the documentation is made from it (docs/generate_layer_table.py), so that nothing stands there
that is not tested.
"""

from dataclasses import dataclass

import keras
import numpy as np
from keras import layers as L

import keras_spatial as ks


@dataclass(frozen=True)
class Case:
    """A layer, or a function of a tensor, and the image that it is tried on.

    Attributes:
        make: makes the layer.
        shape: the image's shape without the batch; no mesh divides all of its sizes.
        training: whether it runs in training mode.
    """

    make: object
    shape: tuple[int, ...]
    training: bool = False

    def model(self) -> keras.Model:
        """The layer after a pointwise one, so that its inputs have gradients to be compared."""
        keras.utils.set_random_seed(7)
        inputs = keras.Input(self.shape)
        x = L.Dense(self.shape[-1], use_bias=False)(inputs)
        return keras.Model(inputs, self.make()(x))


IMAGE_1D = (13, 3)
IMAGE_2D = (17, 12, 3)
IMAGE_3D = (9, 8, 5, 2)


def _cases(shape, makers, training=False) -> dict[str, Case]:
    return {name: Case(make, shape, training) for name, make in makers.items()}


LAYERS_2D = (
    _cases(
        IMAGE_2D,
        {
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
            "depthwise": lambda: L.DepthwiseConv2D(3, padding="same", depth_multiplier=2),
            "depthwise-strided": lambda: L.DepthwiseConv2D(3, strides=2, padding="same"),
            "separable": lambda: L.SeparableConv2D(4, 3, padding="same"),
            "transposed-2-2": lambda: L.Conv2DTranspose(4, 2, strides=2, padding="same"),
            "transposed-3-2": lambda: L.Conv2DTranspose(4, 3, strides=2, padding="same"),
            "transposed-4-2": lambda: L.Conv2DTranspose(4, 4, strides=2, padding="same"),
            "transposed-5-3": lambda: L.Conv2DTranspose(2, 5, strides=3, padding="same"),
            "transposed-3-1": lambda: L.Conv2DTranspose(4, 3, strides=1, padding="same"),
            "transposed-valid": lambda: L.Conv2DTranspose(4, 3, strides=2, padding="valid"),
            "transposed-output-padding": lambda: L.Conv2DTranspose(4, 3, strides=2, padding="same", output_padding=1),
            "max-pool": lambda: L.MaxPooling2D(2),
            "max-pool-same": lambda: L.MaxPooling2D(2, padding="same"),
            "max-pool-overlapping": lambda: L.MaxPooling2D(3, strides=2, padding="same"),
            "max-pool-overlapping-valid": lambda: L.MaxPooling2D(3, strides=1, padding="valid"),
            "average-pool": lambda: L.AveragePooling2D(2),
            "average-pool-same": lambda: L.AveragePooling2D(2, padding="same"),
            "average-pool-overlapping": lambda: L.AveragePooling2D(3, strides=2, padding="same"),
            "average-pool-overlapping-valid": lambda: L.AveragePooling2D(3, strides=2, padding="valid"),
            "up-sampling": lambda: L.UpSampling2D((2, 3)),
            "global-average": lambda: L.GlobalAveragePooling2D(),
            "global-average-keepdims": lambda: L.GlobalAveragePooling2D(keepdims=True),
            "global-max": lambda: L.GlobalMaxPooling2D(),
            "relu": lambda: L.ReLU(max_value=1.0, negative_slope=0.1),
            "leaky-relu": lambda: L.LeakyReLU(0.1),
            "prelu": lambda: L.PReLU(alpha_initializer="uniform"),
            "prelu-shared": lambda: L.PReLU(alpha_initializer="uniform", shared_axes=[1, 2]),
            "softmax": lambda: L.Softmax(),
            "activation": lambda: L.Activation("gelu"),
            "dense": lambda: L.Dense(4, activation="tanh"),
            "adaptive-average": lambda: L.AdaptiveAveragePooling2D((5, 3)),
            "adaptive-average-many": lambda: L.AdaptiveAveragePooling2D((11, 8)),
            "adaptive-max": lambda: L.AdaptiveMaxPooling2D((5, 9)),
            "up-sampling-bilinear": lambda: L.UpSampling2D(2, interpolation="bilinear"),
            "up-sampling-bicubic": lambda: L.UpSampling2D((3, 2), interpolation="bicubic"),
            "up-sampling-lanczos": lambda: L.UpSampling2D(2, interpolation="lanczos5"),
            "zero-padding": lambda: L.ZeroPadding2D(((1, 2), (0, 3))),
            "zero-padding-wide": lambda: L.ZeroPadding2D(11),
            "cropping": lambda: L.Cropping2D(((1, 2), (3, 0))),
            "cropping-most": lambda: L.Cropping2D(((9, 5), (7, 2))),
            "layer-norm": lambda: L.LayerNormalization(gamma_initializer="uniform", beta_initializer="uniform"),
            "layer-norm-image": lambda: L.LayerNormalization(axis=[1, 2, 3], gamma_initializer="uniform"),
            "layer-norm-rms": lambda: L.LayerNormalization(axis=[1, 3], rms_scaling=True),
            "group-norm": lambda: L.GroupNormalization(3, gamma_initializer="uniform", beta_initializer="uniform"),
            "instance-norm": lambda: L.GroupNormalization(-1),
            "group-norm-one": lambda: L.GroupNormalization(1, scale=False),
            "rms-norm": lambda: L.RMSNormalization(),
            "rms-norm-image": lambda: L.RMSNormalization(axis=[1, 2, 3]),
            "unit-norm": lambda: L.UnitNormalization(),
            "unit-norm-image": lambda: L.UnitNormalization(axis=[1, 2]),
            "elu": lambda: L.ELU(0.5),
            "softmax-image": lambda: L.Softmax(axis=[1, 2]),
            "softmax-x": lambda: L.Softmax(axis=1),
            "prelu-x": lambda: L.PReLU(alpha_initializer="uniform", shared_axes=[2]),
            "identity": lambda: L.Identity(),
            "flatten": lambda: L.Flatten(),
            "flatten-dense": lambda: keras.Sequential([L.Flatten(), L.Dense(5)]),
            "reshape": lambda: L.Reshape((12, 17, 3)),
            "reshape-channels": lambda: L.Reshape((17, 12, 1, 3)),
            "permute": lambda: L.Permute((2, 1, 3)),
            "permute-channels": lambda: L.Permute((3, 1, 2)),
            "einsum-dense": lambda: L.EinsumDense("bxyc,cd->bxyd", (None, None, 4), bias_axes="d"),
            "einsum-dense-image": lambda: L.EinsumDense("bxyc,xcd->byd", (None, 4)),
            "time-distributed": lambda: L.TimeDistributed(L.Conv1D(4, 3, padding="same")),
            "rescaling": lambda: L.Rescaling(1 / 255, offset=[0.1, -0.2, 0.3]),
            "normalization": lambda: L.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 3.0]),
            "resizing": lambda: L.Resizing(23, 9),
            "resizing-nearest": lambda: L.Resizing(8, 31, interpolation="nearest"),
            "resizing-double": lambda: L.Resizing(34, 6, antialias=True),
            "center-crop": lambda: L.CenterCrop(12, 7),
            "spectral-norm-inference": lambda: L.SpectralNormalization(L.Conv2D(4, 3, padding="same")),
            "add": lambda: lambda x: L.Add()([x, x[:, :1], x]),
            "subtract": lambda: lambda x: L.Subtract()([x, L.ReLU()(x)]),
            "multiply": lambda: lambda x: L.Multiply()([x, L.GlobalAveragePooling2D(keepdims=True)(x)]),
            "average": lambda: lambda x: L.Average()([x, L.ReLU()(x)]),
            "maximum": lambda: lambda x: L.Maximum()([x, -x]),
            "minimum": lambda: lambda x: L.Minimum()([x, -x]),
            "concatenate": lambda: lambda x: L.Concatenate()([x, L.ReLU()(x)]),
            "concatenate-x": lambda: lambda x: L.Concatenate(axis=1)([x, L.ReLU()(x)]),
            "dot-images": lambda: lambda x: L.Dot(axes=2)([x, L.ReLU()(x)]),
            "dot-vectors": lambda: lambda x: L.Dot(axes=1, normalize=True)([x[:, 0, 0], x[:, -1, -1]]),
            "repeat-vector": lambda: lambda x: L.RepeatVector(3)(L.GlobalAveragePooling2D()(x)),
            "lambda": lambda: L.Lambda(lambda x: keras.ops.relu(x) * 2.0),
        },
    )
    | _cases(
        IMAGE_2D,
        {
            "batch-norm": lambda: L.BatchNormalization(),
            "batch-norm-no-scale": lambda: L.BatchNormalization(scale=False, momentum=0.9),
            "batch-norm-axis": lambda: L.BatchNormalization(axis=1),
            "spectral-norm": lambda: L.SpectralNormalization(L.Conv2D(4, 3, padding="same")),
            "random-flip": lambda: L.RandomFlip(seed=3),
            "random-rotation": lambda: L.RandomRotation(0.2, seed=3),
            "random-translation": lambda: L.RandomTranslation(0.2, 0.3, seed=3),
            "random-zoom": lambda: L.RandomZoom(0.3, seed=3),
            "random-contrast": lambda: L.RandomContrast(0.5, value_range=(-9, 9), seed=3),
            "random-brightness": lambda: L.RandomBrightness(0.5, value_range=(-9, 9), seed=3),
            "random-crop": lambda: L.RandomCrop(11, 7, seed=3),
            "random-flip-vertical": lambda: L.RandomFlip("vertical", seed=5),
            "random-sharpness": lambda: L.RandomSharpness((0.2, 0.9), value_range=(-9, 9), seed=3),
            "random-invert": lambda: L.RandomInvert(0.5, value_range=(-9, 9), seed=3),
            "solarization": lambda: L.Solarization(0.2, 0.4, value_range=(-4, 4), seed=3),
            "auto-contrast": lambda: L.AutoContrast(value_range=(-9, 9)),
            "random-rotation-wrap": lambda: L.RandomRotation(0.3, fill_mode="wrap", interpolation="nearest", seed=3),
            "random-translation-fill": lambda: L.RandomTranslation(
                0.4, 0.4, fill_mode="constant", fill_value=0.7, seed=3
            ),
            "random-zoom-nearest": lambda: L.RandomZoom((0.3, 0.9), (-0.6, -0.2), fill_mode="nearest", seed=3),
            "random-shear": lambda: L.RandomShear(0.4, 0.6, seed=3),
            "random-perspective": lambda: L.RandomPerspective(1.0, 0.8, fill_value=-0.5, seed=4),
            "random-crop-wide": lambda: L.RandomCrop(30, 7, seed=3),
        },
        training=True,
    )
    | _cases(
        IMAGE_2D,
        {
            "random-hue": lambda: L.RandomHue(0.3, value_range=(-4, 4), seed=3),
            "random-saturation": lambda: L.RandomSaturation(0.3, value_range=(-4, 4), seed=3),
            "random-grayscale": lambda: L.RandomGrayscale(0.5, seed=3),
            "random-color-degeneration": lambda: L.RandomColorDegeneration(0.5, value_range=(-9, 9), seed=3),
        },
        training=True,
    )
)

LAYERS_3D = _cases(
    IMAGE_3D,
    {
        "conv": lambda: L.Conv3D(3, 3, padding="same", activation="relu"),
        "conv-valid": lambda: L.Conv3D(3, (3, 2, 1), padding="valid"),
        "conv-strided": lambda: L.Conv3D(3, 3, strides=2, padding="same"),
        "conv-dilated": lambda: L.Conv3D(3, 3, dilation_rate=2, padding="same"),
        "conv-grouped": lambda: L.Conv3D(4, 3, groups=2, padding="same"),
        "transposed-2-2": lambda: L.Conv3DTranspose(3, 2, strides=2, padding="same"),
        "transposed-3-2": lambda: L.Conv3DTranspose(3, 3, strides=2, padding="same"),
        "max-pool": lambda: L.MaxPooling3D(2),
        "max-pool-overlapping": lambda: L.MaxPooling3D(3, strides=2, padding="same"),
        "average-pool": lambda: L.AveragePooling3D(2, padding="same"),
        "up-sampling": lambda: L.UpSampling3D(2),
        "global-average": lambda: L.GlobalAveragePooling3D(),
        "global-max": lambda: L.GlobalMaxPooling3D(),
        "adaptive-average": lambda: L.AdaptiveAveragePooling3D((4, 2, 3)),
        "adaptive-max": lambda: L.AdaptiveMaxPooling3D((4, 2, 3)),
        "zero-padding": lambda: L.ZeroPadding3D(((1, 0), (2, 1), (0, 3))),
        "cropping": lambda: L.Cropping3D(((1, 2), (3, 0), (0, 1))),
        "layer-norm": lambda: L.LayerNormalization(axis=[1, 2, 3, 4]),
        "group-norm": lambda: L.GroupNormalization(2, gamma_initializer="uniform"),
        "instance-norm": lambda: L.GroupNormalization(-1),
        "unit-norm": lambda: L.UnitNormalization(axis=[1, 4]),
        "prelu-shared": lambda: L.PReLU(alpha_initializer="uniform", shared_axes=[1, 2, 3]),
        "softmax-y": lambda: L.Softmax(axis=2),
        "permute": lambda: L.Permute((3, 1, 2, 4)),
        "reshape": lambda: L.Reshape((9, 8, 10)),
        "flatten": lambda: L.Flatten(),
        "time-distributed": lambda: L.TimeDistributed(L.Conv2D(3, 3, padding="same")),
        "rescaling": lambda: L.Rescaling(2.0, offset=-1.0),
        "resizing": lambda: ks.layers.Resizing3D((13, 4, 20)),
        "resizing-average": lambda: ks.layers.Resizing3D((4, 8, 3), antialias=True),
        "resizing-nearest": lambda: ks.layers.Resizing3D((4, 17, 10), interpolation="nearest"),
        "center-crop": lambda: ks.layers.CenterCrop3D((5, 8, 4)),
        "random-crop-inference": lambda: ks.layers.RandomCrop3D((5, 8, 4)),
    },
) | _cases(
    IMAGE_3D,
    {
        "batch-norm": lambda: L.BatchNormalization(),
        "random-flip": lambda: ks.layers.RandomFlip3D(seed=1),
        "random-flip-x": lambda: ks.layers.RandomFlip3D("x", seed=3),
        "random-contrast": lambda: ks.layers.RandomContrast3D(0.5, value_range=(-9, 9), seed=3),
        "random-brightness": lambda: ks.layers.RandomBrightness3D((-0.1, 0.3), value_range=(-9, 9), seed=3),
        "random-rotation": lambda: ks.layers.RandomRotation3D(0.2, "xyz", spacing=(1.0, 0.8, 2.5), seed=3),
        "random-rotation-constant": lambda: ks.layers.RandomRotation3D(
            0.1, fill_mode="constant", fill_value=-0.3, seed=3
        ),
        "random-translation": lambda: ks.layers.RandomTranslation3D(0.4, "xz", "nearest", seed=3),
        "random-zoom": lambda: ks.layers.RandomZoom3D((0.1, 0.4), "wrap", "nearest", seed=3),
        "random-crop": lambda: ks.layers.RandomCrop3D((5, 8, 4), seed=3),
    },
    training=True,
)

LAYERS_1D = _cases(
    IMAGE_1D,
    {
        "conv": lambda: L.Conv1D(4, 3, padding="same"),
        "conv-causal": lambda: L.Conv1D(4, 3, padding="causal", dilation_rate=2),
        "depthwise": lambda: L.DepthwiseConv1D(3, padding="same"),
        "separable": lambda: L.SeparableConv1D(4, 3, padding="same"),
        "transposed": lambda: L.Conv1DTranspose(4, 3, strides=2, padding="same"),
        "max-pool": lambda: L.MaxPooling1D(3, strides=2, padding="same"),
        "average-pool": lambda: L.AveragePooling1D(2),
        "up-sampling": lambda: L.UpSampling1D(2),
        "global-max": lambda: L.GlobalMaxPooling1D(),
        "global-average": lambda: L.GlobalAveragePooling1D(),
        "adaptive-average": lambda: L.AdaptiveAveragePooling1D(5),
        "adaptive-max": lambda: L.AdaptiveMaxPooling1D(5),
        "zero-padding": lambda: L.ZeroPadding1D((2, 1)),
        "cropping": lambda: L.Cropping1D((2, 1)),
    },
)


def channels_first(make, shape) -> Case:
    first = (0, len(shape), *range(1, len(shape)))

    def layer():
        inner = make()

        def call(x):
            y = inner(keras.ops.transpose(x, first))
            if len(y.shape) != len(first):
                return y
            return keras.ops.transpose(y, (0, *range(2, len(first)), 1))

        return call

    return Case(layer, shape)


CHANNELS_FIRST = {
    "conv-2d": channels_first(lambda: L.Conv2D(4, 3, padding="same", data_format="channels_first"), IMAGE_2D),
    "conv-3d": channels_first(
        lambda: L.Conv3D(4, 3, strides=2, padding="same", data_format="channels_first"), IMAGE_3D
    ),
    "depthwise": channels_first(lambda: L.DepthwiseConv2D(3, padding="same", data_format="channels_first"), IMAGE_2D),
    "separable": channels_first(lambda: L.SeparableConv2D(4, 3, data_format="channels_first"), IMAGE_2D),
    "max-pool": channels_first(lambda: L.MaxPooling2D(2, data_format="channels_first"), IMAGE_2D),
    "average-pool": channels_first(lambda: L.AveragePooling3D(2, data_format="channels_first"), IMAGE_3D),
    "global-max": channels_first(lambda: L.GlobalMaxPooling2D(data_format="channels_first"), IMAGE_2D),
    "global-average": channels_first(
        lambda: L.GlobalAveragePooling3D(data_format="channels_first", keepdims=True), IMAGE_3D
    ),
    "adaptive": channels_first(lambda: L.AdaptiveAveragePooling2D((5, 3), data_format="channels_first"), IMAGE_2D),
    "up-sampling": channels_first(lambda: L.UpSampling2D(2, data_format="channels_first"), IMAGE_2D),
    "zero-padding": channels_first(lambda: L.ZeroPadding3D(1, data_format="channels_first"), IMAGE_3D),
    "cropping": channels_first(lambda: L.Cropping2D(1, data_format="channels_first"), IMAGE_2D),
    "batch-norm": channels_first(lambda: L.BatchNormalization(axis=1), IMAGE_2D),
    "group-norm": channels_first(lambda: L.GroupNormalization(3, axis=1), IMAGE_2D),
    "flatten": channels_first(lambda: L.Flatten(data_format="channels_first"), IMAGE_2D),
}

_ARRAY = np.random.default_rng(0).normal(size=IMAGE_2D).astype("float32")


def _operations(**functions) -> dict[str, Case]:
    return {name.replace("_", "-"): Case(lambda f=f: f, IMAGE_2D) for name, f in functions.items()}


O = keras.ops  # noqa: E741

OPERATIONS = _operations(
    arithmetic=lambda x: (x * 2.0 - 1.0) / (O.abs(x) + 1.0) + O.exp(-(x**2)),
    where=lambda x: O.where(x > 0, O.sin(x), O.tanh(x)),
    clip=lambda x: O.clip(x, -0.5, 0.5),
    array=lambda x: x * _ARRAY + _ARRAY[0, 0],
    mean=lambda x: x - O.mean(x, axis=[1, 2], keepdims=True),
    mean_x=lambda x: O.mean(x, axis=1),
    mean_channels=lambda x: O.mean(x, axis=-1, keepdims=True),
    mean_all=lambda x: x * O.mean(x),
    sum=lambda x: O.sum(x, axis=2),
    max=lambda x: O.max(x, axis=(1, 2)),
    max_channels=lambda x: O.max(x, axis=-1, keepdims=True),
    min=lambda x: O.min(x, axis=1, keepdims=True),
    variance=lambda x: O.var(x, axis=[1, 2]),
    deviation=lambda x: O.std(x, axis=-1),
    moments=lambda x: O.moments(x, axes=[1, 2])[1],
    any=lambda x: x * O.cast(O.any(x > 2.0, axis=1, keepdims=True), "float32"),
    logsumexp=lambda x: O.logsumexp(x, axis=1),
    softmax=lambda x: O.softmax(x, axis=1),
    log_softmax=lambda x: O.log_softmax(x),
    normalize=lambda x: O.normalize(x, axis=1),
    concatenate=lambda x: O.concatenate([x, x * 2.0, x[:, :4]], axis=1),
    concatenate_channels=lambda x: O.concatenate([x, O.relu(x)], axis=-1),
    concatenate_other_blocks=lambda x: O.concatenate([x[:, 1::2], O.flip(x, 1)[:, ::2][:, :8]], axis=-1),
    stack=lambda x: O.stack([x, -x], axis=1),
    split=lambda x: O.split(x, 3, axis=-1)[1] + O.split(x, [5], axis=1)[0][:, :1],
    transpose=lambda x: O.transpose(x, (0, 2, 3, 1)),
    swap=lambda x: O.swapaxes(x, 1, 2),
    moveaxis=lambda x: O.moveaxis(x, 1, -1),
    swapped_sum=lambda x: x[:, :12] + O.swapaxes(x[:, :12], 1, 2),
    expand=lambda x: O.squeeze(O.expand_dims(x, 1), 1),
    reshape=lambda x: O.reshape(x, (-1, 17 * 12, 3)),
    reshape_batch=lambda x: O.reshape(x, (-1, 3)),
    slice=lambda x: x[:, 2:-3, ::2, :],
    slice_one=lambda x: x[:, 3, :, None, 1:],
    slice_ellipsis=lambda x: x[..., 0],
    slice_backwards=lambda x: x[:, ::-1, ::-2],
    flip=lambda x: O.flip(x, axis=1),
    roll=lambda x: O.roll(x, 3, axis=1),
    pad=lambda x: O.pad(x, [[0, 0], [1, 2], [0, 3], [0, 0]]),
    pad_value=lambda x: O.pad(x, [[0, 0], [1, 2], [0, 3], [1, 0]], constant_values=2.0),
    pad_reflect=lambda x: O.pad(x, [[0, 0], [1, 2], [3, 0], [0, 0]], mode="reflect"),
    pad_symmetric=lambda x: O.pad(x, [[0, 0], [4, 2], [3, 0], [0, 0]], mode="symmetric"),
    repeat=lambda x: O.repeat(x, 2, axis=1),
    tile=lambda x: O.tile(x, [1, 1, 2, 1]),
    broadcast=lambda x: O.broadcast_to(x[:, :1], (2, 17, 12, 3)),
    matmul=lambda x: O.matmul(x, _ARRAY[0, :3]),
    matmul_image=lambda x: O.matmul(x, O.transpose(x, (0, 1, 3, 2))),
    einsum_attention=lambda x: O.einsum("bqyc,bkyc->bqky", x, x),
    einsum_sum=lambda x: O.einsum("bxyc,bxyd->bcd", x, O.relu(x)),
    argmax=lambda x: O.cast(O.argmax(x, axis=-1), "float32")[..., None] * x,
    max_pool=lambda x: O.max_pool(x, 3, strides=2, padding="same"),
    average_pool=lambda x: O.average_pool(x, 2),
    resize=lambda x: O.image.resize(x, (34, 24), interpolation="bilinear"),
    resize_odd=lambda x: O.image.resize(x, (11, 19), interpolation="bicubic"),
    adaptive=lambda x: O.adaptive_average_pool(x, (4, 4)),
    leaky_relu=lambda x: O.leaky_relu(x, 0.3) + O.gelu(x) * O.hard_silu(x),
)
