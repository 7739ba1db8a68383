"""Ready-made networks."""

from keras_spatial.models.unet import UNet2D, UNet3D

__all__ = ["UNet2D", "UNet3D"]
