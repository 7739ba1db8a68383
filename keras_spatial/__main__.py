"""`python -m keras_spatial ...` runs the command `keras-spatial`; see `keras_spatial_command`."""

import sys

from keras_spatial_command import main

if __name__ == "__main__":
    sys.exit(main())
