"""The vision networks of keras-hub, at small widths and depths, with random weights."""

from functools import partial

import keras_hub
import keras_hub.models as M
from keras_hub.layers import SAMMaskDecoder, SAMPromptEncoder
from keras_hub.src.models.vae.vae_backbone import VAEBackbone  # The part of Stable Diffusion 3 that sees images.

from ecosystem.cases import Library, Network, exported_models, release

ANY = (None, None, 3)


def resnet(shape=ANY, **arguments):
    options = {
        "input_conv_filters": [4],
        "input_conv_kernel_sizes": [7],
        "stackwise_num_filters": [64, 8, 8, 8],
        "stackwise_num_blocks": [1, 1, 1, 1],
        "stackwise_num_strides": [1, 2, 2, 2],
        "block_type": "bottleneck_block",
    }
    return M.ResNetBackbone(image_shape=shape, **{**options, **arguments})


def basnet(shape=(64, 64, 3)):
    encoder = resnet(input_conv_filters=[64], block_type="basic_block")
    return M.BASNetBackbone(encoder, num_classes=1, image_shape=shape, projection_filters=64)


def cspnet(block, shape=(45, 50, 3), **arguments):
    options = {
        "stem_filters": 8,
        "stem_kernel_size": 3,
        "stem_strides": 1,
        "stackwise_depth": [1, 2],
        "stackwise_strides": [2, 2],
        "stackwise_num_filters": [8, 16],
    }
    return M.CSPNetBackbone(block_type=block, image_shape=shape, **{**options, **arguments})


def deeplab(shape=(64, 96, 3), encoder=None, low="P2"):
    return M.DeepLabV3Backbone(
        encoder or resnet(), "P5", 8, [2, 3, 4], low_level_feature_key=low, projection_filters=4, image_shape=shape
    )


def efficientnet_v1(shape=(45, 50, 3)):
    return M.EfficientNetBackbone(
        stackwise_kernel_sizes=[3, 5, 3],
        stackwise_num_repeats=[1, 2, 1],
        stackwise_input_filters=[8, 8, 16],
        stackwise_output_filters=[8, 16, 16],
        stackwise_expansion_ratios=[1, 3, 3],
        stackwise_squeeze_and_excite_ratios=[0.25, 0.25, 0.25],
        stackwise_strides=[1, 2, 2],
        stackwise_block_types=["v1"] * 3,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        dropout=0.0,
        input_shape=shape,
        num_features=16,
    )


def efficientnet_v2(shape=(45, 50, 3)):
    return M.EfficientNetBackbone(
        stackwise_kernel_sizes=[3, 3, 3],
        stackwise_num_repeats=[1, 2, 2],
        stackwise_input_filters=[8, 8, 16],
        stackwise_output_filters=[8, 16, 16],
        stackwise_expansion_ratios=[1, 3, 3],
        stackwise_squeeze_and_excite_ratios=[0, 0, 0.25],
        stackwise_strides=[1, 2, 2],
        stackwise_block_types=["fused", "fused", "unfused"],
        width_coefficient=1.0,
        depth_coefficient=1.0,
        dropout=0.0,
        input_shape=shape,
        num_features=16,
    )


def hgnet(shape=(64, 48, 3), **arguments):
    options = {
        "depths": [1, 1],
        "embedding_size": 4,
        "hidden_sizes": [8, 16],
        "stem_channels": [3, 4, 4],
        "hidden_act": "relu",
        "use_learnable_affine_block": True,
        "stackwise_stage_filters": [(4, 4, 8, 1, 2, 3), (8, 4, 16, 1, 2, 3)],
        "apply_downsample": [False, True],
        "use_lightweight_conv_block": [False, True],
    }
    return M.HGNetV2Backbone(image_shape=shape, **{**options, **arguments})


def mit(shape=(64, 64, 3)):
    return M.MiTBackbone(
        layerwise_depths=[1, 1, 1, 1],
        num_layers=4,
        layerwise_num_heads=[1, 1, 2, 2],
        layerwise_sr_ratios=[4, 2, 1, 1],
        max_drop_path_rate=0.0,
        layerwise_patch_sizes=[7, 3, 3, 3],
        layerwise_strides=[4, 2, 2, 2],
        image_shape=shape,
        hidden_dims=[4, 6, 8, 10],
    )


