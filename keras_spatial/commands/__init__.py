"""What the commands of `keras-spatial` do; their arguments are in `keras_spatial_command`."""
