"""Is the planner right? What it predicts against the peak memory that a training step adds to a process.

    python -m benchmarks.planner

On logical CPU devices all parts of the image live in one process, which TensorFlow itself, its graph and its threads
make larger besides. Those do not depend on the image: what two sizes of image differ by is compared, measured and
predicted. It prints besides the table of the paper's network (Hou et al., arXiv 1909.03108; 4 levels, 32 filters) on a
512³ image, float32, and on which devices it fits.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys

from benchmarks.results import row, save

# Mesh, filters, levels, and whether the high levels are computed again.
CASES = (("1x1", 8, 3, False), ("2x2", 8, 3, False), ("2x2", 4, 4, False), ("4x2", 8, 2, False), ("2x2", 8, 3, True))
SMALL = 16
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


def measure(size: int, *case) -> float:
    """Megabytes that some training steps add to this process at most."""
    import numpy as np

    model = _model(size, *case)
    generator = np.random.default_rng(0)
    image = generator.normal(size=(1, size, size, size, 1)).astype("float32")
    label = generator.integers(0, 3, size=(1, size, size, size)).astype("int32")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):
        model.train_on_batch(image, label)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e6


def predict(size: int, *case) -> float:
    """The same by the planner: all devices' parts, and the image and labels that enter whole."""
    import keras_spatial as ks

    model = _model(size, *case)
    planned = ks.plan(model, model.distribution)
    return (planned.devices * planned.activations + 2 * 4 * size**3) / 1e6


def paper_table(size: int) -> list[dict]:
    """Rows of the paper's network on 1 to 256 devices."""
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


def _in_process(what: str, size: int, case) -> float:
    command = [sys.executable, "-m", "benchmarks.planner", "--one", json.dumps([what, size, case])]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(output.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=96, help="voxels along each axis of the measured image")
    parser.add_argument("--paper-size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3, help="processes per figure")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        what, size, case = json.loads(arguments.one)
        print({"measure": measure, "predict": predict}[what](size, *case))
        return
    rows = []
    for mesh, filters, levels, again in CASES:
        case = [filters, levels, *map(int, mesh.split("x")), again]
        measured = [
            statistics.median(_in_process("measure", size, case) for _ in range(arguments.rounds))
            for size in (SMALL, arguments.size)
        ]
        predicted = [_in_process("predict", size, case) for size in (SMALL, arguments.size)]
        name = f"predicted over measured memory, {arguments.size}³, {mesh}, {filters} filters, {levels} levels"
        ratio = (predicted[1] - predicted[0]) / (measured[1] - measured[0])
        found = row(
            name + (", top level recomputed" if again else "") + ", MB",
            predicted[1] - predicted[0],
            measured[1] - measured[0],
            1.15,
            note="from 0.85 to 1.15",
        )
        rows.append({**found, "ok": 0.85 <= ratio <= 1.15})
    rows += paper_table(arguments.paper_size)
    settings = {name: getattr(arguments, name) for name in ("size", "paper_size", "rounds")}
    save("planner", rows, settings, "python -m benchmarks.planner")


if __name__ == "__main__":
    main()
