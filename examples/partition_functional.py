"""Partition an unmodified Keras functional model: same variables, same results, on any mesh."""

import argparse

import keras_spatial as ks

# isort: split
import keras
import numpy as np
from keras import layers


def residual_network(size: int) -> keras.Model:
    """A network written for plain Keras: nothing in it knows about a mesh."""
    inputs = keras.Input((size, size, 3))
    x = layers.Conv2D(8, 7, strides=2, padding="same", activation="relu")(inputs)
    for filters in (8, 16):
        shortcut = layers.Conv2D(filters, 1, strides=2)(x)
        x = layers.Conv2D(filters, 3, strides=2, padding="same")(x)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU()(x)
        x = layers.Conv2D(filters, 3, padding="same")(x)
        x = layers.ReLU()(layers.Add()([x, shortcut]))
    return keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling2D()(x)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=250, help="The number of pixels along each axis; any number.")
    arguments = parser.parse_args()
    mesh = ks.device_mesh("rows:4, columns:2")

    keras.utils.set_random_seed(0)
    model = residual_network(arguments.size)
    image = np.random.default_rng(0).normal(size=(2, arguments.size, arguments.size, 3)).astype("float32")
    expected = model.predict(image, verbose=0)

    spatial = ks.partition(model, ks.SpatialParallel(mesh, "x:rows, y:columns"))
    found = spatial.predict(image, verbose=0)
    print(f"largest difference: {np.abs(found - expected).max():.1e}")
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-5)

    # Batch and image sharded together: two images, each over two devices.
    both = ks.SpatialParallel(ks.device_mesh("cores:2, rows:2"), "batch:cores, x:rows")
    found = ks.partition(model, both).predict(image, verbose=0)
    print(f"largest difference with the batch sharded too: {np.abs(found - expected).max():.1e}")
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    main()
