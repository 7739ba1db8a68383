"""One mesh over several processes, each of which computes its own shards of the image.

    python -m keras_spatial.launch --processes 2 examples/many_processes.py

The same script runs in every process. On a cluster `TF_CONFIG` names the other processes, and the script does not
change.
"""

import argparse

import keras_spatial as ks

# isort: split
import keras
import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=32, help="The number of voxels along each axis.")
    arguments = parser.parse_args()
    job = ks.initialize()  # This must come before any TensorFlow operation.
    distribution = ks.SpatialParallel(ks.device_mesh(f"rows:{2 * job.count}"), "x:rows")
    keras.utils.set_random_seed(0)
    with distribution.scope():
        model = ks.models.UNet3D((arguments.size,) * 3 + (1,), classes=2, filters=2, levels=2, dropout=0.0)
    model.compile("adam", ks.losses.DiceCrossentropy())
    generator = np.random.default_rng(0)  # The same images in every process.
    images = generator.normal(size=(2, *(arguments.size,) * 3, 1)).astype("float32")
    labels = (images[..., 0] > 0.5).astype("int32")
    history = model.fit(images, labels, batch_size=1, epochs=2, verbose=2)
    print(f"process {job.rank} of {job.count}: losses {[round(x, 6) for x in history.history['loss']]}", flush=True)


if __name__ == "__main__":
    main()