def mobilenet(shape=(50, 45, 3)):
    return M.MobileNetBackbone(
        stackwise_expansion=[[8, 12], [12, 12]],
        stackwise_num_blocks=[2, 2],
        stackwise_num_filters=[[8, 8], [12, 12]],
        stackwise_kernel_size=[[3, 3], [5, 5]],
        stackwise_num_strides=[[2, 1], [2, 1]],
        stackwise_se_ratio=[[None, None], [0.25, 0.25]],
        stackwise_activation=[["relu", "relu"], ["hard_swish", "hard_swish"]],
        stackwise_padding=[[1, 1], [2, 2]],
        output_num_filters=16,
        input_activation="hard_swish",
        output_activation="hard_swish",
        input_num_filters=8,
        image_shape=shape,
        depthwise_filters=8,
        depthwise_stride=2,
        depthwise_residual=False,
        squeeze_and_excite=0.5,
        last_layer_filter=16,
    )


def mobilenet_v5(shape=(64, 48, 3), attention=False):
    kind = "mqa" if attention else "uir"
    return M.MobileNetV5Backbone(
        stackwise_block_types=[["er"], ["uir", kind]],
        stackwise_num_blocks=[1, 2],
        stackwise_num_filters=[[8], [16, 16]],
        stackwise_strides=[[2], [2, 1]],
        stackwise_act_layers=[["gelu"], ["gelu", "gelu"]],
        stackwise_exp_ratios=[[2.0], [2.0, 2.0]],
        stackwise_se_ratios=[[0.0], [0.0, 0.0]],
        stackwise_dw_kernel_sizes=[[0], [5, 5]],
        stackwise_dw_start_kernel_sizes=[[0], [3, 0]],
        stackwise_dw_end_kernel_sizes=[[0], [0, 0]],
        stackwise_exp_kernel_sizes=[[3], [0, 0]],
        stackwise_pw_kernel_sizes=[[1], [0, 0]],
        stackwise_num_heads=[[0], [0, 2]],
        stackwise_key_dims=[[0], [0, 4]],
        stackwise_value_dims=[[0], [0, 4]],
        stackwise_kv_strides=[[0], [0, 1]],
        stackwise_use_cpe=[[False], [False, False]],
        use_msfa=False,
        image_shape=shape,
    )


def retinanet(shape=(96, 64, 3)):
    return M.RetinaNetBackbone(resnet(), 3, 6, True, image_shape=shape)


def vit_det(shape=(64, 64, 3), **arguments):
    options = {
        "hidden_size": 8,
        "num_layers": 2,
        "intermediate_dim": 16,
        "num_heads": 2,
        "global_attention_layer_indices": [1],
        "patch_size": 8,
        "num_output_channels": 4,
        "window_size": 3,
    }
    return M.ViTDetBackbone(image_shape=shape, **{**options, **arguments})


def sam():
    return M.SAMBackbone(
        image_encoder=vit_det(window_size=2, num_output_channels=8),
        prompt_encoder=SAMPromptEncoder(
            hidden_size=8, image_embedding_size=(8, 8), input_image_size=(64, 64), mask_in_channels=16
        ),
        mask_decoder=SAMMaskDecoder(
            num_layers=1,
            hidden_size=8,
            intermediate_dim=8,
            num_heads=2,
            embedding_dim=8,
            num_multimask_outputs=3,
            iou_head_depth=2,
            iou_head_hidden_dim=4,
        ),
    )


def swin(shape=(64, 64, 3)):
    return M.SwinTransformerBackbone(
        image_shape=shape, embed_dim=4, depths=[2, 1], num_heads=[1, 2], window_size=4, mlp_ratio=2.0, drop_path=0.0
    )


def vae(**arguments):
    return VAEBackbone([32, 32], [1, 1], [32, 32], [1, 1], sampler_method="mode", sample_channels=4, **arguments)


def vit(cls=M.ViTBackbone, **arguments):
    return cls((64, 64, 3), patch_size=16, num_layers=2, num_heads=2, hidden_dim=8, **arguments)


def dino_v2(**arguments):
    return M.DINOV2Backbone(
        patch_size=8,
        num_layers=4,
        hidden_dim=8,
        num_heads=2,
        intermediate_dim=16,
        image_shape=(64, 64, 3),
        position_embedding_shape=(64, 64, 3),
        use_mask_token=False,
        **arguments,
    )


