"""Mesh-TensorFlow 0.1.21, its last release, on today's TensorFlow.

It imports two names that TensorFlow has moved since then. They are put back before its import if they are missing;
`tests/test_mesh_tensorflow.py` says what to do when this is no longer enough. Everything else in the package imports
Mesh-TensorFlow from here:

    from keras_spatial.mesh_tensorflow import mtf
"""

import logging
import types
from collections.abc import Mapping
from typing import Any

import tensorflow.compat.v1 as tf  # pyright: ignore[reportMissingImports]
from tensorflow.python.framework import ops, tensor_conversion_registry

if not hasattr(ops, "register_tensor_conversion_function"):
    ops.register_tensor_conversion_function = tensor_conversion_registry.register_tensor_conversion_function
if not hasattr(tf, "estimator"):
    tf.estimator = types.SimpleNamespace(
        SessionRunHook=tf.train.SessionRunHook, CheckpointSaverListener=tf.train.CheckpointSaverListener
    )

import mesh_tensorflow as mtf
from mesh_tensorflow.placement_mesh_impl import PlacementMeshImpl

__all__ = ["PlacementMeshImpl", "lowering_of", "mtf"]


def lowering_of(graph: Any, implementations: Mapping[Any, Any]) -> Any:
    """An `mtf.Lowering` without its long log of how many elements each kind of operation has."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(max(level, logging.WARNING))
    try:
        return mtf.Lowering(graph, dict(implementations))
    finally:
        logger.setLevel(level)
