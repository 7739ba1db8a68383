"""Segment a synthetic pathology image of 8192² pixels as a whole, sharded over a 4x4 mesh."""

import argparse
import resource
import time

import keras_spatial as ks

# isort: split
import keras
import numpy as np


def tissue(size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An image `[1, x, y, 3]` of stained tissue with darker nuclei, and the labels `[1, x, y]` of the nuclei."""
    generator = np.random.default_rng(seed)
    image = np.empty((1, size, size, 3), "float32")
    image[:] = (0.85, 0.6, 0.75)
    label = np.zeros((1, size, size), "int32")
    axis = np.arange(-6, 7)
    disc = axis[:, None] ** 2 + axis[None, :] ** 2 <= 36
    for x, y in generator.integers(6, size - 7, (size * size // 4000, 2)):
        window = (0, slice(x - 6, x + 7), slice(y - 6, y + 7))
        label[window][disc] = 1
        image[window][disc] = (0.35, 0.2, 0.55)
    image += generator.normal(0.0, 0.03, image.shape).astype("float32")
    return image, label


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=8192, help="The number of pixels along each axis.")
    parser.add_argument("--filters", type=int, default=4, help="The number of filters of the U-Net's first level.")
    parser.add_argument("--steps", type=int, default=2, help="The number of training steps, on the same image.")
    arguments = parser.parse_args()
    distribution = ks.SpatialParallel(ks.device_mesh("rows:4, columns:4"), "x:rows, y:columns")
    keras.utils.set_random_seed(0)
    shape = (arguments.size, arguments.size, 3)
    model = ks.partition(
        ks.models.UNet2D(shape, classes=2, filters=arguments.filters, levels=3, dropout=0.0), distribution
    )
    model.compile("adam", ks.losses.DiceCrossentropy())
    print(ks.plan(model, distribution))
    image, label = tissue(arguments.size)
    for step in range(arguments.steps):
        started = time.perf_counter()
        loss = float(np.ravel(model.train_on_batch(image, label))[0])
        print(f"step {step}: loss {loss:.4f}, {time.perf_counter() - started:.1f} s", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(f"peak memory of the process, with the shards of all 16 devices: {peak:.1f} GB")


if __name__ == "__main__":
    main()
