"""Peak memory of converting the first case of a folder, above what the imports take. Run by `benchmarks.input`."""

import resource
import sys
import tempfile

from datasets.lits.cases import find_cases
from datasets.lits.conversion import Grid, convert


def _resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    before = _resident()
    with tempfile.TemporaryDirectory() as store:
        convert(find_cases(sys.argv[1])[0], Grid(resolution=int(sys.argv[2])), store)
    print(_resident() - before)
