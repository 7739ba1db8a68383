"""The receptive field is what a gradient through positive weights reaches."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_spatial as ks
from keras_spatial.planning.receptive_field import WHOLE, receptive_field

SIZE = 64


def reached(model):
    """The largest number of input voxels along the rows on which an output voxel depends, over phases of strides."""
    for variable in model.trainable_variables:
        variable.assign(tf.ones_like(variable.value))
    image = tf.Variable(tf.ones((1, SIZE, SIZE, 1)))
    widths = []
    for phase in range(8):
        with tf.GradientTape() as tape:
            answer = tf.reduce_sum(model(image, training=False)[:, SIZE // 2 + phase, SIZE // 2])
        rows = np.flatnonzero(np.abs(tape.gradient(answer, image).numpy()).sum((0, 2, 3)))
        widths.append(int(rows[-1] - rows[0] + 1))
    return max(widths)


def network(*build):
    inputs = keras.Input((SIZE, SIZE, 1))
    x = inputs
    for layer in build:
        x = layer(x)
    return keras.Model(inputs, x)


def skipped():
    inputs = keras.Input((SIZE, SIZE, 1))
    x = keras.layers.Conv2D(1, 3, padding="same")(inputs)
    y = keras.layers.AveragePooling2D(2)(x)
    y = keras.layers.Conv2D(1, 3, padding="same")(y)
    y = keras.layers.Conv2DTranspose(1, 2, strides=2, padding="same")(y)
    return keras.Model(inputs, keras.layers.Conv2D(1, 3, padding="same")(keras.layers.Concatenate()([x, y])))


MODELS = {
    "two convolutions": lambda: network(keras.layers.Conv2D(1, 3), keras.layers.Conv2D(1, 5, dilation_rate=2)),
    "strided": lambda: network(
        keras.layers.Conv2D(1, 3, strides=2, padding="same"),
        keras.layers.Conv2D(1, 3, padding="same"),
        keras.layers.UpSampling2D(2),
    ),
    "transposed": lambda: network(
        keras.layers.AveragePooling2D(4), keras.layers.Conv2DTranspose(1, 6, strides=4, padding="same")
    ),
    "skip": skipped,
}


@pytest.mark.parametrize("name", MODELS)
def test_it_is_what_gradients_reach(name):
    model = MODELS[name]()
    assert receptive_field(model) == (reached(model),) * 2


def test_a_u_net_sees_the_more_the_more_levels_it_has():
    fields = [receptive_field(ks.models.UNet3D((32, 32, 32, 1), 3, filters=2, levels=n)) for n in (1, 2, 3)]
    assert fields[0] == (5, 5, 5)
    assert fields[0] < fields[1] < fields[2]


def test_statistics_of_the_image_make_it_the_whole_image_and_a_layer_of_others_unknown():
    assert receptive_field(network(keras.layers.GroupNormalization(1))) == WHOLE
    assert receptive_field(network(keras.layers.LayerNormalization())) == (1, 1)
    assert receptive_field(network(keras.layers.Lambda(lambda x: x))) is None
