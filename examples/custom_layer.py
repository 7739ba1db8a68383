"""Partition a layer that the package does not know: a smoothing in plain TensorFlow.

`ks.register_lowering` says which of the four kinds of operation it is: here windowed, with a halo of one pixel on each
side along x and y.
"""

import argparse

import keras_spatial as ks

# isort: split
import keras
import numpy as np
import tensorflow as tf


class Smoothing(keras.layers.Layer):
    """Mixes each pixel with the mean of its four neighbours, with a learned weight for each channel."""

    def build(self, shape):
        self.share = self.add_weight(shape=(shape[-1],), initializer="zeros", name="share")

    def call(self, x):
        return smooth(tf.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)]), self.share)

    def compute_output_shape(self, input_shape):
        return input_shape


def smooth(x: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    """Smooth an image that has one more pixel on every side."""
    around = (x[:, 2:, 1:-1] + x[:, :-2, 1:-1] + x[:, 1:-1, 2:] + x[:, 1:-1, :-2]) / 4.0
    share = tf.sigmoid(share)
    return share * around + (1.0 - share) * x[:, 1:-1, 1:-1]


@ks.register_lowering(Smoothing)
def lower_smoothing(layer, trace, x):
    """The halos hold the pixels of neighbouring shards, and zeros where the image ends."""
    return trace.windowed(smooth, x, {1: (1, 1), 2: (1, 1)}, x.axes, weights=[layer.share], name=layer.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=65, help="The number of pixels along each axis.")
    arguments = parser.parse_args()
    mesh = ks.device_mesh("rows:2, columns:2")
    keras.utils.set_random_seed(0)
    inputs = keras.Input((arguments.size, arguments.size, 2))
    model = keras.Model(inputs, keras.layers.Conv2D(3, 3, padding="same")(Smoothing()(inputs)))
    image = np.random.default_rng(0).normal(size=(1, *model.input_shape[1:])).astype("float32")
    expected = np.asarray(model(image))
    found = ks.partition(model, ks.SpatialParallel(mesh, "x:rows, y:columns")).predict(image, verbose=0)
    print(f"largest difference: {np.abs(found - expected).max():.1e}")
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-5)


if __name__ == "__main__":
    main()
