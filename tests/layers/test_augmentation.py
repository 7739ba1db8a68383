"""Augmentation of volumes in plain Keras: what each layer does, and which arguments it refuses."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

import keras_spatial as ks
from keras_spatial.engine.interpolation import Part, interpolated

VOLUMES = np.random.default_rng(0).normal(size=(16, 3, 4, 5, 1)).astype("float32")


def test_flips_mirror_some_images_along_each_axis_by_itself():
    found = ks.layers.RandomFlip3D("xz", seed=2)(VOLUMES, training=True).numpy()
    seen = set()
    for before, after in zip(VOLUMES, found, strict=True):
        mirrors = [(), (0,), (2,), (0, 2)]
        (mirror,) = [axes for axes in mirrors if np.array_equal(np.flip(before, axes), after)]
        seen.add(mirror)
    assert len(seen) == 4


def test_brightness_adds_one_number_to_each_image():
    found = ks.layers.RandomBrightness3D((0.1, 0.2), (-50, 50), seed=2)(VOLUMES, training=True).numpy()
    added = (found - VOLUMES).reshape(16, -1)
    np.testing.assert_allclose(added, np.broadcast_to(added[:, :1], added.shape), atol=1e-4)
    assert added.min() > 10 - 1e-3 and added.max() < 20 + 1e-3 and added.std() > 1


def test_contrast_keeps_the_mean_and_scales_the_deviation():
    found = ks.layers.RandomContrast3D((0.5, 0.5), (-50, 50), seed=2)(VOLUMES, training=True).numpy()
    np.testing.assert_allclose(found.mean((1, 2, 3)), VOLUMES.mean((1, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(found.std((1, 2, 3)), 1.5 * VOLUMES.std((1, 2, 3)), rtol=1e-5)


def sampled(volume: np.ndarray, places: np.ndarray, mode: str = "nearest", order: int = 1) -> np.ndarray:
    """SciPy's interpolation of one volume at the positions `[3, x, y, z]`."""
    return ndimage.map_coordinates(volume[..., 0], places, order=order, mode=mode)


def voxels(shape=VOLUMES.shape[1:4]) -> np.ndarray:
    return np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in shape), indexing="ij"))


@pytest.mark.parametrize(("axis", "plane"), [("x", (1, 2)), ("y", (2, 0)), ("z", (0, 1))])
def test_a_quarter_turn_about_each_axis_is_that_of_numpy(axis, plane):
    cubes = np.random.default_rng(1).normal(size=(2, 5, 5, 5, 1)).astype("float32")
    found = ks.layers.RandomRotation3D((0.25, 0.25), axis)(cubes, training=True)
    for before, after in zip(cubes, found, strict=True):
        np.testing.assert_allclose(after, np.rot90(before, axes=plane), atol=1e-5)


def test_a_rotation_turns_the_body_not_the_grid():
    """A rotation by 30 degrees about z equals SciPy's, in mm, with voxels of a different size along each axis."""
    spacing, angle = np.array([0.5, 1.0, 2.0]), np.pi / 6
    layer = ks.layers.RandomRotation3D((1 / 12, 1 / 12), "z", spacing, fill_mode="nearest")
    center = (np.array(VOLUMES.shape[1:4]) - 1)[:, None, None, None] / 2 * spacing[:, None, None, None]
    x, y, z = voxels() * spacing[:, None, None, None] - center
    back = np.stack([np.cos(angle) * x + np.sin(angle) * y, -np.sin(angle) * x + np.cos(angle) * y, z])
    expected = sampled(VOLUMES[0], (back + center) / spacing[:, None, None, None])
    np.testing.assert_allclose(layer(VOLUMES[:1], training=True)[0, ..., 0], expected, atol=1e-5)


def test_axes_are_turned_one_after_the_other():
    def turned(volumes, axis):
        return ks.layers.RandomRotation3D((0.25, 0.25), axis)(volumes, training=True)

    cubes = np.random.default_rng(1).normal(size=(1, 4, 4, 4, 1)).astype("float32")
    found = ks.layers.RandomRotation3D((0.25, 0.25), "xyz")(cubes, training=True)
    np.testing.assert_allclose(found, turned(turned(turned(cubes, "x"), "y"), "z"), atol=1e-5)


