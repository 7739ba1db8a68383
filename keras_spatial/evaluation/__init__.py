"""Metrics per case and per data set, with confidence intervals: of any classes, and those of LiTS.

`evaluate_classes` and `summarise_classes` take the names of any classes. The rest are the metrics of the Liver Tumor
Segmentation Benchmark (LiTS).

Definitions: Bilic et al., "The Liver Tumor Segmentation Benchmark (LiTS)", Medical Image Analysis 84:102680, and the
challenge's scoring program (`PatrickChrist/lits-challenge-scoring`). Where the program contradicts its own definitions,
the definitions are followed. The deviations:

| the program | here |
| --- | --- |
| an empty reference crashes the lesion detection | counts: no reference lesion, every predicted one false |
| merged lesions count on both sides, down to -1 detected | recall counts reference lesions, precision predicted ones |
| the union of a matched pair mixes component numbers of prediction and reference | the union of the pair |
| only one bounding box, that of the first object, is searched for lesions | every lesion |
| overlap > 0 goes through the matching for overlap > 0.5 and loses lesions there | any common voxel |
| RVD is (R - P) / P | (P - R) / R, as published |
| a liver of lesion voxels only counts as no liver | liver is label >= 1 |
| tumour burden of a prediction without liver is 9001 | undefined; `defined` leaves the case out |
| the maximum burden error is the largest signed difference | the largest absolute difference |
| MSD, RMSD, ASSD of undefined pairs enter the mean as 9001 | `value` is that mean, `defined` the mean without them |
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
