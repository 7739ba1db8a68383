"""`ks.partition` on networks that users have: outputs, gradients and state equal those of plain Keras."""

import keras
import pytest
from equality import assert_equal_to_keras, split
from published_networks import APPLICATIONS, NETWORKS

import keras_spatial as ks


@pytest.mark.parametrize("name", NETWORKS)
def test_network_equals_keras(name):
    keras.utils.set_random_seed(3)
    make, mesh = NETWORKS[name]
    model = make()
    ks.partition(model, split(mesh))
    assert_equal_to_keras(model, split(mesh), training=True)


@pytest.mark.parametrize("name", APPLICATIONS)
def test_application_equals_keras(name):
    keras.utils.set_random_seed(3)
    model = APPLICATIONS[name](name in ("vgg16", "convnext-tiny", "efficientnet-v2-b0"))
    ks.partition(model, split("2x1"))
    assert_equal_to_keras(model, split("2x1"), batch=1)
