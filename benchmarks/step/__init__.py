"""The training step of the same U-Net here, in JAX and in PyTorch: see `benchmarks/step/__main__.py`."""
