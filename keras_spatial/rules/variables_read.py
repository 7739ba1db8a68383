"""What code reads by itself while it is traced with symbolic tensors: variables, and operations with a state.

A function that is traced once and run many times keeps what it read as a constant: `1.0 - variable`, random numbers. An
operation on a variable and a symbolic tensor reads nothing: the variable is one of its operands.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

# Not public: the type of operations, the hooks that are told of them, and the function that reads variables.
from tensorflow.python.framework import op_callbacks, op_def_registry
from tensorflow.python.ops.resource_variable_ops import BaseResourceVariable

from keras_spatial.keras_private import in_symbolic_scope

# Reads of variables are recorded separately; the others create, fill or free something that holds a state.
_NO_READS = (
    *("ReadVariableOp", "VarHandleOp", "VarIsInitializedOp", "AssignVariableOp", "DestroyResourceOp"),
    *("Assert", "PrintV2"),
)


@dataclass
class Reads:
    """What was read while code was traced.

    Attributes:
        variables: variables whose value was read, Keras's or TensorFlow's own.
        operations: TensorFlow operations with a state that ran, such as `"RandomStandardNormal"`.
    """

    variables: list[keras.Variable | tf.Variable] = field(default_factory=list)
    operations: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.variables or self.operations)

    def __str__(self) -> str:
        """What was read, in words for the message of a refusal."""
        names = [v.path if isinstance(v, keras.Variable) else v.name for v in self.variables]
        variables = [f"the value of variable '{name}'" for name in names]
        return " and ".join(variables + [f"the result of TensorFlow's {name}" for name in self.operations])

    def add_variable(self, variable: Any) -> None:
        known = [*self.variables, *(v._value for v in self.variables if isinstance(v, keras.Variable))]
        if not in_symbolic_scope() and not any(v is variable for v in known):
            self.variables.append(variable)


@contextmanager
def reading_variables() -> Iterator[Reads]:
    """Record what code reads while symbolic tensors pass through it, because it would become a constant.

    Reads are not counted while Keras only asks for the shape of a result.

    Example:

    ```python
    from keras_spatial.rules.variables_read import reading_variables

    layer = keras.layers.BatchNormalization()
    layer.build((None, 8, 8, 1))
    with reading_variables() as reads:
        outputs = layer(keras.Input((8, 8, 1)))
    print(f"its call reads {reads}" if reads else "its call reads no variable as a constant")
    ```
    """
    reads = Reads()
    new: list[Any] = []
    own, inherited = vars(keras.Variable).get("value"), keras.Variable.value

    def value(variable: keras.Variable) -> Any:
        reads.add_variable(variable)
        return inherited.fget(variable)  # pyright: ignore[reportOptionalCall]

    def handle(variable: Any) -> Any:
        if not any(v is variable for v in new):
            reads.add_variable(variable)
        return vars(variable)["_handle"]

    def set_handle(variable: Any, value: Any) -> None:
        new.append(variable)
        vars(variable)["_handle"] = value

    def ran(op_type: str, inputs: Any, attrs: Any, outputs: Any, op_name: Any = None, graph: Any = None) -> None:
        if graph is None and op_type not in reads.operations and _has_state(op_type):
            reads.operations.append(op_type)

    setattr(keras.Variable, "value", property(value))  # noqa: B010
    setattr(BaseResourceVariable, "_handle", property(handle, set_handle))  # noqa: B010
    try:
        with tf.init_scope():
            op_callbacks.add_op_callback(ran)
        yield reads
    finally:
        with tf.init_scope():
            op_callbacks.remove_op_callback(ran)
        delattr(BaseResourceVariable, "_handle")
        delattr(keras.Variable, "value")
        if own is not None:
            setattr(keras.Variable, "value", own)  # noqa: B010


def _has_state(op_type: str) -> bool:
    definition = op_def_registry.get(op_type)
    return definition is not None and definition.is_stateful and op_type not in _NO_READS
