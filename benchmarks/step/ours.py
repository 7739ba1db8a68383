"""The step with keras_spatial, on a mesh such as 2x2, or with plain Keras."""

import sys

import keras_spatial as ks

# isort: split
import keras
import numpy as np

from benchmarks.step.network import Case, case_from_arguments, report
from keras_spatial.saving import plain


def build(case: Case) -> keras.Model:
    """The compiled network: cross-entropy, and gradient descent with a rate so low that losses stay comparable."""
    keras.utils.set_random_seed(0)
    shape = (case.size,) * 3 + (1,)
    model = plain(ks.models.UNet3D(shape, case.classes, filters=case.filters, levels=case.levels, dropout=0.0))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-6), loss, jit_compile=False)
    return model


def write(case: Case) -> None:
    """Write the weights, an image and labels for all peers."""
    model = build(case)
    generator = np.random.default_rng(0)
    np.savez(f"{case.folder}/weights.npz", **{v.path: v.numpy() for v in model.trainable_variables})
    np.save(f"{case.folder}/image.npy", generator.normal(size=(1, *model.input_shape[1:])).astype("float32"))
    labels = generator.integers(0, case.classes, size=(1, *model.input_shape[1:4]))
    np.save(f"{case.folder}/label.npy", labels.astype("int32"))


def main() -> None:
    case, mesh = case_from_arguments(), sys.argv[2]
    if mesh == "write":
        write(case)
        return
    more = {}
    rows, columns = (1, 1) if mesh == "keras" else map(int, mesh.split("x"))
    distribution = ks.SpatialParallel(ks.device_mesh(f"rows:{rows}, columns:{columns}"), "x:rows, y:columns")
    model = build(case)
    if mesh != "keras":
        more["device_memory"] = ks.plan(model, distribution).activations / 1e6
        model = ks.partition(model, distribution)
    _, image, label = case.load()
    report(lambda: float(np.ravel(model.train_on_batch(image, label))[0]), case.steps, **more)


if __name__ == "__main__":
    main()
