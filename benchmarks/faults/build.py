"""The building of a data set under attack: `build.py VOLUMES DATA`, with two cases in each split and stored blocks."""

import sys

from datasets.lits import prepare

RESOLUTION, BLOCKS = 16, (2, 1, 1)

if __name__ == "__main__":
    prepare(sys.argv[1], sys.argv[2], resolution=RESOLUTION, blocks=BLOCKS)
