"""`python -m keras_spatial_command`: the command `keras-spatial` without installing it."""

import sys

from keras_spatial_command import main

sys.exit(main())
