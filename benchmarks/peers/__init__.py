"""The same U-Net's training step in JAX and PyTorch, and here: see `benchmarks/peers/__main__.py`."""
