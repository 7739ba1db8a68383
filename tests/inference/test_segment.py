"""Inference on whole volumes and on patches, with models whose answer is known."""

import keras
import nibabel as nib
import numpy as np
import pytest
from scipy import special

import keras_spatial as ks
from keras_spatial import inference
from keras_spatial.planning import NothingFits
from keras_spatial.volumes import UnreadableVolumeError, read_volume


def thresholding_model(shape, kernel=1, distribution=None, activation=None):
    """Classes by intensity: 1 above 0.5 (0 HU), 2 above 0.75 (256 HU); logits are lines that cross there."""
    inputs = keras.Input((*shape, 1))
    layer = keras.layers.Conv3D(3, kernel, padding="same", activation=activation)
    model = keras.Model(inputs, layer(inputs))
    weights = np.zeros((kernel, kernel, kernel, 1, 3), np.float32)
    weights[(kernel // 2,) * 3] = np.array([[0, 40, 120]])
    layer.set_weights([weights, np.array([0, -20, -80], np.float32)])
    return model if distribution is None else ks.partition(model, distribution)


def scene(shape=(16, 12, 8)):
    hu = np.full(shape, -300, np.int16)
    hu[2:12, 2:10, 1:7] = 150
    hu[4:8, 4:8, 2:4] = 400
    return hu, (hu > 0).astype(np.uint8) + (hu > 256)


def write(path, hu, codes="RAS"):
    image = nib.Nifti1Image(hu, np.diag([1.0, 1.5, 2.0, 1.0]))
    turned = image.as_reoriented(
        nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes))
    )
    nib.save(turned, path)
    return path


@pytest.mark.parametrize("codes", ["RAS", "LPS", "AIR", "SLP"])
def test_labels_lie_on_the_voxels_of_the_file_however_it_is_turned(tmp_path, codes):
    hu, truth = scene()
    source = write(tmp_path / "volume-0.nii.gz", hu, codes)
    wanted = read_volume(write(tmp_path / "truth.nii.gz", truth, codes))
    found = inference.segment(thresholding_model(hu.shape), source, tmp_path / "out" / "segmentation-0.nii.gz")
    written = read_volume(found.path)
    assert np.array_equal(found.labels, wanted.array)
    assert np.array_equal(written.array, wanted.array)
    assert np.array_equal(written.affine, read_volume(source).affine)
    assert set(found.seconds) == {"read", "resample", "predict", "label", "write"}


def test_a_model_of_half_the_resolution_answers_on_the_grid_of_the_volume(tmp_path):
    hu = np.full((32, 32, 32), -300, np.int16)
    hu[8:24, 8:24, 8:24] = 150
    found = inference.segment(thresholding_model((16, 16, 16)), write(tmp_path / "v.nii", hu))
    truth = hu > 0
    dice = 2 * np.count_nonzero(truth & (found.labels == 1)) / (truth.sum() + np.count_nonzero(found.labels == 1))
    assert found.labels.shape == hu.shape
    assert found.path is None
    assert dice > 0.9


def test_a_partitioned_model_segments_as_the_plain_one(tmp_path):
    hu, _ = scene()
    source = write(tmp_path / "v.nii.gz", hu)
    distribution = ks.SpatialParallel(ks.device_mesh("rows:2, columns:2"), "x:rows, y:columns")
    plain = inference.segment(thresholding_model(hu.shape, 3), source)
    spatial = inference.segment(thresholding_model(hu.shape, 3, distribution), source)
    assert plain.labels.any()
    assert np.array_equal(plain.labels, spatial.labels)


def test_a_memory_cuts_the_volume_into_shards_that_give_the_same(tmp_path):
    hu, _ = scene((32, 24, 16))
    source, out = write(tmp_path / "v.nii.gz", hu), tmp_path / "out" / "segmentation.nii.gz"
    inputs = keras.Input((*hu.shape, 1))
    hidden = keras.layers.Conv3D(16, 3, padding="same", activation="relu")(inputs)
    plain = keras.Model(inputs, keras.layers.Conv3D(3, 1)(hidden))
    found = inference.segment(plain, source, out, memory="600kB")
    assert np.array_equal(found.labels, inference.segment(plain, source).labels)
    assert list(out.parent.iterdir()) == [out]
    with pytest.raises(NothingFits, match="shards of the image are too large"):
        inference.segment(plain, source, memory="100kB")
    distribution = ks.SpatialParallel(ks.device_mesh("rows:2"), "x:rows")
    with pytest.raises(ValueError, match="memory says how to partition a plain model"):
        inference.segment(ks.partition(plain, distribution), source, memory="1GB")
    with pytest.raises(ValueError, match="Give memory as well"):
        inference.segment(plain, source, offload=tmp_path)


def test_patches_with_flips_give_what_the_whole_image_gives(tmp_path):
    hu, truth = scene()
    found = inference.segment(
        thresholding_model((8, 8, 8)),
        write(tmp_path / "v.nii.gz", hu),
        patches=inference.Patches(overlap=0.5, batch_size=3),
        flips=("x", "y", "z"),
    )
    assert np.array_equal(found.labels, truth)


def test_only_the_largest_liver_and_its_lesions_are_kept_when_asked(tmp_path):
    hu, truth = scene()
    hu[14:16, 10:12, 6:8] = 400
    source = write(tmp_path / "v.nii.gz", hu)
    model = thresholding_model(hu.shape)
    assert np.array_equal(inference.segment(model, source, largest_liver=True).labels, truth)
    assert inference.segment(model, source).labels[15, 11, 7] == 2


def test_no_liver_stays_no_liver():
    empty = np.zeros((3, 3, 3), np.uint8)
    assert not inference.keep_largest_liver(empty).any()


