"""Metrics per case and per data set, with confidence intervals: for any classes, and those of LiTS.

`evaluate_classes` and `summarise_classes` work for any classes. The rest are the metrics of the Liver Tumor
Segmentation Benchmark (LiTS).

The definitions are those of Bilic et al., "The Liver Tumor Segmentation Benchmark (LiTS)", Medical Image Analysis
84:102680, and of the challenge's scoring program (`PatrickChrist/lits-challenge-scoring`). Where the program
contradicts its own definitions, this package follows the definitions. These are the deviations:

| the program | this package |
| --- | --- |
| An empty reference crashes the lesion detection. | It counts: all predicted lesions are false. |
| Merged lesions count on both sides, down to -1 detected. | Recall counts true lesions, precision predicted ones. |
| The union of a matched pair mixes component numbers of prediction and reference. | It is the union of the pair. |
| Only one bounding box, that of the first object, is searched for lesions. | Every lesion is found. |
| Overlap > 0 uses the matching for overlap > 0.5 and loses lesions there. | Any common voxel counts. |
| RVD is (R - P) / P. | RVD is (P - R) / R, as published. |
| A liver that consists only of lesion voxels counts as no liver. | The liver is label >= 1. |
| The tumour burden of a prediction without liver is 9001. | It is undefined; `defined` leaves the case out. |
| The maximum burden error is the largest signed difference. | It is the largest absolute difference. |
| MSD, RMSD and ASSD of undefined pairs enter the mean as 9001. | `value` is that mean; `defined` leaves them out. |
"""

from keras_spatial.evaluation.cases import CaseMetrics, EvaluationError, evaluate_case
from keras_spatial.evaluation.classes import (
    METRICS,
    ClassMetrics,
    LabelledCase,
    LabelledSummary,
    evaluate_classes,
    summarise_classes,
    write_class_csv,
)
from keras_spatial.evaluation.lesions import Lesion, LesionMatching, match_lesions
from keras_spatial.evaluation.masks import UNDEFINED, MaskMetrics, compare_masks
from keras_spatial.evaluation.summary import Estimate, Stratum, Summary, summarise
from keras_spatial.evaluation.surfaces import SurfaceDistances, surface, surface_distances
from keras_spatial.evaluation.table import case_row, write_csv

__all__ = [
    "METRICS",
    "UNDEFINED",
    "CaseMetrics",
    "ClassMetrics",
    "Estimate",
    "EvaluationError",
    "LabelledCase",
    "LabelledSummary",
    "Lesion",
    "LesionMatching",
    "MaskMetrics",
    "Stratum",
    "Summary",
    "SurfaceDistances",
    "case_row",
    "compare_masks",
    "evaluate_case",
    "evaluate_classes",
    "match_lesions",
    "summarise",
    "summarise_classes",
    "surface",
    "surface_distances",
    "write_class_csv",
    "write_csv",
]