def test_a_translation_moves_each_image_by_a_part_of_its_size():
    found = ks.layers.RandomTranslation3D((0.25, 0.25), "y", "constant", fill_value=-7)(VOLUMES, training=True).numpy()
    np.testing.assert_allclose(found[:, :, 1:], VOLUMES[:, :, :-1], atol=1e-5)
    assert np.all(found[:, :, 0] == -7)


def test_a_zoom_keeps_the_middle_and_widens_the_field_of_view():
    found = ks.layers.RandomZoom3D((0.5, 0.5), "constant")(VOLUMES[:1], training=True)[0, ..., 0]
    center = (np.array(VOLUMES.shape[1:4]) - 1)[:, None, None, None] / 2
    np.testing.assert_allclose(
        found, sampled(VOLUMES[0], (voxels() - center) * 1.5 + center, "grid-constant"), atol=1e-5
    )


@pytest.mark.parametrize(
    ("layer", "spread"),
    [
        (ks.layers.RandomRotation3D(0.5, seed=1), 0.1),
        (ks.layers.RandomZoom3D(0.5, seed=1), 0.1),
        (ks.layers.RandomTranslation3D(0.5, seed=1), 0.1),
    ],
)
def test_each_image_and_each_step_has_its_own_transform(layer, spread):
    same = np.repeat(VOLUMES[:1], 8, axis=0)
    found = np.concatenate([layer(same, training=True), layer(same, training=True)]).reshape(16, -1)
    distances = np.abs(found[:, None] - found).mean(-1) + np.eye(16)
    assert distances.min() > 0 and np.median(distances) > spread


def test_a_random_crop_is_anywhere_in_training_and_in_the_middle_otherwise():
    layer = ks.layers.RandomCrop3D((1, 2, 3), seed=1)
    windows = np.lib.stride_tricks.sliding_window_view(VOLUMES[..., 0], (1, 2, 3), (1, 2, 3)).reshape(16, -1, 1, 2, 3)
    seen = set()
    for _ in range(200):
        found = layer(VOLUMES, training=True).numpy()[..., 0]
        (where,) = np.nonzero(np.all(windows[0] == found[0], axis=(1, 2, 3)))[0]
        assert np.all(windows[:, where] == found)
        seen.add(int(where))
    assert seen == set(range(3 * 3 * 3))
    np.testing.assert_array_equal(layer(VOLUMES), VOLUMES[:, 1:2, 1:3, 1:4])
    np.testing.assert_array_equal(ks.layers.CenterCrop3D((1, 2, 3))(VOLUMES), VOLUMES[:, 1:2, 1:3, 1:4])


@pytest.mark.parametrize("size", [(6, 4, 3), (2, 9, 5)])
@pytest.mark.parametrize(("interpolation", "order"), [("trilinear", 1), ("nearest", 0)])
def test_resizing_reads_new_voxels_at_their_middle(size, interpolation, order):
    old, new = np.array(VOLUMES.shape[1:4])[:, None, None, None], np.array(size)[:, None, None, None]
    places = (voxels(size) + 0.5) * old / new - 0.5
    places = np.ceil(places - 0.5 + 1e-9) if order == 0 else places
    found = ks.layers.Resizing3D(size, interpolation)(VOLUMES)
    assert found.shape == (16, *size, 1)
    np.testing.assert_allclose(found[3, ..., 0], sampled(VOLUMES[3], places, order=order), atol=1e-5)


def test_resizing_with_antialiasing_averages():
    found = ks.layers.Resizing3D((1, 1, 1), antialias=True)(np.full((1, 8, 8, 8, 1), 3.0, "float32"))
    np.testing.assert_allclose(found, np.full((1, 1, 1, 1, 1), 3.0), rtol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        ks.layers.RandomFlip3D("y", seed=1),
        ks.layers.RandomRotation3D((-0.1, 0.3), "xz", (1, 1, 2.5), seed=1),
        ks.layers.RandomTranslation3D(0.2, "xy", "wrap", "nearest", seed=1),
        ks.layers.RandomZoom3D((-0.2, 0.3), "constant", seed=1, fill_value=2.0),
        ks.layers.RandomBrightness3D(0.1, (0, 1), seed=1),
        ks.layers.RandomContrast3D((0.0, 0.3), (0, 1), seed=1),
    ],
)
def test_inference_changes_nothing_and_a_configuration_makes_the_same_layer(layer):
    np.testing.assert_array_equal(layer(VOLUMES), VOLUMES)
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    np.testing.assert_array_equal(layer(VOLUMES, training=True), again(VOLUMES, training=True))


