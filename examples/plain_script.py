"""Train a 3D U-Net to find boxes in images sharded over a 2x2 mesh; save it, and load it without a mesh."""

import argparse
import tempfile
from pathlib import Path

import keras_spatial as ks  # Import it first: it makes settings that TensorFlow reads when it starts.

# isort: split
import keras
import numpy as np


def boxes(count: int, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noisy images `[n, x, y, z, 1]` with one brighter box each, and labels `[n, x, y, z]` of 0 and 1."""
    generator = np.random.default_rng(seed)
    images = generator.normal(0.0, 0.5, (count, size, size, size, 1)).astype("float32")
    labels = np.zeros((count, size, size, size), "int32")
    for image, label in zip(images, labels, strict=True):
        start = generator.integers(0, size // 2, 3)
        inside = tuple(slice(a, a + size // 3) for a in start)
        label[inside] = 1
        image[inside] += 2.0
    return images, labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=48, help="The number of voxels along each axis.")
    parser.add_argument("--epochs", type=int, default=3, help="The number of epochs.")
    arguments = parser.parse_args()

    mesh = ks.device_mesh("rows:2, columns:2")  # GPUs if there are any, otherwise logical CPU devices.
    distribution = ks.SpatialParallel(mesh, "x:rows, y:columns")
    keras.utils.set_random_seed(0)
    with distribution.scope():
        model = ks.models.UNet3D((arguments.size,) * 3 + (1,), classes=2, filters=4, levels=2, dropout=0.0)
    model.compile("adam", ks.losses.DiceCrossentropy(), metrics=[ks.metrics.Dice(class_id=1, name="dice")])

    images, labels = boxes(8, arguments.size)
    model.fit(images, labels, batch_size=1, epochs=arguments.epochs, verbose=2)
    predicted = model.predict(images[:1], verbose=0)
    print("classes of the middle voxels:", predicted.argmax(-1)[0, arguments.size // 2, arguments.size // 2, ::8])

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "boxes.keras"
        model.save(path)  # A plain Keras file.
        plain = keras.saving.load_model(path, compile=False)
    difference = float(np.abs(plain.predict(images[:1], verbose=0) - predicted).max())
    print(f"largest difference from plain Keras's prediction: {difference:.1e}")


if __name__ == "__main__":
    main()
