"""`python -m keras_spatial_command`: the command `keras-spatial` where it is not installed."""

import sys

from keras_spatial_command import main

sys.exit(main())