def dino_v3():
    return M.DINOV3Backbone(
        patch_size=8,
        num_layers=2,
        hidden_dim=8,
        num_heads=2,
        intermediate_dim=16,
        image_shape=(64, 64, 3),
        use_mask_token=False,
    )


def depth_anything():
    return M.DepthAnythingBackbone(
        dino_v2(),
        reassemble_factors=[4, 2, 1, 0.5],
        neck_hidden_dims=[4, 4, 8, 8],
        fusion_hidden_dim=8,
        head_hidden_dim=4,
        head_in_index=-1,
        feature_keys=["stage1", "stage2", "stage3", "stage4"],
    )


def tower(cls):
    return cls(patch_size=8, hidden_dim=8, num_layers=2, num_heads=2, intermediate_dim=16, image_shape=(64, 64, 3))


def gemma3_vision():
    return M.Gemma3VisionEncoder(
        image_size=64,
        patch_size=8,
        num_heads=2,
        hidden_dim=8,
        num_layers=2,
        intermediate_dim=16,
        output_dim=8,
        pool_size=4,
    )


def xception(shape=(75, 70, 3)):
    return M.XceptionBackbone(
        stackwise_conv_filters=[[4, 8], [12, 12], [12, 12], [16, 16]],
        stackwise_pooling=[False, True, False, False],
        image_shape=shape,
    )


def classifier(cls, backbone, **arguments):
    return cls(backbone=backbone, num_classes=3, **arguments)


