"""Feeding partitioned models: block-wise data sets read part by part, in step across processes, and augmented.

Needs TensorFlow Datasets and SciPy (the extras `app` and `medical`).
"""

from keras_spatial.data.augment import PAPER, STRONG, Augmentation, Transform
from keras_spatial.data.loading import load, order, part_of
from keras_spatial.data.store import Box, Part, Store, StoreError

__all__ = [
    "PAPER",
    "STRONG",
    "Augmentation",
    "Box",
    "Part",
    "Store",
    "StoreError",
    "Transform",
    "load",
    "order",
    "part_of",
]
