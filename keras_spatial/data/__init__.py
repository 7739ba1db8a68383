"""Feeding partitioned models: block-wise data sets, read part by part, in step across processes, with augmentation.

This package needs TensorFlow Datasets and SciPy (the extras `app` and `medical`).
"""

from keras_spatial.data.boxes import Box, Part
from keras_spatial.data.classes import CaseClasses, ClassPlaces, find_classes, read_classes, write_classes
from keras_spatial.data.loading import load, order, part_of
from keras_spatial.data.opening import StoreError, open_builder
from keras_spatial.data.oversampling import Oversampling, rare_classes
from keras_spatial.data.store import Store
from keras_spatial.data.transforms import NNUNET, PAPER, STRONG, Augmentation, Transform

__all__ = [
    "NNUNET",
    "PAPER",
    "STRONG",
    "Augmentation",
    "Box",
    "CaseClasses",
    "ClassPlaces",
    "Oversampling",
    "Part",
    "Store",
    "StoreError",
    "Transform",
    "find_classes",
    "load",
    "open_builder",
    "order",
    "part_of",
    "rare_classes",
    "read_classes",
    "write_classes",
]
