"""What code does beside computing with its symbolic inputs, while it is traced once for all of its runs.

A variable that is read then, or a random number that is drawn, would be a constant from then on.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

# Not public: what TensorFlow's own debugger uses to see every operation that runs.
from tensorflow.python.framework import op_callbacks, op_def_registry

from keras_spatial.rules.table import UnsupportedLayer

# Making a variable, and saying something, changes no result.
_HARMLESS = {
    *("VarHandleOp", "VarIsInitializedOp", "AssignVariableOp", "ReadVariableOp", "DestroyResourceOp"),
    *("PrintV2", "Print", "Assert", "NoOp"),
}


class Effects(keras.StatelessScope):
    """The scope in which code is traced, and what was seen.

    Attributes:
        read: the Keras variables whose values were asked for. An operation on a symbolic tensor and a variable does not
            ask for it.
        operations: types of operations whose results are not the same each time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.read: list[keras.Variable] = []
        self.operations: list[str] = []

    def get_current_value(self, variable: keras.Variable) -> Any:
        self.read.append(variable)
        return super().get_current_value(variable)

    def check(self) -> None:
        """Raise an `UnsupportedLayer` if what was traced cannot stand for what runs."""
        if self.read:
            names = list(dict.fromkeys(v.path for v in self.read))
            raise UnsupportedLayer(
                f"it computes with the variables {names} before they meet an input, which hides them from the walk"
            )
        if self.operations:
            raise UnsupportedLayer(
                f"it computes with results of {self.operations[0]}, which are others at each run, before they meet an "
                "input, which hides them from the walk"
            )


@contextlib.contextmanager
def watched_effects() -> Iterator[Effects]:
    """A stateless scope that sees what code does with real tensors while it is traced with symbolic ones."""
    effects = Effects()

    def see(op_type: Any, inputs: Any, attrs: Any, outputs: Any, op_name: Any = None, graph: Any = None) -> None:
        if graph is not None:  # Keras finds out shapes in graphs of its own.
            return
        name = op_type.decode() if isinstance(op_type, bytes) else str(op_type)
        definition = op_def_registry.get(name)
        if definition is not None and definition.is_stateful and name not in _HARMLESS:
            effects.operations.append(name)

    op_callbacks.add_op_callback(see)
    try:
        with effects:
            yield effects
    finally:
        op_callbacks.remove_op_callback(see)
