"""Figures of slices and of partitions."""

import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.contour import ContourSet

import keras_spatial as ks
from keras_spatial import plot


def labelled(shape=(12, 10, 8)):
    labels = np.zeros(shape, np.uint8)
    labels[2:8, 2:8, 2:6] = 1
    labels[3:5, 6:8, 3:5] = 2
    return labels


def pictures(axes):
    return [np.asarray(image.get_array()) for image in axes.images]


def test_slices_show_three_planes_through_the_lesion():
    labels = labelled()
    figure = plot.slices(np.arange(labels.size).reshape(labels.shape), labels, labels)
    volume = np.arange(labels.size).reshape(labels.shape)
    axial, coronal, sagittal = figure.axes
    assert np.array_equal(pictures(axial)[0], volume[:, :, 3].T)
    assert np.array_equal(pictures(coronal)[0], volume[:, 6, :].T)
    assert np.array_equal(pictures(sagittal)[0], volume[3].T)
    assert axial.get_title() == "axial, slice 4 of 8"
    # Liver and lesion, of truth and of prediction.
    assert sum(isinstance(c, ContourSet) for c in axial.collections) == 4


def test_the_patient_s_right_is_on_the_left_and_millimetres_are_in_proportion():
    figure = plot.slices(np.zeros((12, 10, 8, 1)), spacing=(1, 1, 5))
    assert figure.axes[0].xaxis_inverted()
    assert figure.axes[1].images[0].get_extent() == [0, 12, 0, 40]


@pytest.mark.parametrize(
    "arguments",
    [
        {"image": np.zeros((4, 4))},
        {"image": np.zeros((4, 4, 4)), "truth": np.zeros((4, 4, 5))},
        {"image": np.zeros((4, 4, 4)), "position": (0, 0, 4)},
    ],
)
def test_slices_that_do_not_exist_are_refused(arguments):
    with pytest.raises(ValueError, match="Received"):
        plot.slices(**arguments)


@pytest.mark.parametrize(
    ("split", "shape", "halo", "held"),
    [
        ("x:2, y:2", (8, 8), 1, [(5, 5)] * 4),
        ("x:3", (9, 4, 4), 2, [(5, 4), (7, 4), (5, 4)]),
        ("x:3", (8, 4), 1, [(4, 4), (5, 4), (3, 4)]),
        ({"z": 2}, (4, 4, 8), {"z": 2}, [(4, 6)] * 2),
        ("y:4", (4, 8, 2), 0, [(4, 2)] * 4),
    ],
    ids=["2x2", "middle shard has two halos", "last shard shorter", "z", "no halo"],
)
def test_a_device_is_shown_with_its_shard_and_the_halos_it_receives(split, shape, halo, held):
    image = np.arange(np.prod(shape)).reshape(shape)
    figure = plot.partition(image, split, halo=halo)
    shown = [array.T.shape for array in pictures(figure.axes[1])[::2]]
    assert shown == held
    assert not any(isinstance(c, QuadMesh) for c in figure.axes[1].collections)


def test_shards_carry_the_names_of_the_mesh():
    distribution = ks.SpatialParallel(ks.device_mesh("rows:2, columns:4"), "x:rows, y:columns")
    figure = plot.partition(np.zeros((8, 8, 8, 1)), distribution)
    names = {text.get_text() for text in figure.axes[1].texts}
    assert names == {f"rows {i}\ncolumns {j}" for i in range(2) for j in range(4)}
    assert "2 x 4 devices" in figure.axes[0].get_title()


@pytest.mark.parametrize(
    ("split", "halo", "message"),
    [
        ("x:9", 1, "at most 8"),
        ("x:0", 1, "positive number"),
        ("t:2", 1, "positive number"),
        ("x:2, y:2, z:2", 1, "two sharded axes"),
        ("x:2", -1, "halo"),
    ],
)
def test_partitions_that_cannot_be_drawn_are_refused(split, halo, message):
    with pytest.raises(ValueError, match=message):
        plot.partition(np.zeros((8, 8, 8)), split, halo=halo)
