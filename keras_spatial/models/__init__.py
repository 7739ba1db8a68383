"""Ready-made networks."""

from keras_spatial.models.attention_unet import AttentionUNet2D, AttentionUNet3D
from keras_spatial.models.residual_unet import ResidualUNet2D, ResidualUNet3D
from keras_spatial.models.unet import UNet2D, UNet3D
from keras_spatial.models.vnet import VNet2D, VNet3D

__all__ = [
    "AttentionUNet2D",
    "AttentionUNet3D",
    "ResidualUNet2D",
    "ResidualUNet3D",
    "UNet2D",
    "UNet3D",
    "VNet2D",
    "VNet3D",
]
