"""The networks of medicai, in 2D and 3D, at small widths and depths."""

from functools import partial
from importlib.metadata import version

import medicai.models as M

from ecosystem.cases import Library, Network, exported_models

IMAGE = (64, 96, 3)
SQUARE = (64, 64, 1)
VOLUME = (32, 32, 32, 1)


def resnet(shape, block="basic_block", **arguments):
    return M.ResNetBackbone(
        input_shape=shape,
        num_blocks=[1, 1, 1, 1],
        block_type=block,
        num_filters=[64, 6, 8, 10],
        conv_filters=[64],
        **arguments,
    )


def densenet(shape):
    return M.DenseNetBackbone(blocks=[1, 2, 1, 1], input_shape=shape, growth_rate=4)


def convnext(shape):
    return M.ConvNeXtBackbone(
        depths=[1, 1, 1, 1], projection_dims=[4, 6, 8, 10], input_shape=shape, layer_scale_init_value=0.5
    )


def convnext_v2(shape):
    return M.ConvNeXtBackboneV2(depths=[1, 1, 1, 1], projection_dims=[4, 6, 8, 10], input_shape=shape)


def efficientnet(shape):
    return M.EfficientNetBackbone(0.1, 0.3, shape, drop_connect_rate=0.0)


def efficientnet_v2(shape):
    blocks = [
        {
            "kernel_size": 3,
            "num_repeat": 1,
            "input_filters": 8,
            "output_filters": 8,
            "expand_ratio": 1,
            "se_ratio": 0.0,
            "strides": 1,
            "conv_type": 1,
        },
        {
            "kernel_size": 3,
            "num_repeat": 2,
            "input_filters": 8,
            "output_filters": 8,
            "expand_ratio": 2,
            "se_ratio": 0.0,
            "strides": 2,
            "conv_type": 1,
        },
        {
            "kernel_size": 3,
            "num_repeat": 1,
            "input_filters": 8,
            "output_filters": 16,
            "expand_ratio": 2,
            "se_ratio": 0.25,
            "strides": 2,
            "conv_type": 0,
        },
    ]
    return M.EfficientNetBackboneV2(1.0, 1.0, shape, blocks_args=blocks, drop_connect_rate=0.0)


def mit(shape):
    return M.MiTBackbone(
        shape,
        max_drop_path_rate=0.0,
        project_dim=[4, 4, 8, 8],
        num_heads=[1, 1, 2, 2],
        depths=[1, 1, 1, 1],
        mlp_ratios=[2, 2, 2, 2],
    )


