"""Training steps of 1, 2, 4 and 8 processes on this machine: memory of each, time, bytes sent, size of the graph.

    python -m benchmarks.scaling

The image is sharded along x. Each process makes and holds only its own blocks of it (`ks.LocalBlocks`), and figures
count only if the losses are the same for all numbers of processes. Memory is the peak resident set of a process above
that before its first step. Bytes are those that the loopback interface carried during the later steps, including the
headers of gRPC and TCP, so nothing else may use it meanwhile. The last rows limit the memory of each process
(RLIMIT_DATA) after the model is built: a training that one process cannot run within the limit must run with more
processes.
"""

import argparse
import functools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.results import finish, parser_of, row

TARGETS = {2: 0.55, 4: 0.30, 8: 0.17}
MIB = 1 << 20


def measure(size: int, filters: int, levels: int, steps: int, threads: int, limit: float) -> None:
    """Run a few steps in a process, and print one line of JSON to standard output."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    import keras
    import numpy as np

    import keras_spatial as ks

    job = ks.initialize(timeout=300)
    distribution = ks.SpatialParallel(ks.device_mesh(f"rows:{job.count}"), "x:rows")
    keras.utils.set_random_seed(0)
    with distribution.scope():
        model = ks.models.UNet3D((size, size, size, 1), classes=3, filters=filters, levels=levels, dropout=0.0)
    model.compile(optimizer="adam", loss=ks.losses.DiceCrossentropy())
    model.optimizer.build(model.trainable_variables)
    length = size // job.count
    x = np.arange(job.rank * length, (job.rank + 1) * length)[:, None, None]
    y, z = np.arange(size)[:, None], np.arange(size)
    values = np.sin(0.05 * x * y) + np.cos(0.03 * y * z + x)
    image = tf.constant(values[None, ..., None], tf.float32)
    label = tf.constant((values[None] > 0).astype("int32") + (values[None] > 1))
    counts = (1, job.count, 1, 1)
    data = (ks.LocalBlocks((image,), (*counts, 1)), ks.LocalBlocks((label,), counts))
    del values
    idle = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # The peak is measured from here on.
    if limit:
        bytes_allowed = int(_status("VmData") * MIB + limit * MIB)
        resource.setrlimit(resource.RLIMIT_DATA, (bytes_allowed, bytes_allowed))
    seconds, losses, carried = [], [], []
    for _ in range(steps):
        started, before = time.perf_counter(), _loopback()
        losses.append(float(np.ravel(model.train_on_batch(*data))[0]))
        seconds.append(time.perf_counter() - started)
        carried.append(_loopback() - before)
    found: dict[str, Any] = {"rank": job.rank, "idle": idle, "peak": _status("VmHWM") - idle, "losses": losses}
    found |= {"seconds": statistics.median(seconds[1:]), "carried": statistics.median(carried[1:])}
    step = tf.function(lambda *batch: model.train_step(batch), autograph=False)
    found["nodes"] = len(step.get_concrete_function(*data).graph.get_operations())
    print("RESULT " + json.dumps(found), flush=True)


def _status(name: str) -> float:
    """A figure of this process's memory, in MiB; Linux counts in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) / 1024


