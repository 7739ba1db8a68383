"""The peak memory, above that of the imports, of one action in its own process. `benchmarks.input` runs it.

python -m benchmarks.input_memory convert FOLDER RESOLUTION     # Convert the first case of a folder to packed blocks.
python -m benchmarks.input_memory phantom SIZE                  # Render a phantom in 16x16 blocks.
"""

import re
import sys
import tempfile
from pathlib import Path

import numpy as np

from datasets.blocks import BlockGrid
from datasets.conversion import Target, convert
from datasets.lits.cases import find_cases
from datasets.lits.conversion import LitsReader
from datasets.phantom import patient, render
from keras_spatial.volumes import Grid


def convert_first(folder: str | Path, resolution: int, store: str) -> None:
    """Convert the first case of a folder.

    Raises:
        ValueError: if the case cannot be used.
    """
    done = convert(find_cases(folder)[0], Target(Grid(resolution=resolution), BlockGrid(), store, LitsReader()))
    if done.error:
        raise ValueError(done.error)


def generate(size: int) -> None:
    """Render a phantom of `size` voxels along each axis block by block, without keeping any block."""
    blocks, shape = BlockGrid(16, 16, 1), (size, size, size)
    for index, part in zip(np.ndindex(*blocks.counts), blocks.slices(shape), strict=True):
        # The blocks of the middle row and column represent all kinds of blocks; all blocks would take minutes.
        if 8 in index:
            render(patient(0), shape, [s.start for s in part], [s.stop for s in part])


def _status(field: str) -> int:
    """The memory of this process in bytes as Linux reports it: `VmRSS` is the current one, `VmHWM` the peak."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found, f"/proc/self/status has no {field}"
    return int(found[1]) * 1024


if __name__ == "__main__":
    Path("/proc/self/clear_refs").write_text("5")  # The imports' own peak would hide the action's.
    before = _status("VmRSS")
    if sys.argv[1] == "convert":
        with tempfile.TemporaryDirectory() as scratch:
            convert_first(sys.argv[2], int(sys.argv[3]), scratch)
    else:
        generate(int(sys.argv[2]))
    print(_status("VmHWM") - before)
