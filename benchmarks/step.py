"""What partitioning costs: the U-Net's training step on meshes of logical CPUs against plain Keras on the same cores.

    python -m benchmarks.step --size 96 --rounds 3

Every measurement runs in a process of its own; the variants take turns, and medians are compared. The losses must agree
before anything is reported. Writes `benchmarks/results/step.json` and prints the table.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

VARIANTS = ("keras", "1x1", "2x2")
TARGETS = {"1x1": {"cpu": 1.02, "memory": 1.02, "first": 2.0}, "2x2": {"cpu": 1.05, "memory": 1.0, "first": 2.0}}
NAMES = {"cpu": "CPU time of a step", "memory": "peak memory above an idle process", "first": "time to the first step"}


def measure(variant: str, size: int, filters: int, levels: int, steps: int) -> dict[str, float]:
    """One process's figures: seconds of CPU per step, megabytes, seconds to the first step, loss."""
    import keras
    import numpy as np

    import keras_spatial as ks
    from keras_spatial.model import plain

    keras.utils.set_random_seed(0)
    model = ks.models.UNet3D((size, size, size, 1), classes=3, filters=filters, levels=levels, dropout=0.0)
    if variant == "keras":
        model = plain(model)
    else:
        rows, columns = variant.split("x")
        mesh = ks.device_mesh(f"rows:{rows}, columns:{columns}")
        model = ks.partition(model, ks.SpatialParallel(mesh, "x:rows, y:columns"))
    model.compile(optimizer="adam", loss=ks.losses.DiceCrossentropy(), jit_compile=False)
    generator = np.random.default_rng(0)
    image = generator.normal(size=(1, size, size, size, 1)).astype("float32")
    label = generator.integers(0, 3, size=(1, size, size, size)).astype("uint8")
    idle = _peak()
    started = time.perf_counter()
    model.train_on_batch(image, label)
    first = time.perf_counter() - started
    costs, loss = [], 0.0
    for _ in range(steps):
        before = _cpu()
        loss = float(np.ravel(model.train_on_batch(image, label))[0])
        costs.append(_cpu() - before)
    return {"cpu": statistics.median(costs), "memory": _peak() - idle, "first": first, "loss": loss}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def compare(size: int, filters: int, levels: int, steps: int, rounds: int) -> list[dict[str, object]]:
    """Rows of the table, from interleaved runs."""
    runs: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    for _ in range(rounds):
        for variant in VARIANTS:
            command = [sys.executable, "-m", "benchmarks.step", "--one", variant, "--size", str(size)]
            command += ["--filters", str(filters), "--levels", str(levels), "--steps", str(steps)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            runs[variant].append(json.loads(output.splitlines()[-1]))
    losses = [run["loss"] for variant in VARIANTS for run in runs[variant]]
    if max(losses) - min(losses) > 1e-4 * abs(losses[0]):
        raise SystemExit(f"The variants do not compute the same: losses {losses}")
    rows = []
    for variant, targets in TARGETS.items():
        for figure, target in targets.items():
            ours = statistics.median(run[figure] for run in runs[variant])
            peer = statistics.median(run[figure] for run in runs["keras"])
            rows.append(
                {
                    "figure": f"{NAMES[figure]}, {variant} over plain Keras",
                    "ours": round(ours, 3),
                    "peer": round(peer, 3),
                    "ratio": round(ours / peer, 3),
                    "target": target,
                    "ok": ours / peer <= target,
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=96, help="voxels along each axis")
    parser.add_argument("--filters", type=int, default=8)
    parser.add_argument("--levels", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="steps measured after the first")
    parser.add_argument("--rounds", type=int, default=3, help="processes per variant")
    parser.add_argument("--one", choices=VARIANTS, help="measure one variant in this process and print its figures")
    arguments = parser.parse_args()
    shape = (arguments.size, arguments.filters, arguments.levels, arguments.steps)
    if arguments.one:
        print(json.dumps(measure(arguments.one, *shape)))
        return
    rows = compare(*shape, arguments.rounds)
    import keras
    import tensorflow as tf

    result = {
        "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
        "versions": {"tensorflow": tf.__version__, "keras": keras.__version__},
        "network": dict(zip(("size", "filters", "levels", "steps"), shape, strict=True)),
        "rows": rows,
    }
    path = Path(__file__).parent / "results" / "step.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    for row in rows:
        print(f"{row['figure']}: {row['ratio']} (target {row['target']}){'' if row['ok'] else ', missed'}")


if __name__ == "__main__":
    main()
