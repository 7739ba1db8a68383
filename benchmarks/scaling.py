"""Peak memory and time of a training step per process, for 1, 2, 4, 8 processes of this machine.

    python benchmarks/scaling.py --size 128 --processes 1 2 4

Memory is the peak resident set of each process above what it held before its first step, the largest of all processes.
The image is cut along x, as `x:rows`. One process means a mesh of one device.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path


def measure(size: int, filters: int, levels: int, steps: int) -> None:
    """What each process runs: a few steps, then one line of JSON on standard output."""
    import keras
    import numpy as np
    import tensorflow as tf

    import keras_spatial as ks

    job = ks.initialize(timeout=300)
    distribution = ks.SpatialParallel(ks.device_mesh(f"rows:{job.count}"), "x:rows")
    keras.utils.set_random_seed(0)
    with distribution.scope():
        model = ks.models.UNet3D((size, size, size, 1), classes=3, filters=filters, levels=levels, dropout=0.0)
    model.compile(optimizer="adam", loss=ks.losses.DiceCrossentropy())
    generator = np.random.default_rng(0)
    image = tf.constant(generator.normal(size=(1, size, size, size, 1)), tf.float32)
    label = tf.constant(generator.integers(0, 3, size=(1, size, size, size)), tf.int32)
    data = tf.data.Dataset.from_tensors((image, label)).repeat()
    idle = _peak()
    seconds = Seconds()
    model.fit(data, steps_per_epoch=steps, epochs=1, verbose=0, callbacks=[seconds.callback(keras)])
    above = {"rank": job.rank, "idle_mb": idle, "peak_mb": _peak() - idle, "seconds": statistics.median(seconds.of[1:])}
    print("RESULT " + json.dumps(above), flush=True)


class Seconds:
    """Wall-clock seconds of each step."""

    def __init__(self):
        self.of: list[float] = []

    def callback(self, keras):
        start = [0.0]

        def begin(batch, logs=None):
            start[0] = time.perf_counter()

        return keras.callbacks.LambdaCallback(
            on_train_batch_begin=begin,
            on_train_batch_end=lambda batch, logs: self.of.append(time.perf_counter() - start[0]),
        )


def _peak() -> float:
    """Peak resident memory of this process so far, MB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(processes: int, arguments: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, "-m", "keras_spatial.launch", "--processes", str(processes), __file__, "--measure"]
    for name in ("size", "filters", "levels", "steps"):
        command += [f"--{name}", str(getattr(arguments, name))]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    found = [json.loads(line.split("RESULT ")[1]) for line in done.stdout.splitlines() if "RESULT " in line]
    if done.returncode or len(found) != processes:
        raise RuntimeError(f"{processes} processes ended with status {done.returncode}:\n{done.stdout[-4000:]}")
    return {name: max(result[name] for result in found) for name in ("idle_mb", "peak_mb", "seconds")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=128, help="voxels along each axis")
    parser.add_argument("--filters", type=int, default=8)
    parser.add_argument("--levels", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--output", type=Path, help="a JSON file")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.size, arguments.filters, arguments.levels, arguments.steps)
        return
    results = {}
    print(f"| processes | idle MB | peak above idle MB | of {arguments.processes[0]} | s per step |")
    print("| --- | --- | --- | --- | --- |")
    for processes in arguments.processes:
        results[processes] = run(processes, arguments)
        row = results[processes]
        share = row["peak_mb"] / results[arguments.processes[0]]["peak_mb"]
        print(
            f"| {processes} | {row['idle_mb']:.0f} | {row['peak_mb']:.0f} | {share:.2f} | {row['seconds']:.2f} |",
            flush=True,
        )
    if arguments.output:
        arguments.output.write_text(
            json.dumps({"arguments": vars(arguments), "results": results}, indent=2, default=str)
        )


if __name__ == "__main__":
    main()