NETWORKS = {
    "ResNetBackbone": Network(partial(resnet, (45, 37, 3)), "2x3", quick=True),
    "ResNetBackbone, v2": Network(
        partial(resnet, (50, 37, 3), use_pre_activation=True, block_type="basic_block", input_conv_filters=[64]), "3x2"
    ),
    "ResNetBackbone, vd": Network(
        partial(
            resnet,
            (64, 50, 3),
            block_type="bottleneck_block_vd",
            input_conv_filters=[8, 8, 8],
            input_conv_kernel_sizes=[3, 3, 3],
        ),
        "2x2",
    ),
    "ResNetImageClassifier": Network(lambda: classifier(M.ResNetImageClassifier, resnet((40, 48, 3))), "2x2"),
    "VGGBackbone": Network(lambda: M.VGGBackbone([1, 2, 1], [4, 6, 8], image_shape=(45, 50, 3)), "3x2", quick=True),
    "VGGImageClassifier": Network(
        lambda: classifier(
            M.VGGImageClassifier,
            M.VGGBackbone([1, 1], [4, 6], image_shape=(32, 32, 3)),
            pooling="max",
            pooling_hidden_dim=8,
        ),
        "2x2",
        quick=True,
    ),
    "DenseNetBackbone": Network(
        lambda: M.DenseNetBackbone([1, 2, 1], image_shape=(45, 50, 3), growth_rate=4), "2x2", quick=True
    ),
    "CSPNetBackbone, dark": Network(partial(cspnet, "dark_block", stage_type="dark"), "2x2", quick=True),
    "CSPNetBackbone, bottleneck": Network(
        partial(cspnet, "bottleneck_block", stage_type="cs3", expand_ratio=[2.0]), "2x2"
    ),
    "CSPNetBackbone, edge": Network(
        partial(cspnet, "edge_block", stage_type="csp", avg_down=True, expand_ratio=[2.0]), "3x1", quick=True
    ),
    "XceptionBackbone": Network(xception, "2x2", quick=True),
    "EfficientNetBackbone, V1": Network(efficientnet_v1, "2x2"),
    "EfficientNetBackbone, V2": Network(efficientnet_v2, "3x2", quick=True),
    "HGNetV2Backbone": Network(hgnet, "2x2"),
    "MobileNetBackbone": Network(mobilenet, "2x2"),
    "MobileNetV5Backbone": Network(mobilenet_v5, "2x2", rounded=True),
    "MobileNetV5Backbone, attention": Network(partial(mobilenet_v5, attention=True), "2x2", rounded=True, quick=True),
    "BASNetBackbone": Network(basnet, "2x1", rounded=True),
    "BASNetImageSegmenter": Network(lambda: M.BASNetImageSegmenter(basnet()), "1x2", rounded=True),
    "DeepLabV3Backbone": Network(deeplab, "3x2", rounded=True),
    "DeepLabV3ImageSegmenter": Network(lambda: M.DeepLabV3ImageSegmenter(deeplab(), 3), "2x2", rounded=True),
    "DeepLabV3ImageSegmenter, V3": Network(
        lambda: M.DeepLabV3ImageSegmenter(deeplab(low=None), 3), "2x2", rounded=True
    ),
    "RetinaNetBackbone": Network(retinanet, "2x2"),
    "RetinaNetObjectDetector": Network(
        lambda: M.RetinaNetObjectDetector(retinanet((64, 64, 3)), 3), "2x1", replicated=True
    ),
    "MiTBackbone": Network(mit, "2x2", training=False),
    "MiTImageClassifier": Network(lambda: classifier(M.MiTImageClassifier, mit()), "2x1", training=False),
    "SegFormerBackbone": Network(
        lambda: M.SegFormerBackbone(mit(), 8), "2x2", rounded=True, training=False, quick=True
    ),
    "SegFormerImageSegmenter": Network(
        lambda: M.SegFormerImageSegmenter(M.SegFormerBackbone(mit(), 8), 3), "2x2", rounded=True, training=False
    ),
    "VAEBackbone": Network(vae, "2x2", shapes=(32, 40, 3)),
    "SwinTransformerBackbone": Network(swin, "2x2", replicated=True, quick=True),
    "ViTBackbone": Network(partial(vit, mlp_dim=16), "2x2", replicated=True, quick=True),
    "DeiTBackbone": Network(partial(vit, M.DeiTBackbone, intermediate_dim=16), "2x2", replicated=True),
    "ViTDetBackbone": Network(vit_det, "2x2", replicated=True, quick=True),
    "SAMBackbone": Network(
        sam,
        "2x2",
        replicated=True,
        shapes={"images": (64, 64, 3), "points": (1, 2), "labels": (1,), "boxes": (1, 2, 2), "masks": (0, 64, 64, 1)},
        quick=True,
    ),
    "DINOV2Backbone": Network(dino_v2, "2x2", replicated=True, quick=True),
    "DINOV3Backbone": Network(dino_v3, "2x2", replicated=True),
    "DepthAnythingBackbone": Network(depth_anything, "2x2", rounded=True, replicated=True, quick=True),
    "CLIPVisionEncoder": Network(partial(tower, M.CLIPVisionEncoder), "2x2", replicated=True),
    "SigLIPVisionEncoder": Network(partial(tower, M.SigLIPVisionEncoder), "2x2", replicated=True, quick=True),
    "MetaCLIP2VisionEncoder": Network(partial(tower, M.MetaCLIP2VisionEncoder), "2x2", replicated=True),
    "Gemma3VisionEncoder": Network(gemma3_vision, "2x2", shapes=(1, 64, 64, 3), replicated=True),
}

NOT_EXPORTED = {"VAEBackbone"}

