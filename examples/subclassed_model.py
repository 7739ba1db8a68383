"""A subclassed model whose `call` mixes layers and `keras.ops`."""

import argparse

import keras_spatial as ks

# isort: split
import keras
import numpy as np
from keras import layers, ops


class TwoScales(ks.Model):
    """Combines features at two scales, weighted by a gate."""

    def __init__(self, filters: int, **options):
        super().__init__(**options)
        self.fine = layers.Conv3D(filters, 3, padding="same", activation="relu")
        self.pool = layers.MaxPooling3D(2)
        self.coarse = layers.Conv3D(filters, 3, padding="same", activation="relu")
        self.up = layers.UpSampling3D(2)
        self.gate = layers.Conv3D(filters, 1)
        self.head = layers.Conv3D(1, 1)

    def call(self, x):
        fine = self.fine(x)
        coarse = self.up(self.coarse(self.pool(fine)))
        gate = ops.sigmoid(self.gate(coarse))
        return self.head(fine * gate + coarse * (1.0 - gate))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=32, help="The number of voxels along each axis.")
    arguments = parser.parse_args()
    image = np.random.default_rng(0).normal(size=(1, *(arguments.size,) * 3, 1)).astype("float32")

    keras.utils.set_random_seed(0)
    with ks.SpatialParallel(ks.device_mesh("rows:2, columns:2"), "x:rows, y:columns").scope():
        model = TwoScales(4)
    model.compile("adam", "mse")
    history = model.fit(image, np.tanh(image), epochs=5, verbose=0)
    print("losses:", " ".join(f"{loss:.4f}" for loss in history.history["loss"]))

    plain = TwoScales(4)  # Outside the scope it is a plain Keras model.
    plain(image)
    plain.set_weights(model.get_weights())
    difference = np.abs(np.asarray(plain(image)) - model.predict(image, verbose=0)).max()
    print(f"largest difference from the same weights without a mesh: {difference:.1e}")
    assert difference < 1e-5


if __name__ == "__main__":
    main()
