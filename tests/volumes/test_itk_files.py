"""Complete NRRD and MetaImage files are read as by SimpleITK, and others are refused with a named error."""

import numpy as np
import pytest
import SimpleITK as sitk

import keras_spatial.volumes as vol
from keras_spatial.volumes.reading import read_grid

VOXELS = np.random.default_rng(0).integers(-1000, 1000, (6, 5, 4)).astype(np.int16)


def written(path, *, packed=True, voxels=VOXELS):
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((0.8, 0.7, 2.5))
    image.SetOrigin((3, 4, 5))
    image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    sitk.WriteImage(image, path, packed)
    return path


@pytest.mark.parametrize("ending", ["nrrd", "mha"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", [np.int16, np.uint8, np.float64])
def test_a_file_is_the_volume_that_its_nifti_twin_is(tmp_path, ending, packed, kind):
    voxels = VOXELS.astype(kind)
    found = vol.read_volume(written(tmp_path / f"v.{ending}", packed=packed, voxels=voxels))
    twin = vol.read_volume(written(tmp_path / "v.nii.gz", voxels=voxels))
    assert np.array_equal(found.array, twin.array)
    assert found.affine == pytest.approx(twin.affine, abs=1e-5)
    again = vol.read_volume(vol.write_labels(tmp_path / "l.nii.gz", found.array > 0, found))
    assert again.affine == pytest.approx(found.affine, abs=1e-5)


@pytest.mark.parametrize("ending", ["nrrd", "mha"])
def test_a_flipped_bit_of_packed_voxels_is_an_error_and_never_a_wrong_voxel(tmp_path, ending):
    path = written(tmp_path / f"v.{ending}")
    whole = path.read_bytes()
    start = whole.index(b"\n\n") + 2 if ending == "nrrd" else whole.index(b"LOCAL\n") + 6
    refused = 0
    for place in range(start, len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            assert np.array_equal(vol.read_volume(path).array, VOXELS.transpose(2, 1, 0))
        except vol.UnreadableVolumeError:
            refused += 1
    assert refused > 0.9 * (len(whole) - start)


@pytest.mark.parametrize("ending", ["nrrd", "mha"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_that_ends_early_is_named(tmp_path, ending, packed):
    path = written(tmp_path / f"v.{ending}", packed=packed)
    for cut in (1, 20, 400):
        path.write_bytes(written(path, packed=packed).read_bytes()[:-cut])
        with pytest.raises(vol.UnreadableVolumeError, match=r"copy or download it again|not a"):
            vol.read_volume(path)


def test_voxels_in_another_file_are_refused(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(240))
    path = written(tmp_path / "v.mha", packed=False)
    path.write_bytes(path.read_bytes().replace(b"= LOCAL", f"= {secret}".encode()))
    with pytest.raises(vol.UnreadableVolumeError, match="in the file itself"):
        vol.read_volume(path)
    path = written(tmp_path / "v.nrrd", packed=False)
    path.write_bytes(path.read_bytes().replace(b"\n\n", f"\ndata file: {secret}\n\n".encode()))
    with pytest.raises(vol.UnreadableVolumeError, match="in the file itself"):
        vol.read_volume(path)


@pytest.mark.parametrize("ending", ["nrrd", "mha"])
def test_limits_and_dimensions_are_checked(tmp_path, ending):
    with pytest.raises(vol.LimitError, match="at most 100 voxels"):
        vol.read_volume(written(tmp_path / f"v.{ending}"), vol.Limits(voxels=100))
    series = sitk.JoinSeries([sitk.GetImageFromArray(VOXELS)] * 2)
    sitk.WriteImage(series, tmp_path / f"w.{ending}")
    with pytest.raises(vol.DimensionError, match="three-dimensional"):
        vol.read_volume(tmp_path / f"w.{ending}")
    colours = sitk.GetImageFromArray(np.stack([VOXELS] * 3, -1), isVector=True)
    sitk.WriteImage(colours, tmp_path / f"c.{ending}")
    with pytest.raises(vol.DimensionError, match="3 values per voxel"):
        vol.read_volume(tmp_path / f"c.{ending}")


@pytest.mark.parametrize("ending", ["nrrd", "mha"])
@pytest.mark.parametrize("packed", [False, True])
def test_the_channels_along_the_fourth_axis_are_those_of_the_nifti_twin(tmp_path, ending, packed):
    first, second = (sitk.ReadImage(written(tmp_path / f"{n}.nrrd", voxels=VOXELS + n)) for n in (0, 7))
    path = tmp_path / f"both.{ending}"
    sitk.WriteImage(sitk.JoinSeries([first, second]), path, packed)
    for number, channel in zip((0, 7), vol.read_channels(path, 2), strict=True):
        twin = vol.read_volume(tmp_path / f"{number}.nrrd")
        assert np.array_equal(channel.array, twin.array)
        assert channel.affine == pytest.approx(twin.affine)
    shape, affine = read_grid(path, 2)
    assert shape == twin.array.shape
    assert affine == pytest.approx(twin.affine)
    for read in (vol.read_channels, read_grid):
        with pytest.raises(vol.DimensionError, match="expected 3 channels along the fourth axis"):
            read(path, 3)
        with pytest.raises(vol.LimitError, match=r"at most 239 voxels.*of 2 channels"):
            read(path, 2, vol.Limits(voxels=239))


@pytest.mark.parametrize("ending", ["nrrd", "mha"])
def test_a_header_that_promises_more_than_the_file_can_hold_is_found_without_reading_voxels(tmp_path, ending):
    for packed in (False, True):
        path = written(tmp_path / f"v.{ending}", packed=packed)
        content = path.read_bytes()
        for old, new in ((b"sizes: 4 5 6", b"sizes: 400 500 600"), (b"DimSize = 4 5 6", b"DimSize = 400 500 600")):
            content = content.replace(old, new)
        path.write_bytes(content)
        with pytest.raises(vol.UnreadableVolumeError, match="truncated or its header is damaged"):
            read_grid(path)


@pytest.mark.parametrize("ending", ["nrrd", "mha"])
def test_voxels_that_are_no_numbers_are_refused(tmp_path, ending):
    voxels = VOXELS.astype(np.float32)
    voxels[1, 2, 3] = np.nan
    with pytest.raises(vol.NonFiniteError, match="Received: 1 NaN or infinite of 120"):
        vol.read_volume(written(tmp_path / f"v.{ending}", voxels=voxels))


@pytest.mark.parametrize("ending", ["nrrd", "mha"])
def test_big_endian_voxels_are_read(tmp_path, ending):
    path = written(tmp_path / f"v.{ending}", packed=False)
    content = path.read_bytes()
    start = content.index(b"\n\n") + 2 if ending == "nrrd" else content.index(b"LOCAL\n") + 6
    head = content[:start].replace(b"endian: little", b"endian: big")
    head = head.replace(b"ByteOrderMSB = False", b"ByteOrderMSB = True")
    path.write_bytes(head + VOXELS.astype(">i2").tobytes())
    found = vol.read_volume(path)
    assert found.array.dtype.isnative
    assert np.array_equal(found.array, VOXELS.transpose(2, 1, 0))


@pytest.mark.parametrize("ending", ["nrrd", "mha"])
def test_what_is_no_such_file_is_named(tmp_path, ending):
    path = tmp_path / f"v.{ending}"
    for content in (b"", b"NRRD0004\n", b"ElementDataFile", bytes(600)):
        path.write_bytes(content)
        with pytest.raises(vol.UnreadableVolumeError, match=path.name):
            vol.read_volume(path)
