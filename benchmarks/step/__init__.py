"""The same U-Net's training step in JAX and PyTorch, and here: see `benchmarks/step/__main__.py`."""
