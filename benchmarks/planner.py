"""Is the planner right? Its prediction is compared with the peak memory of the tensors of a training step.

    python -m benchmarks.planner

On logical CPU devices, all shards live in one process and in one allocator. The measured figure is that of the
allocator (`tf.config.experimental.get_memory_info`): the peak of a step, minus the memory of the variables before it.
The note of a row also says by how much the process grew. That figure is larger and says less: it includes the memory of
tracing, and the allocator requests memory in regions, each twice as large as the previous one, and never returns any.
The benchmark also prints the table of the paper's network (Hou et al., arXiv 1909.03108; 4 levels, 32 filters) on a
512³ image in float32, with the devices on which it fits.
"""

import argparse
import json
import math
import os
import resource
import statistics

from benchmarks.processes import figures_of
from benchmarks.results import finish, parser_of, row

# The mesh, the filters, the levels, and whether the top level is computed again in the backward pass.
CASES = (("1x1", 8, 3, False), ("2x2", 8, 3, False), ("2x2", 4, 4, False), ("4x2", 8, 2, False), ("2x2", 8, 3, True))
# Networks of keras.applications on 2x2 devices, and the batch size.
APPLICATIONS = (("MobileNetV2", 2), ("ResNet50", 1))
APPLICATION_SIZE = 512
STEPS = 3
DEVICES = (16, 40, 80, 141)


def _model(size: int, filters: int, levels: int, rows: int, columns: int, again: bool):
    import keras

    import keras_spatial as ks

    keras.utils.set_random_seed(0)
    mesh = ks.device_mesh(f"rows:{rows}, columns:{columns}")
    with ks.SpatialParallel(mesh, "x:rows, y:columns").scope():
        model = ks.models.UNet3D((size, size, size, 1), classes=3, filters=filters, levels=levels, dropout=0.0)
    model.compile("adam", ks.losses.DiceCrossentropy())
    if again:
        kinds = [f"{kind}{n}" for n in (1, 2) for kind in ("conv", "norm", "relu")]
        ks.recompute(model, [[f"down0_{kind}" for kind in kinds], [f"up0_{kind}" for kind in kinds]])
    return model


def unet(size: int, *case) -> dict[str, float]:
    """The megabytes of a U-Net's training step, predicted and measured."""
    import numpy as np

    model = _model(size, *case)
    generator = np.random.default_rng(0)
    image = generator.normal(size=(1, size, size, size, 1)).astype("float32")
    return compare(model, image, generator.integers(0, 3, size=(1, size, size, size)).astype("int32"))


def application(size: int, name: str, batch: int) -> dict[str, float]:
    """The megabytes of a training step of a network of keras.applications, predicted and measured."""
    import numpy as np

    image = np.random.default_rng(0).normal(size=(batch, size, size, 3)).astype("float32")
    return compare(_application(name, size), image, np.zeros(batch, "int32"))


def compare(model, image, label) -> dict[str, float]:
    """The megabytes that the planner predicts, that the tensors of a step take, and by which the process grew."""
    import tensorflow as tf

    import keras_spatial as ks

    before, most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for step in range(1 + STEPS):
        tf.config.experimental.reset_memory_stats("CPU:0")
        held = tf.config.experimental.get_memory_info("CPU:0")["current"]
        model.train_on_batch(image, label)
        if step:  # The first step makes the optimizer's variables.
            most = max(most, tf.config.experimental.get_memory_info("CPU:0")["peak"] - held)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    planned = ks.plan(model, model.distribution, batch_size=len(image))
    # Operations need temporary memory on as many devices as there are cores to run them. The image and the labels enter
    # as whole tensors.
    at_work = min(planned.devices, len(os.sched_getaffinity(0)))
    # Gradients of weights are summed into one tensor, which in one process all devices share.
    shared = (planned.devices - 1) * sum(math.prod(v.shape) * 4 for v in model.trainable_variables)
    predicted = planned.devices * (planned.activations - planned.workspace) - shared + at_work * planned.workspace
    predicted += image.nbytes + label.nbytes
    return {"predicted": predicted / 1e6, "measured": most / 1e6, "process": grown / 1e6}


def _application(name: str, size: int):
    import keras

    import keras_spatial as ks

    keras.utils.set_random_seed(0)
    mesh = ks.device_mesh("rows:2, columns:2")
    network = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classes=10)
    model = ks.partition(network, ks.SpatialParallel(mesh, "x:rows, y:columns"))
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    return model


_PARTS = {"unet": unet, "application": application}


def paper_table(size: int) -> list[dict]:
    """The rows of the paper's network on 1 to 256 devices."""
    import keras_spatial as ks
    from keras_spatial.planning.search import even_distribution

    rows = []
    for devices in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        model = ks.models.UNet3D((size, size, size, 1), classes=3)
        planned = ks.plan(model, even_distribution(devices, rank=3))
        fits = [f"{memory} GB" for memory in DEVICES if planned.fits(memory * 10**9)]
        note = f"fits {', '.join(fits) or 'none of 16, 40, 80, 141 GB'}; halo {planned.halo / 1e9:.2f} GB a step"
        rows.append(row(f"{size}³ U-Net, {devices} devices: GB per device", planned.memory / 1e9, note=note))
    return rows


def _compare(name: str, what: str, size: int, case: list, rounds: int) -> dict:
    """A row with the predicted memory and the measured one, which is the median over several processes."""
    found = [figures_of("planner", what, size, case) for _ in range(rounds)]
    predicted, measured, process = (
        statistics.median(one[key] for one in found) for key in ("predicted", "measured", "process")
    )
    note = f"from 0.85 to 1.15; the process grew by {process:.0f} MB, tracing included"
    return {**row(name, predicted, measured, 1.15, note=note), "ok": 0.85 <= predicted / measured <= 1.15}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument(
        "--size", type=int, default=96, help="The number of voxels along each axis of the measured image."
    )
    parser.add_argument(
        "--paper-size", type=int, default=512, help="The number of voxels along each axis for the paper's network."
    )
    parser.add_argument("--rounds", type=int, default=3, help="The number of processes for each figure.")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        what, size, case = json.loads(arguments.one)
        print(json.dumps(_PARTS[what](size, *case)))
        return
    rows = []
    for mesh, filters, levels, again in CASES:
        case = [filters, levels, *map(int, mesh.split("x")), again]
        name = f"predicted over measured memory, {arguments.size}³, {mesh}, {filters} filters, {levels} levels"
        name += ", top level recomputed" if again else ""
        rows.append(_compare(name + ", MB", "unet", arguments.size, case, arguments.rounds))
    for network, batch in APPLICATIONS:
        name = f"predicted over measured memory, {APPLICATION_SIZE}², 2x2, {network}, batch {batch}, MB"
        rows.append(_compare(name, "application", APPLICATION_SIZE, [network, batch], rounds=1))
    rows += paper_table(arguments.paper_size)
    settings = {name: getattr(arguments, name) for name in ("size", "paper_size", "rounds")}
    finish("planner", rows, settings, "python -m benchmarks.planner", save=arguments.save)


if __name__ == "__main__":
    main()
