"""A user's own code: Keras models and losses that know nothing about meshes."""

import atexit
import os
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf


def network(input_shape, classes, width=2):
    """A network of three convolutions."""
    inputs = x = keras.Input(input_shape)
    for _ in range(2):
        x = keras.layers.Conv3D(width, 3, padding="same", activation="relu")(x)
    return keras.Model(inputs, keras.layers.Conv3D(classes, 1)(x))


def too_few_classes(input_shape, classes):
    return network(input_shape, classes - 1)


def no_model(input_shape, classes):
    return "unet"


def loss(alpha=1.0):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, name="own_loss")


def no_loss():
    return "mine"


class OfNumbers(keras.losses.Loss):
    """A loss that takes class numbers, although its name does not say so."""

    def call(self, y_true, y_pred):
        chosen = keras.ops.one_hot(keras.ops.cast(y_true, "int32"), y_pred.shape[-1])
        return -keras.ops.sum(chosen * keras.ops.log_softmax(y_pred, -1), -1)


def loss_of_numbers():
    return OfNumbers()


class FailingLoss(keras.losses.Loss):
    def call(self, y_true, y_pred):
        raise ValueError("no such axis")


def failing_loss():
    return FailingLoss()


def failing(input_shape, classes):
    return 1 / 0


def crashing(input_shape, classes):
    print("here it ends", file=sys.stderr, flush=True)
    os._exit(7)


class Handmade(keras.layers.Layer):
    """A layer that computes in NumPy, which cannot be traced."""

    def call(self, x):
        return tf.ensure_shape(tf.numpy_function(np.flip, [x], tf.float32), x.shape)

    def compute_output_shape(self, shape):
        return shape


def unknown_layer(input_shape, classes):
    inputs = keras.Input(input_shape)
    return keras.Model(inputs, keras.layers.Conv3D(classes, 1)(Handmade()(inputs)))


def halved_four_times(input_shape, classes):
    """A network that accepts every size that two poolings by 4 divide."""
    inputs = keras.Input((None, None, None, input_shape[-1]))
    x = keras.layers.MaxPooling3D(4)(keras.layers.MaxPooling3D(4)(inputs))
    x = keras.layers.UpSampling3D(4)(keras.layers.UpSampling3D(4)(x))
    x = keras.layers.Concatenate()([x, inputs])
    return keras.Model(inputs, keras.layers.Conv3D(classes, 1)(x))


def leaving(input_shape, classes):
    sys.exit(0)


def talking(input_shape, classes):
    atexit.register(print, "this is no JSON")
    return network(input_shape, classes)


def waiting(input_shape, classes):
    started = subprocess.Popen(["sleep", "300"])
    Path(os.environ["OWN_PIDS"]).write_text(f"{os.getpid()} {started.pid}\n")
    time.sleep(300)
