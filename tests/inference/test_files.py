"""Predictions that are written block by block are those of `predict`."""

import keras
import nibabel as nib
import numpy as np
import pytest
import tensorflow as tf
import zarr
from equality import split

import keras_spatial as ks

SHAPE = (13, 10, 6)  # No mesh of the tests divides these sizes.
AFFINE = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -3], [0, 0, 3.0, 1], [0, 0, 0, 1]])


def model_on(mesh: str, layout: str | None = None) -> ks.Model:
    keras.utils.set_random_seed(2)
    inputs = keras.Input((*SHAPE, 1))
    x = keras.layers.Conv3D(4, 3, padding="same", activation="relu")(inputs)
    model = keras.Model(inputs, keras.layers.Conv3D(3, 1)(x))
    return ks.partition(model, split(mesh) if layout is None else split(mesh, layout))


def images_of(count: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, *SHAPE, 1)).astype("float32")


@pytest.mark.parametrize(
    ("mesh", "layout"),
    [
        ("2x2", None),
        ("4x3", None),
        ("batch:2, rows:2", "batch:batch, x:rows"),
        ("rows:2, spare:2", "x:rows"),  # Two devices hold the same.
    ],
)
def test_blocks_cover_the_output_once(mesh, layout):
    model, images = model_on(mesh, layout), images_of(4)
    wanted = model.predict(images, batch_size=2, verbose=0)
    found, times = np.zeros_like(wanted), np.zeros(wanted.shape, int)
    for number, blocks in enumerate(model.predict_blocks(images, batch_size=2)):
        for block in blocks:
            place = (slice(2 * number + block.index[0].start, 2 * number + block.index[0].stop), *block.index[1:])
            found[place] = block.values
            times[place] += 1
    np.testing.assert_array_equal(times, 1)
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


def test_every_output_of_a_model_has_its_blocks():
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(2, 3, padding="same")(inputs)
    model = keras.Model(inputs, {"map": x, "whole": keras.layers.GlobalAveragePooling2D()(x)})
    model = ks.partition(model, split("2x2"))
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype("float32")
    wanted = model.predict(images, verbose=0)
    (found,) = model.predict_blocks(images)
    assert set(found) == {"map", "whole"} and len(found["map"]) == 4 and len(found["whole"]) == 1
    np.testing.assert_allclose(found["whole"][0].values, wanted["whole"], rtol=1e-5)
    np.testing.assert_allclose(found["map"][3].values, wanted["map"][found["map"][3].index], rtol=1e-5)


def test_nifti_labels_lie_where_the_affine_says(tmp_path):
    model, images = model_on("2x2"), images_of(1)
    (path,) = ks.inference.predict_to_files(model, images, tmp_path / "new" / "labels.nii", affine=AFFINE)
    written = nib.load(path)
    np.testing.assert_array_equal(np.asarray(written.dataobj), model.predict(images, verbose=0)[0].argmax(-1))
    assert written.get_data_dtype() == np.uint8
    np.testing.assert_allclose(written.affine, AFFINE)
    assert [p.name for p in path.parent.iterdir()] == ["labels.nii"]


@pytest.mark.parametrize("ending", [".nii", ".zarr"])
def test_every_name_that_the_file_system_allows_is_written(tmp_path, ending):
    model, images = model_on("2x2"), images_of(1)
    (path,) = ks.inference.predict_to_files(model, images, tmp_path / ("x" * (255 - len(ending)) + ending))
    assert list(tmp_path.iterdir()) == [path]


def test_zarr_scores_have_the_blocks_of_the_mesh_as_chunks(tmp_path):
    model, images = model_on("4x3"), images_of(3)
    dataset = tf.data.Dataset.from_tensor_slices(images).batch(2)
    paths = ks.inference.predict_to_files(model, dataset, tmp_path / "{case}.zarr", scores=True, affine=AFFINE)
    assert [p.name for p in paths] == ["0.zarr", "1.zarr", "2.zarr"]
    for path, wanted in zip(paths, model.predict(images, verbose=0), strict=True):
        array = zarr.open_array(path, mode="r")
        np.testing.assert_allclose(array[:], wanted, rtol=1e-5, atol=1e-6)
        assert array.chunks == (4, 4, 6, 3)
        np.testing.assert_allclose(array.attrs["affine"], AFFINE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "labels.nii.gz"}, "compressed"),
        ({"path": "labels.nii"}, "there are 2 images"),
        ({"path": "{case}" + "x" * 246 + ".nii"}, "256 bytes"),
        ({"path": "{case}\udcff.nii"}, r"UTF-8"),
        ({"path": "{case}.nii", "affine": np.zeros((4, 4))}, "affine: expected an invertible"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_written(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        ks.inference.predict_to_files(model_on("2x2"), images_of(2), tmp_path / arguments.pop("path"), **arguments)
    assert not list(tmp_path.iterdir())


def test_a_model_without_a_mesh_has_no_blocks():
    inputs = keras.Input((8, 8, 1))
    model = ks.Model(inputs, keras.layers.Conv2D(1, 3)(inputs))
    with pytest.raises(ValueError, match="has no mesh"):
        model.predict_blocks(np.zeros((1, 8, 8, 1), "float32"))