@pytest.mark.parametrize(
    "layer",
    [ks.layers.RandomCrop3D(2, seed=1), ks.layers.CenterCrop3D((1, 2, 3)), ks.layers.Resizing3D(4, "nearest")],
)
def test_layers_that_change_the_size_say_so_and_have_a_configuration(layer):
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    found = layer(VOLUMES)
    np.testing.assert_array_equal(found, again(VOLUMES))
    assert found.shape == layer.compute_output_shape(VOLUMES.shape)


@pytest.mark.parametrize(
    "layer",
    [
        ks.layers.RandomFlip3D(),
        ks.layers.RandomContrast3D(0.2, (-9, 9)),
        ks.layers.RandomRotation3D(0.1),
        ks.layers.RandomCrop3D((2, 3, 4)),
        ks.layers.CenterCrop3D((2, 3, 4)),
        ks.layers.Resizing3D((4, 4, 4)),
    ],
)
def test_they_train_in_a_plain_model_whose_batch_size_is_not_known(layer):
    model = keras.Sequential([keras.Input(VOLUMES.shape[1:]), layer, keras.layers.Conv3D(1, 1)])
    model.compile("sgd", "mse")
    model.fit(VOLUMES, np.zeros((16, *model.output_shape[1:])), batch_size=7, verbose=0)
    assert model.predict(VOLUMES, batch_size=7, verbose=0).shape == (16, *model.output_shape[1:])


def test_a_part_gives_nothing_where_it_has_no_voxels_even_if_its_own_are_no_numbers():
    """On a mesh, elements beyond the image may have any value."""
    images = tf.constant([np.nan, 2.0, 4.0, np.inf], shape=(1, 4, 1))
    positions = [tf.constant([[1.0, 3.5, 5.5, 9.0]])]
    found = interpolated(images, positions, part=Part(axis=1, start=4, size=7))
    np.testing.assert_array_equal(found.numpy()[0, [0, 2, 3], 0], [0, 3, 0])


def test_a_model_with_them_is_loaded_from_its_file(tmp_path):
    inputs = keras.Input((4, 4, 4, 1))
    keras.Model(inputs, ks.layers.RandomFlip3D("x")(inputs)).save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").layers[1].axes == "x"


@pytest.mark.parametrize("axes", ["", "xx", "w"])
def test_bad_axes_are_named(axes):
    with pytest.raises(ValueError, match="axes: expected"):
        ks.layers.RandomFlip3D(axes)


@pytest.mark.parametrize(("factor", "value_range"), [(2.0, (0, 1)), ((0.3, 0.1), (0, 1)), (0.1, (1, 1))])
def test_bad_factors_and_ranges_are_named(factor, value_range):
    with pytest.raises(ValueError, match="Expected a factor"):
        ks.layers.RandomContrast3D(factor, value_range)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ks.layers.RandomRotation3D(1.5), "factor: expected a number in"),
        (lambda: ks.layers.RandomRotation3D(0.1, spacing=(1, 0, 1)), "spacing: expected three positive"),
        (lambda: ks.layers.RandomRotation3D(0.1, "w"), "axes: expected"),
        (lambda: ks.layers.RandomZoom3D(-1.0), "would leave no field of view"),
        (lambda: ks.layers.RandomTranslation3D(0.1, fill_mode="mirror"), "fill_mode: expected one of"),
        (lambda: ks.layers.RandomTranslation3D(0.1, interpolation="bilinear"), "interpolation: expected one of"),
        (lambda: ks.layers.Resizing3D((4, 4)), "size: expected a positive number"),
        (lambda: ks.layers.Resizing3D(4, "bilinear"), "interpolation: expected one of"),
        (lambda: ks.layers.CenterCrop3D(5)(VOLUMES), "crops to \\(5, 5, 5\\) voxels. Received: volumes of"),
        (lambda: ks.layers.RandomCrop3D((3, 0, 3)), "size: expected a positive number"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_images_of_two_axes_are_refused():
    with pytest.raises(ValueError, match="takes \\[batch, x, y, z, channels\\]"):
        ks.layers.RandomFlip3D()(np.zeros((1, 4, 4, 1), "float32"))
