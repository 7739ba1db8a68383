"""Every layer of the catalogue, partitioned, against plain Keras: outputs, input and weight gradients, state."""

import catalogue
import pytest
from equality import assert_equal_to_keras, split

MESHES = ["1x3", "4x2"]


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", catalogue.LAYERS_2D)
def test_2d_layer_equals_keras(name, mesh):
    case = catalogue.LAYERS_2D[name]
    assert_equal_to_keras(case.model(), split(mesh), training=case.training)


@pytest.mark.parametrize("name", catalogue.LAYERS_3D)
def test_3d_layer_equals_keras(name):
    case = catalogue.LAYERS_3D[name]
    assert_equal_to_keras(case.model(), split("2x2x2"), training=case.training)


@pytest.mark.parametrize("name", catalogue.LAYERS_1D)
def test_1d_layer_equals_keras(name):
    assert_equal_to_keras(catalogue.LAYERS_1D[name].model(), split("4"))


@pytest.mark.parametrize("name", catalogue.CHANNELS_FIRST)
def test_channels_first_layer_equals_keras(name):
    case = catalogue.CHANNELS_FIRST[name]
    assert_equal_to_keras(case.model(), split("2x2"), training="batch" in name)


@pytest.mark.parametrize("name", catalogue.OPERATIONS)
def test_operation_equals_keras(name):
    assert_equal_to_keras(catalogue.OPERATIONS[name].model(), split("3x2"))


BATCHED = [
    "conv-strided",
    "transposed-3-2",
    "max-pool-overlapping",
    "batch-norm",
    "global-max",
    "flatten",
    "layer-norm-image",
    "group-norm",
    "time-distributed",
    "resizing",
    "random-rotation",
    "random-flip",
    "random-contrast",
    "random-sharpness",
    "random-invert",
]


@pytest.mark.parametrize("name", BATCHED)
@pytest.mark.parametrize("layout", ["batch:cores", "batch:cores, x:rows", "batch:cores, y:rows"])
def test_layer_with_batch_axis_equals_keras(name, layout):
    case = catalogue.LAYERS_2D[name]
    # Three cases on two cores: one core has a case that does not count.
    assert_equal_to_keras(case.model(), split("cores:2, rows:2", layout), batch=3, training=case.training)


@pytest.mark.parametrize("name", ["conv", "max-pool-same", "batch-norm", "global-average", "softmax-image"])
def test_layer_on_a_mesh_of_one_device_equals_keras(name):
    case = catalogue.LAYERS_2D[name]
    assert_equal_to_keras(case.model(), split("1x1"), training=case.training)