def _loopback() -> int:
    """The number of bytes that the loopback interface has sent since the machine started."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    return int(next(line for line in lines if line.strip().startswith("lo:")).split(":")[1].split()[8])


def run(processes: int, arguments: argparse.Namespace, *, threads: int = 1, limit: float = 0) -> dict | None:
    """The largest of each figure over the processes; None if they failed for lack of memory under a limit."""
    command = [sys.executable, "-m", "keras_spatial.launch", "--processes", str(processes), __file__, "--measure"]
    for name in ("size", "filters", "levels", "steps"):
        command += [f"--{name}", str(getattr(arguments, name))]
    command += ["--threads", str(threads), "--limit", str(limit)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "TF_CPP_MIN_LOG_LEVEL": "2"}
    # The limit counts the whole of every thread's stack; with small stacks it is about the step's memory.
    stack = functools.partial(resource.setrlimit, resource.RLIMIT_STACK, (MIB, MIB)) if limit else None
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, preexec_fn=stack)
    found = [json.loads(line.split("RESULT ")[1]) for line in done.stdout.splitlines() if "RESULT " in line]
    if done.returncode or len(found) != processes:
        if limit:
            return None
        raise SystemExit(f"{processes} processes ended with status {done.returncode}:\n{done.stdout[-4000:]}")
    largest = {name: max(result[name] for result in found) for name in ("idle", "peak", "seconds", "carried", "nodes")}
    return {**largest, "losses": found[0]["losses"]}


def predicted(processes: int, arguments: argparse.Namespace) -> float:
    """The bytes that all processes send in a step: halos in both directions, and ring all-reduces."""
    import keras_spatial as ks

    mesh = ks.device_mesh(f"rows:{processes}", devices=["cpu:0"] * processes)
    shape = (arguments.size,) * 3
    model = ks.models.UNet3D((*shape, 1), classes=3, filters=arguments.filters, levels=arguments.levels, dropout=0.0)
    model.compile(optimizer="adam", loss=ks.losses.DiceCrossentropy())
    planned = ks.plan(model, ks.SpatialParallel(mesh, "x:rows"))
    one_way = planned.halo / min(2, processes - 1)
    return 2 * (processes - 1) * (one_way + planned.allreduce)


def same(losses: list[float], others: list[float]) -> None:
    if any(abs(a - b) > 1e-3 * abs(a) for a, b in zip(losses, others, strict=True)):
        raise SystemExit(f"The losses differ: {losses} and {others}")


def rows_of(arguments: argparse.Namespace) -> list[dict]:
    rows = []
    found = {}
    for processes in arguments.processes:
        found[processes] = run(processes, arguments)
        print(f"{processes} processes: {found[processes]}", flush=True)
        same(found[arguments.processes[0]]["losses"], found[processes]["losses"])
    one = found[1]["peak"]
    for processes, figures in found.items():
        if processes > 1:
            name = f"peak memory of one of {processes} processes above an idle one, over that of a single process, MiB"
            rows.append(row(name, figures["peak"], one, TARGETS.get(processes)))
    for processes, figures in found.items():
        if processes > 1:
            name = f"bytes that {processes} processes send in a step, measured over predicted by ks.plan"
            note = "headers of gRPC and TCP included"
            rows.append(row(name, figures["carried"], predicted(processes, arguments), 1.05, note=note))
    several = [p for p in found if p > 2]
    if several:
        smallest, largest = several[0], several[-1]
        name = f"nodes of a process's graph, {largest} processes over {smallest}"
        rows.append(row(name, found[largest]["nodes"], found[smallest]["nodes"], 1.0))
    pairs = [(run(2, arguments), run(1, arguments, threads=2)) for _ in range(arguments.repeats)]
    ours, peer = (statistics.median(pair[i]["seconds"] for pair in pairs) for i in (0, 1))
    rows.append(row("seconds of a step, 2 processes of one thread over 1 of two threads", ours, peer, 1.10))
    if len(several) > 1:
        limit = round((found[several[0]]["peak"] + one) / 2)
        ends = {processes: run(processes, arguments, limit=limit) is not None for processes in (1, *several)}
        print(f"under {limit} MiB for each process: {ends}", flush=True)
        for processes, trained in ends.items():
            name = f"trains under {limit} MiB for each process: {processes} process{'es' * (processes > 1)} (1 is yes)"
            target = {} if processes == 1 else {"target": 1, "smallest": True}
            rows.append(row(name, float(trained), **target))
    return rows


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--size", type=int, default=224, help="The number of voxels along each axis.")
    parser.add_argument("--filters", type=int, default=16, help="The number of filters of the U-Net's first level.")
    parser.add_argument("--levels", type=int, default=3, help="The number of levels of the U-Net.")
    parser.add_argument("--steps", type=int, default=3, help="The number of training steps.")
    parser.add_argument(
        "--processes", type=int, nargs="+", default=[1, 2, 4, 8], help="The numbers of processes; the first must be 1."
    )
    parser.add_argument("--repeats", type=int, default=3, help="How often the comparison of times is repeated.")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=float, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        sizes = (arguments.size, arguments.filters, arguments.levels, arguments.steps)
        measure(*sizes, arguments.threads, arguments.limit)
        return
    names = ("size", "filters", "levels", "steps", "processes", "repeats")
    settings = {name: getattr(arguments, name) for name in names}
    finish("scaling", rows_of(arguments), settings, "python -m benchmarks.scaling", save=arguments.save)


if __name__ == "__main__":
    main()
