"""The logical CPU devices of this process, over which meshes extend if there are no accelerators."""

import os

import tensorflow as tf

COUNT_VARIABLE = "KERAS_SPATIAL_CPU_DEVICES"
# Logical CPU devices share TensorFlow's thread pool and cost nothing while unused, but their number is fixed when
# TensorFlow starts. This many are enough for several small meshes in one program; a larger first mesh makes more.
_MINIMUM = 16


def make_logical_cpus(count: int) -> None:
    """Make at least `count` logical CPU devices, unless TensorFlow has started already."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    if tf.config.get_logical_device_configuration(cpu):
        return
    minimum = int(os.environ.get(COUNT_VARIABLE, _MINIMUM))
    configuration = [tf.config.LogicalDeviceConfiguration()] * max(count, minimum)
    try:
        tf.config.set_logical_device_configuration(cpu, configuration)
    except RuntimeError:
        # TensorFlow has started: the caller finds too few devices and says so.
        return
