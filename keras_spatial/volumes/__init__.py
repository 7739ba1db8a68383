"""CT and MR volumes as NIfTI, NRRD, MetaImage and DICOM: reading, orientation, resampling, intensities, writing.

Data sets and inference share these functions, so that a network sees at inference what it saw in training. This package
needs the `medical` extra (nibabel, python-isal, SciPy, SimpleITK) and, for DICOM, the `dicom` extra. It does not need
TensorFlow.

A volume covers its field of view with adjacent voxels. Resampling keeps the field of view and changes the number of
voxels, so that on every grid voxel i of n covers the part [i/n, (i+1)/n] of an axis.
"""

from keras_spatial.volumes.dicom_segmentation import write_dicom_segmentation
from keras_spatial.volumes.grid import Grid, resampled_affine
from keras_spatial.volumes.intensities import Intensities, Percentiles, Window, ZScore
from keras_spatial.volumes.labels import (
    as_labels,
    bounding_box,
    components,
    labels_from_probabilities,
    resample_labels,
)
from keras_spatial.volumes.limits import Limits
from keras_spatial.volumes.place import placed_on
from keras_spatial.volumes.reading import read_channels, read_volume
from keras_spatial.volumes.resampling import resample_image
from keras_spatial.volumes.series import Series, find_series
from keras_spatial.volumes.task import (
    LITS,
    TASK,
    Channel,
    Task,
    TaskError,
    check_channels,
    metric_name,
    read_task,
    task_of,
    whole_hounsfield,
    write_task,
)
from keras_spatial.volumes.volume import (
    AffineError,
    ChannelError,
    DimensionError,
    FileNameError,
    GantryTiltError,
    IntensityError,
    LabelError,
    LimitError,
    NonFiniteError,
    ScaleError,
    SeriesError,
    Shape,
    SliceError,
    SpacingError,
    UnreadableVolumeError,
    Volume,
    VolumeError,
    check_hounsfield,
    from_canonical,
    hu_window,
    to_canonical,
)
from keras_spatial.volumes.writing import check_output, write_labels

__all__ = [
    "LITS",
    "TASK",
    "AffineError",
    "Channel",
    "ChannelError",
    "DimensionError",
    "FileNameError",
    "GantryTiltError",
    "Grid",
    "Intensities",
    "IntensityError",
    "LabelError",
    "LimitError",
    "Limits",
    "NonFiniteError",
    "Percentiles",
    "ScaleError",
    "Series",
    "SeriesError",
    "Shape",
    "SliceError",
    "SpacingError",
    "Task",
    "TaskError",
    "UnreadableVolumeError",
    "Volume",
    "VolumeError",
    "Window",
    "ZScore",
    "as_labels",
    "bounding_box",
    "check_channels",
    "check_hounsfield",
    "check_output",
    "components",
    "find_series",
    "from_canonical",
    "hu_window",
    "labels_from_probabilities",
    "metric_name",
    "placed_on",
    "read_channels",
    "read_task",
    "read_volume",
    "resample_image",
    "resample_labels",
    "resampled_affine",
    "task_of",
    "to_canonical",
    "whole_hounsfield",
    "write_dicom_segmentation",
    "write_labels",
    "write_task",
]
