"""Mesh-TensorFlow 0.1.21 on the installed TensorFlow.

If this fails after an upgrade of TensorFlow: `import mesh_tensorflow` names what it misses. If TensorFlow only moved
it, put it back in `keras_spatial/mesh_tensorflow.py`, as the two names there; if it is gone for good, the upper bound
of `tensorflow` in pyproject.toml stays where it is.
"""

import numpy as np
import pytest
import tensorflow as tf

from keras_spatial.mesh_tensorflow import PlacementMeshImpl, mtf


def test_a_graph_is_built_and_lowered_inside_a_function():
    @tf.function
    def double(x):
        graph = mtf.Graph()
        mesh = mtf.Mesh(graph, "mesh")
        shape = mtf.Shape([mtf.Dimension("x", 4)])
        y = mtf.import_tf_tensor(mesh, x, shape) * 2
        impl = PlacementMeshImpl(mtf.Shape([mtf.Dimension("rows", 2)]), mtf.LayoutRules([("x", "rows")]), ["", ""])
        return mtf.Lowering(graph, {mesh: impl}).export_to_tf_tensor(y)

    np.testing.assert_array_equal(double(tf.range(4.0)), [0, 2, 4, 6])


def test_gradients_are_found_through_operations_of_ours():
    graph = mtf.Graph()
    assert hasattr(mtf, "gradients") and hasattr(mtf, "LazyAllreduceSum")
    with pytest.raises(ValueError, match="mesh must be specified"):
        mtf.Operation([], name="no_mesh")
    assert graph.operations == []
