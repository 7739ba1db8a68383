"""Peak memory of converting the first case of a folder, above what the imports take. Run by `benchmarks.input`."""

import re
import sys
import tempfile
from pathlib import Path

from datasets.blocks import BlockGrid
from datasets.lits.cases import find_cases
from datasets.lits.conversion import Grid, Target, convert


def _status(field: str) -> int:
    """Bytes that Linux reports of this process: `VmRSS` now, or `VmHWM` at most."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found, f"/proc/self/status has no {field}"
    return int(found[1]) * 1024


if __name__ == "__main__":
    Path("/proc/self/clear_refs").write_text("5")  # The imports' own peak would hide the conversion's.
    before = _status("VmRSS")
    with tempfile.TemporaryDirectory() as store:
        convert(find_cases(sys.argv[1])[0], Target(Grid(resolution=int(sys.argv[2])), BlockGrid(), store))
    print(_status("VmHWM") - before)
