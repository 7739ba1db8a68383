"""Networks of the literature with small widths, written with plain Keras as users write them."""

import keras
from keras import layers as L
from keras import ops


def _block(x, filters: int, rank: int, norm: bool = True):
    convolution = {2: L.Conv2D, 3: L.Conv3D}[rank]
    x = convolution(filters, 3, padding="same", use_bias=not norm)(x)
    x = L.BatchNormalization()(x) if norm else x
    return L.ReLU()(x)


def unet_3d(shape=(12, 10, 8, 1)) -> keras.Model:
    """Çiçek et al., "3D U-Net", 2016."""
    inputs = x = keras.Input(shape)
    skips = []
    for filters in (3, 4):
        x = _block(_block(x, filters, 3), filters, 3)
        skips.append(x)
        x = L.MaxPooling3D(2)(x)
    x = _block(x, 6, 3)
    for filters, skip in zip((4, 3), reversed(skips), strict=True):
        x = L.Conv3DTranspose(filters, 2, strides=2)(x)
        crop = [(0, x.shape[i] - skip.shape[i]) if x.shape[i] > skip.shape[i] else (0, 0) for i in (1, 2, 3)]
        pad = [(0, max(skip.shape[i] - x.shape[i], 0)) for i in (1, 2, 3)]
        x = L.ZeroPadding3D(pad)(L.Cropping3D(crop)(x))
        x = _block(L.Concatenate()([x, skip]), filters, 3)
    return keras.Model(inputs, L.Conv3D(3, 1, activation="softmax")(x))


def unet_valid(shape=(44, 44, 1)) -> keras.Model:
    """Ronneberger et al., "U-Net", 2015: unpadded convolutions, and skips cropped to fit."""
    inputs = x = keras.Input(shape)
    x = skip = L.Conv2D(3, 3, activation="relu")(L.Conv2D(3, 3, activation="relu")(x))
    x = L.MaxPooling2D(2)(x)
    x = L.Conv2D(4, 3, activation="relu")(L.Conv2D(4, 3, activation="relu")(x))
    x = L.Conv2DTranspose(3, 2, strides=2)(x)
    margin = (skip.shape[1] - x.shape[1]) // 2
    x = L.Concatenate()([L.Cropping2D(margin)(skip), x])
    return keras.Model(inputs, L.Conv2D(2, 3)(x))


def residual_unet(shape=(14, 11, 2)) -> keras.Model:
    """Zhang et al., "Road Extraction by Deep Residual U-Net", 2018."""

    def residual(x, filters, stride):
        y = L.ReLU()(L.BatchNormalization()(x))
        y = L.Conv2D(filters, 3, strides=stride, padding="same", use_bias=False)(y)
        y = L.Conv2D(filters, 3, padding="same")(L.ReLU()(L.BatchNormalization()(y)))
        return L.Add()([y, L.Conv2D(filters, 1, strides=stride)(x)])

    inputs = keras.Input(shape)
    first = residual(inputs, 3, 1)
    second = residual(first, 4, 2)
    third = residual(second, 6, 2)
    x = L.UpSampling2D(2)(third)
    x = residual(L.Concatenate()([x[:, : second.shape[1], : second.shape[2]], second]), 4, 1)
    x = L.UpSampling2D(2)(x)
    x = residual(L.Concatenate()([x[:, : first.shape[1], : first.shape[2]], first]), 3, 1)
    return keras.Model(inputs, L.Conv2D(1, 1, activation="sigmoid")(x))


def vnet(shape=(8, 8, 12, 1)) -> keras.Model:
    """Milletari et al., "V-Net", 2016."""

    def stage(x, count):
        y = x
        for _ in range(count):
            y = L.PReLU(shared_axes=[1, 2, 3])(L.Conv3D(x.shape[-1], 5, padding="same")(y))
        return L.Add()([x, y])

    inputs = keras.Input(shape)
    first = stage(L.Conv3D(2, 5, padding="same")(inputs), 1)
    x = L.PReLU(shared_axes=[1, 2, 3])(L.Conv3D(4, 2, strides=2)(first))
    x = stage(x, 2)
    x = L.PReLU(shared_axes=[1, 2, 3])(L.Conv3DTranspose(2, 2, strides=2)(x))
    x = stage(L.Concatenate()([x, first]), 1)
    return keras.Model(inputs, L.Softmax()(L.Conv3D(2, 1)(x)))


def attention_unet(shape=(16, 12, 1)) -> keras.Model:
    """Oktay et al., "Attention U-Net", 2018: additive gates on the skips."""

    def gate(skip, signal, filters):
        theta = L.Conv2D(filters, 2, strides=2, padding="same")(skip)
        phi = L.Conv2D(filters, 1)(signal)
        weights = L.Conv2D(1, 1, activation="sigmoid")(ops.relu(theta + phi))
        weights = L.UpSampling2D(2, interpolation="bilinear")(weights)
        return skip * weights

    inputs = keras.Input(shape)
    first = _block(inputs, 3, 2)
    second = _block(L.MaxPooling2D(2)(first), 4, 2)
    third = _block(L.MaxPooling2D(2)(second), 6, 2)
    x = L.Concatenate()([L.Conv2DTranspose(4, 2, strides=2)(third), gate(second, third, 4)])
    x = _block(x, 4, 2)
    x = L.Concatenate()([L.Conv2DTranspose(3, 2, strides=2)(x), gate(first, x, 3)])
    return keras.Model(inputs, L.Conv2D(2, 1)(x))


