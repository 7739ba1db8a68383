"""Segmenting volumes with a trained model: whole images, or patches as a baseline to compare with. Needs `medical`."""

from keras_spatial.inference.files import predict_to_files
from keras_spatial.inference.flips import flip_average
from keras_spatial.inference.probabilities import probabilities_of
from keras_spatial.inference.segmentation import Patches, Segmentation, keep_largest_liver, segment
from keras_spatial.inference.sliding import importance, sliding_window, window_starts

__all__ = [
    "Patches",
    "Segmentation",
    "flip_average",
    "importance",
    "keep_largest_liver",
    "predict_to_files",
    "probabilities_of",
    "segment",
    "sliding_window",
    "window_starts",
]
