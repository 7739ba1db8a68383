"""The training under attack: a network that is traced within seconds, but has every kind of state that a backup has to
keep.

It has dropout, moving averages and momentum, and backs up each of its steps. A pause in each step costs no processor
time and leaves the attacks time to strike while it trains.
"""

import argparse
import time

import keras
import numpy as np
import tensorflow as tf

import keras_spatial as ks

STEPS, EPOCHS, PAUSE_SECONDS = 8, 5, 0.1


class Pause(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        time.sleep(PAUSE_SECONDS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mesh", default="rows:2")
    parser.add_argument("--layout", default="x:rows")
    parser.add_argument("--dropout", type=float, default=0.3)
    parser.add_argument("--folder", required=True, help="The folder for the weights and the backups.")
    arguments = parser.parse_args()

    job = ks.initialize(timeout=30)
    keras.utils.set_random_seed(1)
    with ks.SpatialParallel(ks.device_mesh(arguments.mesh), arguments.layout).scope():
        inputs = keras.Input((16, 8, 8, 1))
        x = ks.layers.Conv3D(4, 3, padding="same", use_bias=False)(inputs)
        x = ks.layers.Activation("relu")(ks.layers.BatchNormalization()(x))
        x = ks.layers.Dropout(arguments.dropout)(x)
        model = ks.Model(inputs, ks.layers.Conv3D(2, 3, padding="same")(x))
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9), keras.losses.SparseCategoricalCrossentropy(True))
    generator = np.random.default_rng(0)
    images = generator.normal(size=(2 * STEPS, 16, 8, 8, 1)).astype("float32")
    dataset = tf.data.Dataset.from_tensor_slices((images, (images[..., 0] > 0).astype("int32"))).batch(2)
    backup = ks.Backup(f"{arguments.folder}/backup", steps=1, keep=True)
    model.fit(dataset, epochs=EPOCHS, verbose=0, shuffle=False, callbacks=[backup, Pause()])
    if job.is_first:
        np.savez(f"{arguments.folder}/result.npz", **{f"weight{i}": v for i, v in enumerate(model.get_weights())})


if __name__ == "__main__":
    main()