LIBRARY = Library(
    title=f"keras-hub {release(keras_hub.__version__)}",
    exported=exported_models(M) | NOT_EXPORTED,
    networks=NETWORKS,
    left_out={
        "a base class": (
            "Backbone CausalLM Classifier DepthEstimator FeaturePyramidBackbone ImageClassifier ImageObjectDetector "
            "ImageSegmenter ImageToImage Inpaint MaskedLM ObjectDetector Seq2SeqLM Task TextClassifier TextEmbedder "
            "TextToImage"
        ),
        "its backbone with the head of `ResNetImageClassifier`": (
            "CSPNetImageClassifier DenseNetImageClassifier EfficientNetImageClassifier HGNetV2ImageClassifier "
            "MobileNetImageClassifier MobileNetV5ImageClassifier SwinTransformerImageClassifier XceptionImageClassifier"
        ),
        "its backbone with a dense head on its tokens": "DeiTImageClassifier ViTImageClassifier",
        "`DepthAnythingBackbone` with a pointwise head": "DepthAnythingDepthEstimator",
        "`SAMBackbone` with its outputs renamed": "SAMImageSegmenter",
        "a detection transformer: its backbone, `HGNetV2Backbone`, is compared": "DFineBackbone DFineObjectDetector",
        "an image tower and a text tower: the image tower is compared": (
            "CLIPBackbone MetaCLIP2Backbone SigLIPBackbone"
        ),
        "a language model that reads images: of its kind of image tower `Gemma3VisionEncoder` is compared": (
            "BLIP2Backbone BLIP2CausalLM BLIP2QFormer BLIP2Seq2SeqLM BLIP2VisionEncoder Gemma3Backbone Gemma3CausalLM "
            "Gemma3nBackbone Gemma3nCausalLM Gemma4Backbone Gemma4CausalLM Gemma4VisionEncoder PaliGemmaBackbone "
            "PaliGemmaCausalLM Qwen3_5Backbone Qwen3_5CausalLM Qwen3_5MoeBackbone Qwen3_5MoeCausalLM T5Gemma2Backbone "
            "T5Gemma2Seq2SeqLM"
        ),
        "reads lines of text by a transformer over tokens": "PARSeqBackbone PARSeqCausalLM",
        "segments by text prompts, a language model with a transformer decoder": (
            "SAM3PromptableConceptBackbone SAM3PromptableConceptImageSegmenter"
        ),
        "draws images by a transformer over tokens: its autoencoder, `VAEBackbone`, is compared": (
            "FluxBackbone FluxTextToImage StableDiffusion3Backbone StableDiffusion3ImageToImage "
            "StableDiffusion3Inpaint StableDiffusion3TextToImage"
        ),
        "a transformer over frames of video": "VideoPrismBackbone",
        "sees no image: text, sound or proteins": (
            "AlbertBackbone AlbertClassifier AlbertMaskedLM AlbertTextClassifier BLIP2CustomOPT BLIP2FlanT5 "
            "BartBackbone "
            "BartSeq2SeqLM BertBackbone BertClassifier BertMaskedLM BertTextClassifier BertTextEmbedder BloomBackbone "
            "BloomCausalLM CLIPTextEncoder DebertaV3Backbone DebertaV3Classifier DebertaV3MaskedLM "
            "DebertaV3TextClassifier DistilBertBackbone DistilBertClassifier DistilBertMaskedLM "
            "DistilBertTextClassifier "
            "ESM2Backbone ESM2MaskedPLM ESMBackbone ESMMaskedPLM ESMProteinClassifier EdRecBackbone EdRecSeq2SeqLM "
            "ElectraBackbone FNetBackbone FNetClassifier FNetMaskedLM FNetTextClassifier FalconBackbone FalconCausalLM "
            "GPT2Backbone GPT2CausalLM GPTNeoXBackbone GPTNeoXCausalLM Gemma3TextEmbedder Gemma4AssistantCausalLM "
            "Gemma4AudioEncoder GemmaBackbone GemmaCausalLM GptOssBackbone GptOssCausalLM Llama3Backbone "
            "Llama3CausalLM "
            "LlamaBackbone LlamaCausalLM MetaCLIP2TextEncoder MistralBackbone MistralCausalLM MixtralBackbone "
            "MixtralCausalLM MoonshineAudioToText MoonshineBackbone OPTBackbone OPTCausalLM Phi3Backbone Phi3CausalLM "
            "Qwen2Backbone Qwen2CausalLM Qwen3Backbone Qwen3CausalLM Qwen3MoeBackbone Qwen3MoeCausalLM "
            "Qwen3TextEmbedder "
            "QwenBackbone QwenCausalLM QwenMoeBackbone QwenMoeCausalLM RWKV7Backbone RWKV7CausalLM RobertaBackbone "
            "RobertaClassifier RobertaMaskedLM RobertaTextClassifier RoformerV2Backbone RoformerV2MaskedLM "
            "RoformerV2TextClassifier SigLIPTextEncoder SmolLM3Backbone SmolLM3CausalLM SmolLMBackbone SmolLMCausalLM "
            "T5Backbone T5GemmaBackbone T5GemmaSeq2SeqLM T5Seq2SeqLM WhisperBackbone XLMRobertaBackbone "
            "XLMRobertaClassifier XLMRobertaMaskedLM XLMRobertaTextClassifier XLMRobertaTextEmbedder XLNetBackbone"
        ),
    },
)
