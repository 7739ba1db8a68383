"""Convolutions whose gradients TensorFlow computes wrongly for some sizes are right for shards of every size."""

import keras
import pytest
from equality import GRADIENT, assert_close, partitioned_results, plain_results, random_inputs, split
from keras import layers


@pytest.mark.parametrize("mesh", ["1x1", "1x2", "2x2"])
@pytest.mark.parametrize(("size", "strides"), [((12, 20), 2), ((16, 16), (2, 4)), ((15, 30), 3)])
def test_gradient_of_a_strided_kernel_of_one_voxel(size, strides, mesh):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((*size, 3))
    model = keras.Model(inputs, layers.Conv2D(4, 1, strides)(inputs))
    rows, columns = model.layers[-1].strides
    # Plain Keras is no reference here, because it has the same fault, but without strides there is none.
    reference = keras.Model(inputs, layers.Conv2D(4, 1)(inputs[:, ::rows, ::columns]))
    reference.set_weights(model.get_weights())
    images = random_inputs(model, 2)
    expected = plain_results(reference, images, training=True)
    for _ in range(5):  # What is not computed is sometimes right by chance.
        actual = partitioned_results(model, split(mesh), images, training=True)
        for a, e in zip(actual.weight_gradients, expected.weight_gradients, strict=True):
            assert_close(a, e, GRADIENT, "gradient")
