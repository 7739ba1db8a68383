"""Symbolic tensors in code that Keras runs only on real ones, and in place of variables."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import tree
from keras.src import ops
from keras.src.backend.common import keras_tensor
from keras.src.backend.common.stateless_scope import get_stateless_scope
from keras.src.backend.common.symbolic_scope import in_symbolic_scope

_SYMBOLIC_OPERATORS = (
    *("__add__", "__sub__", "__mul__", "__truediv__", "__floordiv__", "__mod__", "__pow__", "__matmul__", "__and__"),
    *("__radd__", "__rsub__", "__rmul__", "__rtruediv__", "__rfloordiv__", "__rmod__", "__rpow__", "__rmatmul__"),
    *("__rand__", "__or__", "__ror__", "__xor__", "__rxor__", "__lt__", "__le__", "__gt__", "__ge__", "__ne__"),
)

# For each operator of a variable, the function that does the same, and whether the variable comes second.
_OPERATORS = {
    **{
        f"__{name}__": (function, False)
        for name, function in (("add", "add"), ("sub", "subtract"), ("mul", "multiply"))
    },
    **{
        f"__r{name}__": (function, True)
        for name, function in (("add", "add"), ("sub", "subtract"), ("mul", "multiply"))
    },
    "__truediv__": ("true_divide", False),
    "__rtruediv__": ("true_divide", True),
    "__pow__": ("power", False),
    "__rpow__": ("power", True),
    "__matmul__": ("matmul", False),
    "__rmatmul__": ("matmul", True),
}


@contextlib.contextmanager
def symbolic_calls() -> Iterator[None]:
    """Let code that Keras runs only on real tensors run on symbolic ones too, while it is traced.

    `keras.ops.cond` on a symbolic condition computes both branches and selects one, because a walk over the graph could
    not see the tensors that a branch uses in its closure. A variable on the left of an operator becomes an input of the
    operation, as one on the right does.
    """
    with _conditions_as_selections(), _operators_of_variables():
        yield


@contextlib.contextmanager
def _operators_of_variables() -> Iterator[None]:
    originals = {name: getattr(keras.Variable, name) for name in _OPERATORS}

    def symbolic(name: str) -> Callable:
        function, second = _OPERATORS[name]

        def operator(variable: keras.Variable, other: Any) -> Any:
            if not isinstance(other, keras.KerasTensor):
                return originals[name](variable, other)
            return getattr(keras.ops, function)(*((other, variable) if second else (variable, other)))

        return operator

    for name in _OPERATORS:
        setattr(keras.Variable, name, symbolic(name))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(keras.Variable, name, original)


class SymbolicState(keras.StatelessScope):
    """A scope in which the value of a variable is a symbolic tensor, made when it is first read.

    Attributes:
        read: the variables that were read, with the tensors that stand for their initial values.
        assigned: the variables that were assigned to, with their new values.
    """

    def __init__(self):
        super().__init__()
        self.read: list[tuple[keras.Variable, keras.KerasTensor]] = []
        self.assigned: dict[int, tuple[keras.Variable, Any]] = {}

    def get_current_value(self, variable: keras.Variable) -> Any:
        if id(variable) not in self.state_mapping:
            dtype = keras.backend.standardize_dtype(variable.dtype)
            symbol = keras.Input(batch_shape=tuple(variable.shape), dtype=dtype)
            self.read.append((variable, symbol))
            self.state_mapping[id(variable)] = symbol
        return self.state_mapping[id(variable)]

    def add_update(self, update: tuple[keras.Variable, Any]) -> None:
        super().add_update(update)
        self.assigned[id(update[0])] = update


def _in_symbolic_state() -> bool:
    return isinstance(get_stateless_scope(), SymbolicState) and not in_symbolic_scope()


class _SymbolicOrVariable(type):
    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, keras.KerasTensor) or (isinstance(value, keras.Variable) and _in_symbolic_state())


class _Symbolic(metaclass=_SymbolicOrVariable):
    """Stands in for `KerasTensor` when Keras asks whether an operation is symbolic."""


@contextlib.contextmanager
def symbolic_variables() -> Iterator[SymbolicState]:
    """Let variables be symbolic tensors wherever they are read, and let symbolic tensors be assigned to them."""
    originals = {name: getattr(keras.Variable, name) for name in _SYMBOLIC_OPERATORS}
    assign, call, symbolic = keras.Variable.assign, keras.Operation.symbolic_call, keras_tensor.KerasTensor

    def operator(name: str) -> Callable:
        def compute(variable: keras.Variable, other: Any) -> Any:
            value = variable.value
            if isinstance(value, keras.KerasTensor):
                return getattr(value, name)(other)
            if isinstance(other, keras.KerasTensor):  # A number was assigned to it before.
                return getattr(keras.ops.convert_to_tensor(value) + keras.ops.zeros_like(other), name)(other)
            return originals[name](variable, other)

        return compute

    def assign_symbol(variable: keras.Variable, value: Any) -> Any:
        if not _in_symbolic_state():
            return assign(variable, value)
        value = keras.ops.convert_to_tensor(value, dtype=variable.dtype)
        if tuple(value.shape) != tuple(variable.shape):
            raise ValueError(f"Variable '{variable.path}' has another shape than {tuple(value.shape)}")
        get_stateless_scope().add_update((variable, value))
        return value

    def call_with_symbols(operation: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        if _in_symbolic_state():
            args, kwargs = tree.map_structure(lambda x: x.value if isinstance(x, keras.Variable) else x, (args, kwargs))
        return call(operation, *args, **kwargs)

    patches = [(keras.Variable, name, operator(name)) for name in originals]
    patches += [(keras.Variable, "assign", assign_symbol), (keras.Operation, "symbolic_call", call_with_symbols)]
    patches += [(keras_tensor, "KerasTensor", _Symbolic)]
    for owner, name, function in patches:
        setattr(owner, name, function)
    try:
        with SymbolicState() as state:
            yield state
    finally:
        for name, original in originals.items():
            setattr(keras.Variable, name, original)
        keras.Variable.assign, keras.Operation.symbolic_call = assign, call
        keras_tensor.KerasTensor = symbolic


@contextlib.contextmanager
def _conditions_as_selections() -> Iterator[None]:
    original = ops.cond

    def cond(pred: Any, true_fn: Callable[[], Any], false_fn: Callable[[], Any]) -> Any:
        if not isinstance(pred, keras.KerasTensor):
            return original(pred, true_fn, false_fn)
        return tree.map_structure(lambda a, b: keras.ops.where(pred, a, b), true_fn(), false_fn())

    ops.cond = keras.ops.cond = cond
    try:
        yield
    finally:
        ops.cond = keras.ops.cond = original
