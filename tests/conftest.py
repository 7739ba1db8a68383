"""Tests run in a process with sixteen logical CPU devices, which is enough for every mesh of the tests."""

import keras_spatial as ks

ks.device_mesh("devices:16")
