"""What the peers share: the sizes of the network, and the files through which weights and results pass.

Imports nothing but NumPy, so that each peer's own environment can use it.
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
    """One network and image, and where its weights are.

    Attributes:
        size: voxels along each axis.
        filters, levels, classes: of the U-Net, with two normalized convolutions per level and side.
        steps: measured after the first.
        folder: holds `weights.npz`, `image.npy`, `label.npy`.
    """

    size: int
    filters: int
    levels: int
    classes: int
    steps: int
    folder: str

    def load(self) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """Weights by `layer/variable`, the image `[1, n, n, n, 1]` and its labels `[1, n, n, n]`."""
        folder = Path(self.folder)
        with np.load(folder / "weights.npz") as weights:
            return dict(weights), np.load(folder / "image.npy"), np.load(folder / "label.npy")


def case_from_arguments() -> Case:
    return Case(**json.loads(sys.argv[1]))


def report(step, case: Case, **more) -> None:
    """Run a step, which returns the loss as a float, and print its figures as one line of JSON."""
    idle = peak()
    started = time.perf_counter()
    loss = step()
    first = time.perf_counter() - started
    cpu_times, wall_times = [], []
    for _ in range(case.steps):
        before, started = cpu(), time.perf_counter()
        step()
        wall_times.append(time.perf_counter() - started)
        cpu_times.append(cpu() - before)
    figures = {"cpu": statistics.median(cpu_times), "wall": statistics.median(wall_times)}
    print(json.dumps({**figures, "first": first, "memory": peak() - idle, "loss": loss, **more}))


def cpu() -> float:
    """Seconds of processor time so far, of all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak() -> float:
    """Peak resident memory so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
