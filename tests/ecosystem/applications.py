"""The networks of keras.applications, without their pretrained weights."""

from functools import partial

import keras

from ecosystem.cases import Library, Network, release

A = keras.applications


def application(make, shape, include_top=False, **arguments):
    return make(
        weights=None, include_top=include_top, input_shape=shape, **({"classes": 5} if include_top else {}), **arguments
    )


NETWORKS = {
    "ConvNeXtTiny": Network(partial(application, A.ConvNeXtTiny, (64, 64, 3), True), "2x1", training=False),
    "DenseNet121": Network(partial(application, A.DenseNet121, (48, 40, 3)), "2x1"),
    "EfficientNetB0": Network(partial(application, A.EfficientNetB0, (40, 45, 3)), "2x1", training=False),
    "EfficientNetV2B0": Network(partial(application, A.EfficientNetV2B0, (40, 45, 3)), "1x2", training=False),
    "InceptionResNetV2": Network(partial(application, A.InceptionResNetV2, (80, 75, 3)), "2x1"),
    "InceptionV3": Network(partial(application, A.InceptionV3, (75, 80, 3)), "2x1"),
    "MobileNet": Network(partial(application, A.MobileNet, (50, 45, 3), alpha=0.25), "2x2"),
    "MobileNetV2": Network(partial(application, A.MobileNetV2, (50, 45, 3), alpha=0.35), "2x2"),
    "MobileNetV3Large": Network(partial(application, A.MobileNetV3Large, (50, 45, 3), minimalistic=True), "2x1"),
    "MobileNetV3Small": Network(partial(application, A.MobileNetV3Small, (50, 45, 3)), "2x1"),
    "NASNetMobile": Network(partial(application, A.NASNetMobile, (45, 40, 3)), "2x1"),
    "ResNet50": Network(partial(application, A.ResNet50, (48, 45, 3)), "2x1"),
    "ResNet50V2": Network(partial(application, A.ResNet50V2, (48, 45, 3)), "1x2"),
    "VGG16": Network(partial(application, A.VGG16, (40, 48, 3), True), "3x1", training=False),
    "Xception": Network(partial(application, A.Xception, (72, 75, 3)), "2x1"),
}

LIBRARY = Library(
    title=f"keras.applications of Keras {release(keras.version())}",
    exported=frozenset(name for name in dir(A) if name[0].isupper()),
    networks=NETWORKS,
    left_out={
        "`ConvNeXtTiny`, wider and deeper": "ConvNeXtBase ConvNeXtLarge ConvNeXtSmall ConvNeXtXLarge",
        "`DenseNet121`, deeper": "DenseNet169 DenseNet201",
        "`EfficientNetB0`, wider and deeper": (
            "EfficientNetB1 EfficientNetB2 EfficientNetB3 EfficientNetB4 EfficientNetB5 EfficientNetB6 EfficientNetB7"
        ),
        "`EfficientNetV2B0`, wider and deeper": (
            "EfficientNetV2B1 EfficientNetV2B2 EfficientNetV2B3 EfficientNetV2L EfficientNetV2M EfficientNetV2S"
        ),
        "`NASNetMobile`, wider and deeper": "NASNetLarge",
        "`ResNet50`, deeper": "ResNet101 ResNet152",
        "`ResNet50V2`, deeper": "ResNet101V2 ResNet152V2",
        "`VGG16`, deeper": "VGG19",
    },
)