def test_a_broken_file_writes_nothing(tmp_path):
    (tmp_path / "v.nii.gz").write_bytes(b"broken")
    with pytest.raises(UnreadableVolumeError, match=r"v\.nii\.gz"):
        inference.segment(thresholding_model((8, 8, 8)), tmp_path / "v.nii.gz", tmp_path / "s.nii.gz")
    assert not (tmp_path / "s.nii.gz").exists()


def test_a_model_of_unknown_size_or_more_channels_is_refused():
    for shape in ((None, None, None, 1), (8, 8, 8, 2), (8, 8, 1)):
        inputs = keras.Input(shape)
        with pytest.raises(ValueError, match="one input"):
            inference.segment(keras.Model(inputs, inputs), "v.nii")


@pytest.mark.parametrize(("activation", "from_logits"), [("softmax", True), (None, False)])
def test_logits_are_not_taken_for_probabilities_nor_the_reverse(activation, from_logits):
    predict = inference.probabilities_of(thresholding_model((4, 4, 4), activation=activation), from_logits=from_logits)
    with pytest.raises(ValueError, match=f"pass from_logits={not from_logits}"):
        predict(np.ones((1, 4, 4, 4, 1), np.float32))


def test_logits_become_probabilities():
    images = np.random.default_rng(0).random((2, 4, 4, 4, 1), np.float32)
    model = thresholding_model((4, 4, 4))
    found = inference.probabilities_of(model)(images)
    assert np.allclose(found, special.softmax(model.predict(images, verbose=0), -1), atol=1e-6)


def test_scores_that_are_not_finite_are_refused():
    model = thresholding_model((4, 4, 4))
    model.layers[-1].set_weights([w * np.nan for w in model.layers[-1].get_weights()])
    with pytest.raises(ValueError, match="finite"):
        inference.probabilities_of(model)(np.ones((1, 4, 4, 4, 1), np.float32))


# --- sliding windows -----------------------------------------------------------------------------------------------


def voxelwise(images):
    return np.concatenate([images, 1 - images], axis=-1)


@pytest.mark.parametrize("shape", [(9, 8, 7), (4, 4, 4), (3, 12, 2), (16, 5, 4)])
@pytest.mark.parametrize("blend", ["gaussian", "constant"])
@pytest.mark.parametrize("overlap", [0, 0.5, 0.75])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_voxelwise_prediction_does_not_depend_on_the_windows(shape, blend, overlap, batch_size):
    image = np.random.default_rng(0).random((*shape, 1), np.float32)
    found = inference.sliding_window(voxelwise, image, (4, 4, 4), overlap=overlap, blend=blend, batch_size=batch_size)
    assert np.allclose(found, voxelwise(image[None])[0], atol=1e-6)


def test_every_batch_has_the_same_shape():
    shapes = set()

    def record(images):
        shapes.add(images.shape)
        return voxelwise(images)

    inference.sliding_window(record, np.zeros((9, 9, 9, 1), np.float32), (4, 4, 4), batch_size=5)
    assert shapes == {(5, 4, 4, 4, 1)}


def test_the_middle_of_a_patch_outweighs_its_edge():
    # Patches say 0 at their first voxel along x, 1 elsewhere: where they overlap, blending makes the 0 nearly vanish.
    def doubtful(images):
        answer = np.ones_like(images)
        answer[:, 0] = 0
        return np.concatenate([answer, 1 - answer], axis=-1)

    image = np.zeros((24, 8, 8, 1), np.float32)
    gaussian = inference.sliding_window(doubtful, image, (8, 8, 8), blend="gaussian")[4:-4, 4, 4, 0]
    constant = inference.sliding_window(doubtful, image, (8, 8, 8), blend="constant")[4:-4, 4, 4, 0]
    assert gaussian.min() > 0.97
    assert constant.min() == 0.5


@pytest.mark.parametrize(
    ("size", "patch", "overlap", "starts"),
    [(8, 8, 0.5, [0]), (16, 8, 0, [0, 8]), (16, 8, 0.5, [0, 4, 8]), (17, 8, 0, [0, 4, 9]), (9, 8, 0.9, [0, 1])],
)
def test_windows_reach_from_edge_to_edge_with_the_overlap_asked_for(size, patch, overlap, starts):
    assert inference.window_starts(size, patch, overlap) == starts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overlap": 1.0}, "overlap"),
        ({"overlap": -0.1}, "overlap"),
        ({"blend": "hann"}, "blend"),
        ({"batch_size": 0}, "batch_size"),
        ({"patch_size": (4, 4)}, "patch_size"),
        ({"patch_size": (4, 4, 0)}, "patch_size"),
        ({"image": np.zeros((4, 4, 4))}, "image"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(changes, message):
    values = {"image": np.zeros((8, 8, 8, 1), np.float32), "patch_size": (4, 4, 4)} | changes
    with pytest.raises(ValueError, match=f"{message}.*Received"):
        inference.sliding_window(voxelwise, **values)


# --- flips ---------------------------------------------------------------------------------------------------------


def test_flips_average_over_all_mirror_images():
    rng = np.random.default_rng(0)
    field = rng.random((1, 3, 4, 5, 2)).astype(np.float32)
    found = inference.flip_average(lambda images: field, ("x", "z"))(np.zeros((1, 3, 4, 5, 1), np.float32))
    wanted = sum(np.flip(field, axes) for axes in ((), (1,), (3,), (1, 3))) / 4
    assert np.allclose(found, wanted)


@pytest.mark.parametrize("axes", [("q",), ("x", "x")])
def test_unknown_mirror_axes_are_refused(axes):
    with pytest.raises(ValueError, match="flips"):
        inference.flip_average(voxelwise, axes)
