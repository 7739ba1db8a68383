"""`python -m keras_spatial plan ...`: see `keras_spatial.planning.command`."""

import sys

from keras_spatial.planning.command import main

if __name__ == "__main__":
    sys.exit(main())
