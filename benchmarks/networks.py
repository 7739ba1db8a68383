"""Training steps of whole networks on a 2x2 mesh, compared with plain Keras on the same cores.

    python -m benchmarks.networks

Each variant runs in its own processes, which take turns; figures are medians over these. The memory is the most by
which a process grew over what it held with the model built, so it includes what tracing takes. A step's loss must be
that of plain Keras, except for networks that drop parts of themselves at random.
"""

import argparse
import importlib.util
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.processes import figures_of
from benchmarks.results import finish, parser_of, row

# The figures of a process, and how the tables call them.
CPU, FIRST, MEMORY = "cpu", "first_cpu", "memory"
FIGURES = {
    CPU: "CPU seconds of a step",
    "wall": "seconds of a step",
    FIRST: "CPU seconds of the first step",
    "first": "seconds to the first step",
    MEMORY: "peak MB above idle, whole process",
}
KERAS, MESH = "keras", "2x2"


@dataclass(frozen=True)
class Network:
    """A network, the image that it is trained on, and what is expected of its step.

    Attributes:
        make: a function without arguments that returns a Keras model whose outputs are logits.
        batch: the number of images of a step.
        targets: the largest ratios to plain Keras, by figure.
        over_whole: the largest ratio of a step's CPU time to that on a 1x1 mesh, or None.
        drops: whether it drops parts of itself at random in training, so that losses differ.
        needs: the package that it comes from, if that may not be installed.
    """

    make: Callable[[], Any]
    batch: int = 1
    targets: dict[str, float] = field(default_factory=dict)
    over_whole: float | None = None
    drops: bool = False
    needs: str = ""


def _unet(size: int):
    import keras_spatial as ks
    from keras_spatial.saving import plain

    return plain(ks.models.UNet3D((size,) * 3 + (1,), classes=3, filters=8, levels=3, dropout=0.0))


def _residual_unet(size: int):
    import keras_spatial as ks
    from keras_spatial.saving import plain

    shape, blocks = (size,) * 3 + (1,), (1, 2, 2, 2)
    return plain(ks.models.ResidualUNet3D(shape, 3, filters=8, levels=4, blocks=blocks, deep_supervision=False))


def _application(name: str, size: int):
    import keras

    make = getattr(keras.applications, name)
    return make(weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None)


def _deeplab(size: int):
    import keras_hub

    encoder = keras_hub.models.ResNetBackbone(
        [64], [7], [64, 128, 256, 512], [3, 4, 6, 3], [1, 2, 2, 2], "bottleneck_block", image_shape=(size, size, 3)
    )
    backbone = keras_hub.models.DeepLabV3Backbone(
        encoder, "P5", 8, [6, 12, 18], low_level_feature_key="P2", projection_filters=48, image_shape=(size, size, 3)
    )
    return keras_hub.models.DeepLabV3ImageSegmenter(backbone, 21)


NETWORKS = {
    "U-Net 3D, 96³": Network(lambda: _unet(96), targets={CPU: 1.05, FIRST: 2.0, MEMORY: 1.0}, over_whole=1.08),
    "U-Net 3D, 128³": Network(lambda: _unet(128), targets={CPU: 1.05}),
    "residual U-Net 3D, 96³": Network(lambda: _residual_unet(96)),
    "ResNet50, 256²": Network(lambda: _application("ResNet50", 256), targets={FIRST: 2.0}),
    "ResNet50, 512²": Network(lambda: _application("ResNet50", 512)),
    "ResNet50, 1024²": Network(lambda: _application("ResNet50", 1024), targets={CPU: 1.15}),
    "DeepLabV3+, 1024²": Network(lambda: _deeplab(1024), needs="keras_hub"),
    "EfficientNetV2B0, 1024²": Network(lambda: _application("EfficientNetV2B0", 1024), targets={CPU: 1.25}, drops=True),
    "MobileNetV2, 512², batch 2": Network(
        lambda: _application("MobileNetV2", 512), batch=2, targets={CPU: 1.5, MEMORY: 1.2}
    ),
}


def measure(name: str, variant: str, steps: int) -> None:
    """Print the figures of one variant of a network, in this process, as one line of JSON."""
    import keras_spatial as ks

    # isort: split
    import keras
    import numpy as np

    from benchmarks.step.network import report

    network = NETWORKS[name]
    rows, columns = (1, 1) if variant == KERAS else map(int, variant.split("x"))
    mesh = ks.device_mesh(f"rows:{rows}, columns:{columns}")
    keras.utils.set_random_seed(0)
    model = network.make()
    generator = np.random.default_rng(0)
    image = generator.normal(size=(network.batch, *model.input_shape[1:])).astype("float32")
    label = generator.integers(0, model.output_shape[-1], size=(network.batch, *model.output_shape[1:-1]))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # The learning rate is so low that the losses of later steps stay comparable.
    model.compile(keras.optimizers.SGD(1e-6), loss, jit_compile=False)
    if variant != KERAS:
        model = ks.partition(model, ks.SpatialParallel(mesh, "x:rows, y:columns"))
    report(lambda: float(np.ravel(model.train_on_batch(image, label.astype("int32")))[0]), steps)


def compare(name: str, rounds: int, steps: int) -> list[dict]:
    """The rows of a network."""
    network = NETWORKS[name]
    if network.needs and importlib.util.find_spec(network.needs) is None:
        reason = f"not measured: there is no package {network.needs}"
        return [row(f"{name}: {FIGURES[CPU]}, {MESH} over {KERAS}", None, note=reason)]
    variants = [KERAS, MESH, *["1x1"] * (network.over_whole is not None)]
    runs: dict[str, list[dict[str, float]]] = {variant: [] for variant in variants}
    for _ in range(rounds):
        for variant in variants:
            runs[variant].append(figures_of("networks", name, variant, steps))
    losses = {variant: found[0]["loss"] for variant, found in runs.items()}
    if not network.drops and max(losses.values()) - min(losses.values()) > 1e-3 * abs(losses[KERAS]):
        raise SystemExit(f"{name}: the variants do not compute the same: losses {losses}")
    figures = {v: {key: statistics.median(run[key] for run in found) for key in FIGURES} for v, found in runs.items()}
    rows = [
        row(f"{name}: {text}, {MESH} over {KERAS}", figures[MESH][key], figures[KERAS][key], network.targets.get(key))
        for key, text in FIGURES.items()
    ]
    if network.over_whole is not None:
        text = f"{name}: {FIGURES[CPU]}, {MESH} over 1x1"
        rows.append(row(text, figures[MESH][CPU], figures["1x1"][CPU], network.over_whole))
    return rows


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="The number of processes of each variant.")
    parser.add_argument("--steps", type=int, default=3, help="The number of steps measured after the first one.")
    parser.add_argument("--only", help="Measure only networks whose names contain this text.")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure(*json.loads(options.one))
        return
    if options.save and options.only:
        parser.error("--save keeps the results of all networks: leave --only out.")
    rows: list[dict] = []
    for name in NETWORKS:
        if options.only is None or options.only in name:
            found = compare(name, options.rounds, options.steps)
            rows += found
            for one in found:
                print(one["figure"], one["ours"], one["peer"], one["ratio"], flush=True)
    settings = {"rounds": options.rounds, "steps": options.steps}
    finish("networks", rows, settings, "python -m benchmarks.networks", save=options.save)


if __name__ == "__main__":
    main()
