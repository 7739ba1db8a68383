"""One process, sixteen logical CPU devices: enough for every mesh of the tests."""

import keras_spatial as ks

ks.device_mesh("devices:16")