def swin(shape, cls=M.SwinBackbone, **arguments):
    return cls(
        input_shape=shape,
        embed_dim=4,
        patch_size=2,
        window_size=4,
        mlp_ratio=2.0,
        drop_path_rate=0.0,
        depths=[2, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        downsampling_strategy="swin_unetr_like",
        **arguments,
    )


def vit(shape, **arguments):
    options = {
        "patch_size": 16,
        "num_layers": 4,
        "num_heads": 2,
        "hidden_dim": 8,
        "mlp_dim": 16,
        "use_class_token": False,
    }
    return M.ViTBackbone(input_shape=shape, **{**options, **arguments})


def unet(cls, encoder, depth=4, **arguments):
    return cls(
        encoder=encoder,
        encoder_depth=depth,
        num_classes=2,
        decoder_filters=(8, 6, 5, 4, 3),
        classifier_activation="softmax",
        **arguments,
    )


def transunet(encoder):
    return M.TransUNet(
        encoder=encoder,
        encoder_depth=3,
        num_classes=2,
        num_vit_layers=1,
        num_heads=2,
        num_queries=3,
        embed_dim=32,
        mlp_dim=8,
        dropout_rate=0.0,
        decoder_filters=(6, 4, 4),
    )


def unetr_plus_plus(shape):
    encoder = M.UNETRPlusPlusEncoder(
        input_shape=shape,
        patch_size=2,
        filters=[4, 8, 16, 32],
        spatial_reduced_tokens=[4, 4, 4, 4],
        depths=[1, 1, 1, 1],
        num_heads=2,
        transformer_dropout_rate=0.0,
    )
    return M.UNETRPlusPlus(encoder=encoder, num_classes=2, feature_size=2)


NETWORKS = {
    "ResNetBackbone, 2D": Network(partial(resnet, (45, 37, 2)), "2x3"),
    "ResNetBackbone, 2D, bottleneck, v2": Network(
        lambda: resnet((45, 37, 2), "bottleneck_block", use_pre_activation=True), "2x2"
    ),
    "ResNetBackbone, 2D, vd, squeeze and excite": Network(
        lambda: resnet((40, 37, 3), "bottleneck_block_vd", se_block=True, se_ratio=4, conv_kernel_sizes=[3]), "3x1"
    ),
    "ResNetBackbone, 2D, groups": Network(
        lambda: M.ResNetBackbone(
            input_shape=(40, 37, 3),
            num_blocks=[1, 1],
            block_type="bottleneck_block",
            num_filters=[64, 8],
            conv_filters=[64],
            num_strides=[1, 2],
            groups=4,
            width_per_group=16,
        ),
        "2x2",
    ),
    "ResNetBackbone, 3D": Network(partial(resnet, (25, 22, 19, 1)), "2x2x1"),
    "DenseNetBackbone, 2D": Network(partial(densenet, (45, 50, 3)), "2x2"),
    "DenseNetBackbone, 3D": Network(partial(densenet, (33, 40, 32, 1)), "2x1x2"),
    "EfficientNetBackbone, 2D": Network(partial(efficientnet, (45, 50, 3)), "2x2"),
    "EfficientNetBackbone, 3D": Network(partial(efficientnet, (32, 32, 20, 1)), "2x1x1"),
    "EfficientNetBackboneV2, 2D": Network(partial(efficientnet_v2, (45, 50, 3)), "2x2"),
    "EfficientNetBackboneV2, 3D": Network(partial(efficientnet_v2, (21, 22, 20, 1)), "2x2x1"),
    "ConvNeXtBackbone, 2D": Network(partial(convnext, (75, 90, 3)), "2x2"),
    "ConvNeXtBackbone, 3D": Network(partial(convnext, (32, 36, 33, 1)), "1x2x2"),
    "ConvNeXtBackboneV2, 2D": Network(partial(convnext_v2, (75, 90, 3)), "2x2"),
    "ConvNeXtBackboneV2, 3D": Network(partial(convnext_v2, (32, 36, 33, 1)), "1x2x1"),
    "XceptionBackbone, 2D": Network(lambda: M.XceptionBackbone((71, 72, 2)), "2x1"),
    "MiTBackbone, 2D": Network(partial(mit, SQUARE), "2x2"),
    "MiTBackbone, 3D": Network(partial(mit, VOLUME), "2x2x1"),
    "SwinBackbone, 2D": Network(partial(swin, SQUARE), "2x2", replicated=True, rounded=True, by_policy=True),
    "SwinBackbone, 3D": Network(partial(swin, VOLUME), "2x2x1", replicated=True, rounded=True, by_policy=True),
    "SwinBackboneV2, 2D": Network(partial(swin, SQUARE, M.SwinBackboneV2), "2x2", replicated=True, quick=True),
    "ViTBackbone, 2D": Network(partial(vit, SQUARE), "2x2", replicated=True),
    "ViTBackbone, 3D": Network(partial(vit, VOLUME), "2x2x1", replicated=True),
    "UNet, 2D": Network(lambda: unet(M.UNet, resnet(IMAGE)), "3x2"),
    "UNet, 3D": Network(
        lambda: unet(M.UNet, resnet((16, 24, 16, 1)), 3, decoder_block_type="transpose"), "2x2x1", quick=True
    ),
    "UNet, 2D, ConvNeXt, instance normalization": Network(
        lambda: unet(M.UNet, convnext(IMAGE), head_upsample=4, decoder_normalization="instance"), "2x2", rounded=True
    ),
    "UNet, 2D, EfficientNet": Network(lambda: unet(M.UNet, efficientnet(IMAGE), 5), "2x2"),
    "AttentionUNet, 2D": Network(lambda: unet(M.AttentionUNet, resnet(IMAGE), name="attention_unet"), "2x2"),
    "AttentionUNet, 3D": Network(
        lambda: unet(M.AttentionUNet, resnet((16, 24, 16, 1)), 3, name="attention_unet"), "2x1x2"
    ),
    "UNetPlusPlus, 2D": Network(lambda: unet(M.UNetPlusPlus, resnet(IMAGE)), "2x2"),
    "UNetPlusPlus, 3D": Network(lambda: unet(M.UNetPlusPlus, resnet((16, 24, 16, 1)), 3), "2x2x1"),
    "DeepLabV3Plus, 2D": Network(
        lambda: M.DeepLabV3Plus(
            encoder=resnet(IMAGE),
            encoder_depth=4,
            num_classes=2,
            decoder_channels=6,
            decoder_dilation_rates=(2, 3, 4),
            decoder_aspp_dropout=0.0,
            projection_filters=4,
        ),
        "3x2",
        rounded=True,
    ),
    "DeepLabV3Plus, 3D": Network(
        lambda: M.DeepLabV3Plus(
            encoder=resnet(VOLUME),
            encoder_depth=4,
            num_classes=2,
            decoder_channels=6,
            decoder_dilation_rates=(1, 2, 3),
            decoder_aspp_dropout=0.0,
            projection_filters=4,
        ),
        "2x2x1",
        rounded=True,
    ),
    "UPerNet, 2D": Network(
        lambda: M.UPerNet(encoder=convnext((96, 96, 3)), num_classes=2, decoder_filters=6), "2x2", rounded=True
    ),
    "UPerNet, 3D": Network(
        lambda: M.UPerNet(encoder=resnet(VOLUME), num_classes=2, decoder_filters=6, head_upsample=2),
        "2x2x1",
        rounded=True,
    ),
    "SegFormer, 2D": Network(
        lambda: M.SegFormer(encoder=mit(SQUARE), num_classes=2, decoder_head_embedding_dim=6),
        "2x2",
        rounded=True,
        quick=True,
    ),
    "SegFormer, 3D": Network(
        lambda: M.SegFormer(encoder=mit(VOLUME), num_classes=2, decoder_head_embedding_dim=6), "2x2x1", rounded=True
    ),
    "SwinUNETR, 2D": Network(
        lambda: M.SwinUNETR(encoder=swin(SQUARE), num_classes=2, window_size=4, feature_size=4),
        "2x2",
        replicated=True,
        rounded=True,
        by_policy=True,
    ),
    "SwinUNETR, 3D": Network(
        lambda: M.SwinUNETR(encoder=swin(VOLUME), num_classes=2, window_size=4, feature_size=4),
        "2x2x1",
        replicated=True,
        rounded=True,
        by_policy=True,
    ),
    "UNETR, 2D": Network(
        lambda: M.UNETR(encoder=vit(SQUARE), num_classes=2, feature_size=4), "2x2", replicated=True, quick=True
    ),
    "UNETR, 3D": Network(lambda: M.UNETR(encoder=vit(VOLUME), num_classes=2, feature_size=4), "2x2x1", replicated=True),
    "UNETRPlusPlus, 2D": Network(lambda: unetr_plus_plus(SQUARE), "2x2", training=False, replicated=True),
    "UNETRPlusPlus, 3D": Network(lambda: unetr_plus_plus(VOLUME), "2x2x1", training=False, replicated=True),
    "ResNet18, 2D": Network(
        lambda: M.ResNet18(input_shape=(45, 50, 3), num_classes=3, pooling="avg"), "2x2", training=False
    ),
    "SEResNet18, 3D": Network(
        lambda: M.SEResNet18(input_shape=(20, 21, 18, 1), num_classes=3, pooling="max"),
        "2x1x1",
        training=False,
    ),
    "TransUNet, 2D": Network(lambda: transunet(resnet(SQUARE)), "2x2", rounded=True, replicated=True, quick=True),
    "TransUNet, 3D": Network(lambda: transunet(resnet(VOLUME)), "2x2x1", rounded=True, replicated=True),
}

LIBRARY = Library(
    title=f"medicai {version('medicai')}",
    exported=exported_models(M),
    networks=NETWORKS,
    left_out={
        "`ConvNeXtBackbone` at a published size, with a dense head": (
            "ConvNeXtBase ConvNeXtLarge ConvNeXtSmall ConvNeXtTiny ConvNeXtXLarge"
        ),
        "`ConvNeXtBackboneV2` at a published size, with a dense head": (
            "ConvNeXtV2Atto ConvNeXtV2Base ConvNeXtV2Femto ConvNeXtV2Huge ConvNeXtV2Large ConvNeXtV2Nano "
            "ConvNeXtV2Pico "
            "ConvNeXtV2Small ConvNeXtV2Tiny"
        ),
        "`DenseNetBackbone` at a published size, with a dense head": "DenseNet121 DenseNet169 DenseNet201 DenseNet264",
        "`EfficientNetBackbone` at a published size, with a dense head": (
            "EfficientNetB0 EfficientNetB1 EfficientNetB2 EfficientNetB3 EfficientNetB4 EfficientNetB5 EfficientNetB6 "
            "EfficientNetB7 EfficientNetB8 EfficientNetL2"
        ),
        "`EfficientNetBackboneV2` at a published size, with a dense head": (
            "EfficientNetV2B0 EfficientNetV2B1 EfficientNetV2B2 EfficientNetV2B3 EfficientNetV2L EfficientNetV2M "
            "EfficientNetV2S"
        ),
        "`MiTBackbone` at a published size, with a dense head": (
            "MixViTB0 MixViTB1 MixViTB2 MixViTB3 MixViTB4 MixViTB5"
        ),
        "`ResNetBackbone` with groups at a published size, with a dense head": "ResNeXt50 ResNeXt101",
        "`ResNetBackbone` at a published size, with a dense head": (
            "ResNet34 ResNet50 ResNet50v2 ResNet50vd ResNet101 ResNet101v2 ResNet152 ResNet152v2 ResNet200vd"
        ),
        "`ResNetBackbone` with squeeze and excitation at a published size, with a dense head": (
            "SEResNeXt50 SEResNeXt101 SEResNet34 SEResNet50 SEResNet50v2 SEResNet50vd SEResNet101 SEResNet101v2 "
            "SEResNet152 SEResNet152v2 SEResNet200vd"
        ),
        "`SwinBackbone` at a published size, with a dense head": "SwinBase SwinSmall SwinTiny",
        "`SwinBackboneV2` at a published size, with a dense head": "SwinBaseV2 SwinSmallV2 SwinTinyV2",
        "the encoder inside `UNETRPlusPlus`": "UNETRPlusPlusEncoder",
        "`ViTBackbone` at a published size, with a dense head": "ViTBase ViTHuge ViTLarge",
        "`XceptionBackbone` with a dense head": "Xception",
    },
)
