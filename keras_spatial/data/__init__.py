"""Feeding partitioned models: block-wise data sets, read part by part, in step across processes, with augmentation.

This package needs TensorFlow Datasets and SciPy (the extras `app` and `medical`).
"""

from keras_spatial.data.loading import load, order, part_of
from keras_spatial.data.opening import StoreError, open_builder
from keras_spatial.data.store import Box, Part, Store
from keras_spatial.data.transforms import NNUNET, PAPER, STRONG, Augmentation, Transform

__all__ = [
    "NNUNET",
    "PAPER",
    "STRONG",
    "Augmentation",
    "Box",
    "Part",
    "Store",
    "StoreError",
    "Transform",
    "load",
    "open_builder",
    "order",
    "part_of",
]
