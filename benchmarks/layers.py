"""Each layer alone: a training step, and the first one, on a 2x2 mesh, compared with plain Keras on the same cores.

    python -m benchmarks.layers

Each device has a shard of at least 32³ voxels (3D) or 256² pixels (2D) with 16 channels. A step consists of the layer,
the mean of its squared result, and the gradients of its weights and of the layer before it. That layer is a convolution
of one voxel that makes the channels, and is part of both figures. Figures are CPU time, the medians of interleaved
steps in one process; before, the results are checked to be equal.
"""

import statistics
import time

import keras_spatial as ks

# isort: split
import keras
import numpy as np

from benchmarks.results import finish, parser_of, row
from benchmarks.step.network import cpu

L = keras.layers
CHANNELS = 16

LAYERS_3D = {
    "Conv3D 3³": lambda: L.Conv3D(16, 3, padding="same"),
    "Conv3D 3³, valid": lambda: L.Conv3D(16, 3),
    "Conv3D 3³, strides 2": lambda: L.Conv3D(16, 3, strides=2, padding="same"),
    "Conv3D 3³, dilated 2": lambda: L.Conv3D(16, 3, dilation_rate=2, padding="same"),
    "Conv3D 5³": lambda: L.Conv3D(16, 5, padding="same"),
    "Conv3D 1³": lambda: L.Conv3D(16, 1),
    "Conv3DTranspose 2³, strides 2": lambda: L.Conv3DTranspose(8, 2, strides=2, padding="same"),
    "Conv3DTranspose 3³, strides 2": lambda: L.Conv3DTranspose(8, 3, strides=2, padding="same"),
    "MaxPooling3D 2³": lambda: L.MaxPooling3D(2),
    "MaxPooling3D 3³, strides 2": lambda: L.MaxPooling3D(3, strides=2, padding="same"),
    "AveragePooling3D 2³": lambda: L.AveragePooling3D(2),
    "GlobalAveragePooling3D": lambda: L.GlobalAveragePooling3D(keepdims=True),
    "UpSampling3D 2³": lambda: L.UpSampling3D(2),
    "ZeroPadding3D": lambda: L.ZeroPadding3D(1),
    "Cropping3D": lambda: L.Cropping3D(1),
    "BatchNormalization": lambda: L.BatchNormalization(),
    "GroupNormalization": lambda: L.GroupNormalization(4),
    "LayerNormalization": lambda: L.LayerNormalization(),
    "LeakyReLU": lambda: L.LeakyReLU(),
    "gelu": lambda: L.Activation("gelu"),
    "Softmax": lambda: L.Softmax(),
    "Dropout": lambda: L.Dropout(0.5, seed=1),
    "Dense": lambda: L.Dense(16),
}
LAYERS_2D = {
    "Conv2D 3²": lambda: L.Conv2D(16, 3, padding="same"),
    "DepthwiseConv2D 3²": lambda: L.DepthwiseConv2D(3, padding="same"),
    "SeparableConv2D 3²": lambda: L.SeparableConv2D(16, 3, padding="same"),
    "UpSampling2D 2², bilinear": lambda: L.UpSampling2D(2, interpolation="bilinear"),
}
# Random numbers differ between meshes; tests compare their statistics instead.
_RANDOM = ("Dropout",)
# Plain Keras sums the moments of a whole group in float32, which itself is off by 1.3e-4 at 64x64x32 (against float64).
_TOLERANCE = 3e-4


def _model(make, size: tuple[int, ...]) -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((*size, 1))
    convolution = L.Conv3D if len(size) == 3 else L.Conv2D
    model = keras.Model(inputs, make()(convolution(CHANNELS, 1)(inputs)))
    return model


def measure(name: str, make, size: tuple[int, ...], steps: int) -> list[dict]:
    distribution = ks.SpatialParallel(ks.device_mesh("rows:2, columns:2"), "x:rows, y:columns")
    models = {"keras": _model(make, size), "2x2": ks.partition(_model(make, size), distribution)}
    image = np.random.default_rng(0).normal(size=(1, *size, 1)).astype("float32")
    first, losses, costs = {}, {}, {variant: [] for variant in models}
    for variant, model in models.items():
        model.compile(keras.optimizers.SGD(1e-9), "mse", jit_compile=False)
        label = np.zeros((1, *model.output_shape[1:]), "float32")
        started = time.perf_counter()
        losses[variant] = float(np.ravel(model.train_on_batch(image, label))[0])
        first[variant] = time.perf_counter() - started
    if name not in _RANDOM and abs(losses["2x2"] - losses["keras"]) > _TOLERANCE * abs(losses["keras"]):
        raise SystemExit(f"{name}: the losses differ: {losses}")
    for _ in range(steps):
        for variant, model in models.items():
            before = cpu()
            model.train_on_batch(image, label)
            costs[variant].append(cpu() - before)
    ours, peer = (statistics.median(costs[variant]) for variant in ("2x2", "keras"))
    return [
        row(f"{name}: CPU seconds of a step", ours, peer, 1.3),
        row(f"{name}: seconds to the first step", first["2x2"], first["keras"]),
    ]


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument(
        "--size-3d", type=int, nargs=3, default=(64, 64, 32), help="The number of voxels along x, y and z."
    )
    parser.add_argument("--size-2d", type=int, nargs=2, default=(512, 512), help="The number of pixels along x and y.")
    parser.add_argument(
        "--steps", type=int, default=9, help="The number of steps that are measured after the first one."
    )
    parser.add_argument("--only", help="Measure only layers whose names contain this text.")
    arguments = parser.parse_args()
    if arguments.save and arguments.only:
        parser.error("--save keeps the results of all layers: leave --only out.")
    rows = []
    for size, layers in ((arguments.size_3d, LAYERS_3D), (arguments.size_2d, LAYERS_2D)):
        for name, make in layers.items():
            if arguments.only is None or arguments.only in name:
                rows += measure(name, make, tuple(size), arguments.steps)
                print(rows[-2]["figure"], rows[-2]["ratio"], flush=True)
    steps = [found for found in rows if found["target"]]
    worst = max(steps, key=lambda found: found["ratio"])
    rows.append(row("layers whose step has a ratio above 1.3", sum(not found["ok"] for found in steps), target=4))
    rows.append(row(f"the largest of these ratios, {worst['figure'].split(':')[0]}", worst["ratio"], target=1.6))
    settings = {"size_3d": arguments.size_3d, "size_2d": arguments.size_2d, "steps": arguments.steps}
    finish("layers", rows, settings, "python -m benchmarks.layers", save=arguments.save)


if __name__ == "__main__":
    main()