def unet_3plus(shape=(16, 16, 1)) -> keras.Model:
    """Huang et al., "UNet 3+", 2020: full-scale skips, with deep supervision."""
    inputs = keras.Input(shape)
    encoders = [_block(inputs, 3, 2)]
    for filters in (4, 5):
        encoders.append(_block(L.MaxPooling2D(2)(encoders[-1]), filters, 2))

    def to_level(x, level, target):
        if level < target:
            x = L.MaxPooling2D(2 ** (target - level))(x)
        elif level > target:
            x = L.UpSampling2D(2 ** (level - target), interpolation="bilinear")(x)
        return L.Conv2D(2, 3, padding="same")(x)

    decoders = {2: encoders[2]}
    for target in (1, 0):
        parts = [to_level(encoders[level], level, target) for level in range(target + 1)]
        parts += [to_level(decoders[level], level, target) for level in range(target + 1, 3)]
        decoders[target] = _block(L.Concatenate()(parts), 6, 2)
    side = [
        L.UpSampling2D(2**level, interpolation="bilinear")(L.Conv2D(2, 3, padding="same")(decoders[level]))
        if level
        else L.Conv2D(2, 3, padding="same")(decoders[0])
        for level in range(3)
    ]
    return keras.Model(inputs, {f"side{i}": output for i, output in enumerate(side)})


def deeplab_v3plus(shape=(32, 32, 3)) -> keras.Model:
    """Chen et al., "Encoder-Decoder with Atrous Separable Convolution", 2018."""
    inputs = keras.Input(shape)
    low = _block(L.Conv2D(4, 3, strides=2, padding="same")(inputs), 4, 2)
    low = _block(L.Conv2D(4, 3, strides=2, padding="same")(low), 4, 2)
    high = _block(L.Conv2D(6, 3, strides=2, padding="same")(low), 6, 2)
    pooled = L.GlobalAveragePooling2D(keepdims=True)(high)
    pooled = L.UpSampling2D(high.shape[1:3], interpolation="bilinear")(_block(pooled, 3, 2))
    branches = [pooled, L.Conv2D(3, 1)(high)]
    branches += [L.SeparableConv2D(3, 3, dilation_rate=rate, padding="same")(high) for rate in (2, 3, 6)]
    x = _block(L.Concatenate()(branches), 4, 2)
    x = L.UpSampling2D(2, interpolation="bilinear")(x)
    x = _block(L.Concatenate()([x, L.Conv2D(2, 1)(low)]), 4, 2)
    x = L.UpSampling2D(4, interpolation="bilinear")(x)
    return keras.Model(inputs, L.Conv2D(3, 1)(x))


def segnet(shape=(18, 13, 3)) -> keras.Model:
    """Badrinarayanan et al., "SegNet", 2017, with up-sampling in place of the pooling's indices."""
    inputs = keras.Input(shape)
    x = L.MaxPooling2D(2, padding="same")(_block(inputs, 4, 2))
    x = L.MaxPooling2D(2, padding="same")(_block(x, 6, 2))
    x = _block(L.UpSampling2D(2)(x), 4, 2)
    x = _block(L.UpSampling2D(2)(x), 3, 2)
    x = L.Cropping2D(((0, x.shape[1] - shape[0]), (0, x.shape[2] - shape[1])))(x)
    return keras.Model(inputs, L.Conv2D(2, 1, activation="softmax")(x))


NETWORKS = {
    "3d-unet": (unet_3d, "2x2x2"),
    "unet-valid": (unet_valid, "2x3"),
    "residual-unet": (residual_unet, "3x2"),
    "v-net": (vnet, "2x1x2"),
    "attention-unet": (attention_unet, "2x2"),
    "unet-3plus": (unet_3plus, "4x1"),
    "deeplab-v3plus": (deeplab_v3plus, "2x2"),
    "segnet": (segnet, "1x4"),
}

A = keras.applications

APPLICATIONS = {
    "resnet50": lambda top: A.ResNet50(weights=None, include_top=top, input_shape=(48, 40, 3), classes=5),
    "efficientnet-v2-b0": lambda top: A.EfficientNetV2B0(
        weights=None, include_top=top, input_shape=(40, 40, 3), classes=5
    ),
    "convnext-tiny": lambda top: A.ConvNeXtTiny(weights=None, include_top=top, input_shape=(64, 64, 3), classes=5),
    "mobilenet-v3-small": lambda top: A.MobileNetV3Small(
        weights=None, include_top=top, input_shape=(64, 48, 3), classes=5
    ),
    "densenet121": lambda top: A.DenseNet121(weights=None, include_top=top, input_shape=(48, 40, 3), classes=5),
    "vgg16": lambda top: A.VGG16(weights=None, include_top=top, input_shape=(40, 48, 3), classes=5),
}
