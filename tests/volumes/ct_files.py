"""CT volumes as NIfTI files, for the tests of reading, resampling and writing."""

import nibabel as nib
import numpy as np

AFFINE = np.diag([-0.8, -0.8, 2.5, 1.0])


def write(path, array, affine=AFFINE, image_class=nib.Nifti1Image, unit="mm"):
    image = image_class(array, affine)
    image.header.set_xyzt_units(unit)
    nib.save(image, path)
    return path


def ct(shape=(5, 6, 7), seed=0):
    return np.random.default_rng(seed).integers(-1000, 1000, shape).astype(np.int16)
