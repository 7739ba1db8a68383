"""Labels are written on the grid of their volume, or not at all."""

import nibabel as nib
import numpy as np
import pytest
from volumes.ct_files import ct, write

from keras_spatial import volumes as vol


@pytest.mark.parametrize("image_class", [nib.Nifti1Image, nib.Nifti2Image])
def test_labels_are_written_on_the_grid_of_the_volume(tmp_path, image_class):
    source = write(tmp_path / "v.nii.gz", ct(), image_class=image_class)
    volume = vol.read_volume(source)
    labels = (volume.array > 0).astype(int)
    again = vol.read_volume(vol.write_labels(tmp_path / "out" / "s.nii.gz", labels, volume))
    assert again.array.dtype == np.uint8
    assert np.array_equal(again.array, labels)
    assert np.array_equal(again.affine, volume.affine)
    for name in ("qform_code", "sform_code", "xyzt_units", "pixdim"):
        assert np.array_equal(again.header[name], volume.header[name])
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["s.nii.gz"]


@pytest.mark.parametrize(("name", "shape"), [("s.png", (5, 6, 7)), ("s.nii", (5, 6, 8))])
def test_labels_that_do_not_fit_are_not_written(tmp_path, name, shape):
    volume = vol.read_volume(write(tmp_path / "v.nii.gz", ct()))
    with pytest.raises(vol.VolumeError, match="Received"):
        vol.write_labels(tmp_path / "out" / name, np.zeros(shape, int), volume)
    assert not (tmp_path / "out" / name).exists()
