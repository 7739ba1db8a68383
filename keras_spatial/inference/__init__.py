"""Segmenting volumes with a trained model: whole images, or patches as a baseline. It needs the `medical` extra."""

from keras_spatial.inference.batches import segment_all, segment_each, write_failed
from keras_spatial.inference.files import predict_to_files
from keras_spatial.inference.flips import flip_average
from keras_spatial.inference.job import Traffic
from keras_spatial.inference.outcomes import Outcome
from keras_spatial.inference.probabilities import ensemble_average, probabilities_of
from keras_spatial.inference.segmentation import Patches, Segmentation, keep_largest_liver, segment
from keras_spatial.inference.sliding import importance, sliding_window, window_starts
from keras_spatial.inference.sources import (
    NothingToSegment,
    ResultsCollide,
    Source,
    VolumesBelow,
    check_results,
    find_sources,
)

__all__ = [
    "NothingToSegment",
    "Outcome",
    "Patches",
    "ResultsCollide",
    "Segmentation",
    "Source",
    "Traffic",
    "VolumesBelow",
    "check_results",
    "ensemble_average",
    "find_sources",
    "flip_average",
    "importance",
    "keep_largest_liver",
    "predict_to_files",
    "probabilities_of",
    "segment",
    "segment_all",
    "segment_each",
    "sliding_window",
    "window_starts",
    "write_failed",
]
