"""Train a 3D U-Net on a mesh of devices."""
