"""The program of each process in the tests: `fit`, `evaluate` and `predict` of a tiny U-Net; results go to `.npz`."""

import argparse
import contextlib
import os
import signal
import threading

import keras
import numpy as np
import tensorflow as tf

import keras_spatial as ks


class Killed(keras.callbacks.Callback):
    """Ends the process like `kill -9`, after a number of steps, or some seconds later, whatever it is doing."""

    def __init__(self, step: int, seconds: float):
        super().__init__()
        self.left = step
        self.seconds = seconds

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left and self.seconds:
            threading.Timer(self.seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
        elif not self.left:
            os.kill(os.getpid(), signal.SIGKILL)


def own_blocks(distribution: ks.SpatialParallel, whole: np.ndarray, axes: str) -> tf.data.Dataset:
    """Cases with one block for each device of this process, as from a pipeline that never reads the other blocks."""
    parts = []
    counts = tuple(distribution.shards(axis) for axis in axes.split())
    for place in distribution.runtime.local_coordinates():
        part = whole
        for i, axis in enumerate(axes.split()):
            if counts[i] > 1:
                part = np.split(part, counts[i], axis=i)[place[distribution.layout[axis]]]
        parts.append(tf.data.Dataset.from_tensor_slices(part).batch(2))
    return tf.data.Dataset.zip(tuple(parts)).map(lambda *slices: ks.LocalBlocks(slices, counts))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mesh", default="rows:2")
    parser.add_argument("--layout", default="x:rows")
    parser.add_argument("--output", required=True)
    parser.add_argument("--blocks", action="store_true", help="feed each process with its own blocks only")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--write", help="a folder for predictions, written by all processes")
    parser.add_argument("--backup", help="a folder for ks.Backup")
    parser.add_argument("--die", help="'rank:step:seconds': that process is killed so long after a step")
    arguments = parser.parse_args()

    processes = ks.initialize(timeout=30)
    whole = arguments.mesh == "none"
    distribution = None if whole else ks.SpatialParallel(ks.device_mesh(arguments.mesh), arguments.layout)
    # Only process 0 has the seed: the others must get its weights.
    keras.utils.set_random_seed(arguments.seed if processes.is_first else 100 + processes.rank)
    with distribution.scope() if distribution else contextlib.nullcontext():
        inputs = keras.Input((16, 16, 8, 1))
        turned = ks.layers.RandomRotation3D(0.05, "xyz")(inputs)
        # Padding that becomes part of the windows.
        turned = ks.layers.Conv3D(1, 3, name="stem")(ks.layers.ZeroPadding3D(1)(turned))
        unet = ks.models.UNet3D(
            inputs.shape[1:], classes=3, filters=4, levels=2, convolutions=1, dropout=arguments.dropout
        )
        model = ks.Model(inputs, unet(turned))
    model.compile(
        optimizer=keras.optimizers.SGD(0.05), loss=ks.losses.DiceCrossentropy(), metrics=[ks.metrics.Dice(class_id=1)]
    )
    generator = np.random.default_rng(0)
    images = generator.normal(size=(4, 16, 16, 8, 1)).astype("float32")
    labels = generator.integers(0, 3, size=(4, 16, 16, 8)).astype("int32")
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(2)
    if arguments.blocks:
        dataset = tf.data.Dataset.zip(
            own_blocks(distribution, images, "batch x y z channels"), own_blocks(distribution, labels, "batch x y z")
        )
    callbacks = [ks.Backup(arguments.backup, steps=1, keep=True)] if arguments.backup else []
    if arguments.die:
        rank, step, seconds = arguments.die.split(":")
        # Only once, and not again after the launcher has restarted all processes.
        if int(rank) == processes.rank and os.environ.get("KERAS_SPATIAL_RESTARTS", "0") == "0":
            callbacks.append(Killed(int(step), float(seconds)))
    history = model.fit(dataset, validation_data=dataset, epochs=2, verbose=0, callbacks=callbacks)
    results = {name: np.array(values) for name, values in history.history.items()}
    results["evaluation"] = np.array(model.evaluate(dataset, verbose=0, return_dict=True)["loss"])
    results["prediction"] = model.predict(images, batch_size=2, verbose=0)
    if arguments.write:
        fed = dataset if arguments.blocks else images
        ks.inference.predict_to_files(model, fed, f"{arguments.write}/{{case}}.nii")
        ks.inference.predict_to_files(model, fed, f"{arguments.write}/{{case}}.zarr", scores=True)
    results |= {f"weight{i}": value for i, value in enumerate(model.get_weights())}
    np.savez(arguments.output.format(rank=processes.rank), **dict(results))


if __name__ == "__main__":
    main()
