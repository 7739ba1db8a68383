"""Peak memory above what the imports take, of one action in a process of its own. Run by `benchmarks.input`.

python -m benchmarks.input_memory convert FOLDER RESOLUTION     the first case of a folder, to packed blocks
python -m benchmarks.input_memory phantom SIZE                  a phantom, in 16x16 blocks
"""

import re
import sys
import tempfile
from pathlib import Path

from datasets.blocks import BlockGrid
from datasets.conversion import Target, convert
from datasets.lits.cases import find_cases
from datasets.lits.conversion import LitsReader
from datasets.phantom import patient, render
from keras_spatial.volumes import Grid


def convert_first(folder: str | Path, resolution: int, store: str) -> None:
    """Convert the first case of a folder; raise ValueError where it cannot be used."""
    done = convert(find_cases(folder)[0], Target(Grid(resolution=resolution), BlockGrid(), store, LitsReader()))
    if done.error:
        raise ValueError(done.error)


def generate(size: int) -> None:
    """Render a phantom of `size` voxels an axis block by block, keeping none."""
    blocks, shape = BlockGrid(16, 16, 1), (size, size, size)
    for index in blocks.indices():
        part = blocks.slices(index, shape)
        # The blocks of the middle row and column are as many kinds as there are; all of them would take minutes.
        if 8 in index:
            render(patient(0), shape, [s.start for s in part], [s.stop for s in part])


def _status(field: str) -> int:
    """Bytes that Linux reports of this process: `VmRSS` now, or `VmHWM` at most."""
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
