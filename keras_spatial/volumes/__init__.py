"""CT volumes as NIfTI files: reading, orientation, resampling, the Hounsfield window, writing.

The data sets and the inference share these functions, so that a network sees at inference what it saw in training.
Needs the `medical` extra (nibabel, python-isal, SciPy, SimpleITK) and no TensorFlow.

Grids: a volume covers its field of view with voxels side by side. Resampling keeps the field of view and changes the
number of voxels, so that voxel i of n covers the part [i/n, (i+1)/n] of the axis on every grid.
"""

from keras_spatial.volumes.files import read_volume, write_labels
from keras_spatial.volumes.labels import (
    as_labels,
    bounding_box,
    components,
    labels_from_probabilities,
    resample_labels,
)
from keras_spatial.volumes.resampling import resample_image
from keras_spatial.volumes.volume import (
    AffineError,
    DimensionError,
    LabelError,
    NonFiniteError,
    Shape,
    UnreadableVolumeError,
    Volume,
    VolumeError,
    from_canonical,
    hu_window,
    to_canonical,
)

__all__ = [
    "AffineError",
    "DimensionError",
    "LabelError",
    "NonFiniteError",
    "Shape",
    "UnreadableVolumeError",
    "Volume",
    "VolumeError",
    "as_labels",
    "bounding_box",
    "components",
    "from_canonical",
    "hu_window",
    "labels_from_probabilities",
    "read_volume",
    "resample_image",
    "resample_labels",
    "to_canonical",
    "write_labels",
]
