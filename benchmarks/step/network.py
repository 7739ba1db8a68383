"""Code that the peers share: the sizes of the network, and the files with weights and results.

It imports nothing but NumPy, so that it works in each peer's environment.
"""

import json
import resource
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SLOPE, EPSILON = 0.1, 1e-6


@dataclass(frozen=True)
class Case:
    """A network, an image, and the folder of its weights.

    Attributes:
        size: the number of voxels along each axis.
        filters, levels, classes: the sizes of the U-Net, which has two normalized convolutions per level in encoder and
            decoder.
        steps: the number of steps measured after the first one.
        folder: the folder with `weights.npz`, `image.npy` and `label.npy`.
    """

    size: int
    filters: int
    levels: int
    classes: int
    steps: int
    folder: str

    def load(self) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """The weights by `layer/variable`, the image `[1, n, n, n, 1]` and its labels `[1, n, n, n]`."""
        folder = Path(self.folder)
        with np.load(folder / "weights.npz") as weights:
            return dict(weights), np.load(folder / "image.npy"), np.load(folder / "label.npy")


def case_from_arguments() -> Case:
    return Case(**json.loads(sys.argv[1]))


def report(step, steps: int, **more) -> None:
    """Run a step, which returns the loss as a float, 1 + `steps` times, and print its figures as one line of JSON."""
    idle = peak()
    before, started = cpu(), time.perf_counter()
    loss = step()
    first, first_cpu = time.perf_counter() - started, cpu() - before
    cpu_times, wall_times = [], []
    for _ in range(steps):
        before, started = cpu(), time.perf_counter()
        step()
        wall_times.append(time.perf_counter() - started)
        cpu_times.append(cpu() - before)
    figures = {"cpu": statistics.median(cpu_times), "wall": statistics.median(wall_times)}
    figures |= {"first": first, "first_cpu": first_cpu, "memory": peak() - idle, "loss": loss}
    print(json.dumps({**figures, **more}))


def cpu() -> float:
    """The processor time of all threads so far, in seconds."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak() -> float:
    """The peak resident memory so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
