"""Every private name of Keras that this package uses, in one place.

Keras moves these between releases. `tests/test_keras_private.py` says for each what it is for and what to do when it is
gone; everything else in the package uses only what `keras` exports.
"""

import contextlib
import copy
import functools
import inspect
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf
from keras import tree
from keras.src import ops
from keras.src.backend.common import keras_tensor
from keras.src.backend.common.stateless_scope import get_stateless_scope
from keras.src.backend.common.symbolic_scope import in_symbolic_scope
from keras.src.distribution.distribution_lib import Distribution
from keras.src.losses.loss import squeeze_or_expand_to_same_rank
from keras.src.metrics.reduction_metrics import reduce_to_samplewise_values
from keras.src.models.functional import Functional
from keras.src.ops import core, einops, image, linalg, math, nn, numpy
from keras.src.saving.keras_saveable import KerasSaveable
from keras.src.trainers.compile_utils import CompileLoss, CompileMetrics
from keras.src.trainers.data_adapters.data_adapter_utils import unpack_x_y_sample_weight
from keras.src.utils.tracking import Tracker

__all__ = [
    "Distribution",
    "Functional",
    "KerasSaveable",
    "core",
    "einops",
    "image",
    "in_symbolic_scope",
    "linalg",
    "math",
    "nn",
    "numpy",
    "reduce_to_samplewise_values",
    "squeeze_or_expand_to_same_rank",
    "unpack_x_y_sample_weight",
]

# Functional models.


def input_structure(model: keras.Model) -> Any:
    """A functional model's inputs, in the structure that the user gave."""
    return model._inputs_struct


def output_structure(model: keras.Model) -> Any:
    """A functional model's outputs, in the structure in which they were given."""
    return model._outputs_struct


def autocast_dtype(operation: keras.Operation, current: str | None) -> str | None:
    """The dtype in which `operation` reads floating-point variables, as Keras decides it before every call.

    Args:
        operation: a layer, or an operation, which reads them as what calls it.
        current: the dtype in force; None for the variables' own.
    """
    if not isinstance(operation, keras.Layer):
        return current
    if current is None:
        return operation.compute_dtype if operation.compute_dtype != operation.variable_dtype else None
    floating = keras.backend.is_float_dtype(operation.compute_dtype)
    return operation.compute_dtype if operation.autocast and floating else None


def is_autocast(variable: keras.Variable) -> bool:
    """Whether a variable is read in another dtype where Keras asks for one."""
    return variable._autocast and keras.backend.is_float_dtype(variable._dtype)


def functional_part(model: keras.Model) -> keras.Model | None:
    """The functional model that a model's `call` runs; None if its `call` is its own."""
    if "call" in vars(model):
        return None
    if isinstance(model, keras.Sequential):
        return model._functional if defining_class(model, "call") is keras.Sequential else None
    if isinstance(model, Functional):
        return model if defining_class(model, "call") is Functional else None
    return None


def watch_functional_models(listener: Callable[[keras.Model, list], None]) -> None:
    """Call a listener with every functional model that is made and with the symbolic tensors it is made from."""
    original = Functional.__init__

    # Keras inspects the names of these arguments.
    def init(self, inputs, outputs, name=None, **kwargs):
        original(self, inputs, outputs, name=name, **kwargs)
        listener(self, tree.flatten(inputs))

    Functional.__init__ = functools.wraps(original)(init)


def nodes_of(graph: keras.Model) -> Iterator[Any]:
    """The nodes of a functional model, from inputs to outputs.

    Each has `operation`, `arguments.args`, `arguments.kwargs`, `output_tensors`.
    """
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        yield from graph._nodes_by_depth[depth]


def run_graph(graph: keras.Model, inputs: list, operation_fn: Callable) -> Any:
    """Walk a functional model: `operation_fn(operation)` is called in place of each operation."""
    return graph._run_through_graph(inputs, operation_fn=operation_fn)


def name_of(operation: keras.Operation) -> str:
    """An operation's name. Some libraries set it to None after Keras has chosen one."""
    return operation.name or type(operation).__name__.lower()


_SYMBOLIC_OPERATORS = (
    *("__add__", "__sub__", "__mul__", "__truediv__", "__floordiv__", "__mod__", "__pow__", "__matmul__", "__and__"),
    *("__radd__", "__rsub__", "__rmul__", "__rtruediv__", "__rfloordiv__", "__rmod__", "__rpow__", "__rmatmul__"),
    *("__rand__", "__or__", "__ror__", "__xor__", "__rxor__", "__lt__", "__le__", "__gt__", "__ge__", "__ne__"),
)

# Operators of variables by the functions that do the same, and whether the variable comes second.
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
        read: the variables that were read, with the tensors that stand for what they were at the start.
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
    """What stands for `KerasTensor` where Keras asks whether an operation is symbolic."""


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


# Layers.


def takes_training(layer: keras.Layer) -> bool:
    """Whether a layer's `call` takes `training`. Keras's own record of this is wrong for some subclasses."""
    return "training" in inspect.signature(layer.call).parameters


def all_layers(model: keras.Model, include_self: bool = True) -> list[keras.Layer]:
    """A model's layers, including those inside other layers."""
    return list(model._flatten_layers(include_self=include_self))


def raw_kernel(layer: keras.Layer) -> keras.Variable:
    """A layer's kernel without low-rank adaptation."""
    return layer._kernel if hasattr(layer, "_kernel") else layer.kernel


def merge_function(layer: keras.Layer) -> Callable:
    """The function that a merging layer, such as `keras.layers.Add`, applies to a list of tensors."""
    return layer._merge_function


def to_value_range(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
    """Change the value range of an image as Keras's preprocessing layers do."""
    return layer._transform_value_range(*args, **kwargs)


def mask_of(x: Any) -> Any:
    """The mask that Keras has attached to a tensor, or None."""
    return getattr(x, "_keras_mask", None)


def set_mask(x: Any, *mask: Any) -> None:
    """Attach a mask to a tensor, as Keras does, if there is one."""
    for value in mask:
        x._keras_mask = value


def computes_no_mask(layer: keras.Layer) -> bool:
    """Whether a layer's outputs carry only the masks that its inputs carry, or that it sets itself."""
    return getattr(layer.compute_mask, "_is_default", False)


def computes_own_mask(layer: keras.Layer) -> bool:
    """Whether `compute_mask` is one that a class outside Keras defines."""
    return not defining_method(layer, "compute_mask").__module__.startswith("keras.src.")


# Classes of other libraries whose `__call__` checks what it is given and hands it on.
_HANDING_ON = {("keras_hub.src.utils.pipeline_model", "PipelineModel")}


def calls_otherwise(operation: keras.Operation) -> str | None:
    """The class outside Keras and this package that overrides an operation's `__call__`, or None."""
    cls = defining_class(operation, "__call__")
    handing_on = cls.__module__.startswith("keras.src.") or (cls.__module__, cls.__name__) in _HANDING_ON
    return None if handing_on else cls.__name__


def function_arguments(wrapper: Any) -> dict[str, Any]:
    """The arguments, besides labels and predictions, with which a loss or metric calls its function."""
    return dict(getattr(wrapper, "_fn_kwargs", {}))


def wrapped_function(metric: keras.metrics.MeanMetricWrapper) -> Callable:
    return metric._fn


def changed_in(scope: keras.StatelessScope, layer: keras.Layer) -> list[str]:
    """The paths of the variables that were assigned to in a scope in which a layer ran."""
    names = {id(v): v.path for v in layer.variables}
    return [names.get(key, "of another layer") for key in scope.state_mapping]


def called_with(model: keras.Model) -> Any:
    """The inputs with which a model that is not functional was built, as symbolic tensors.

    The result is None if they are unknown or there are several arguments.
    """
    shapes = getattr(model, "_build_shapes_dict", None)
    if not shapes or len(shapes) != 1:
        return None
    (shape,) = shapes.values()
    if shape is None:
        return None
    return tree.map_shape_structure(lambda s: keras.KerasTensor((None, *s[1:]), model.input_dtype), shape)


# Models: classes, copies, compilation.


def defining_class(model: keras.Operation, method: str) -> type:
    """The class that a model's or layer's method comes from, this package's own left out."""
    return next(
        cls for cls in type(model).__mro__ if method in vars(cls) and not cls.__module__.startswith("keras_spatial.")
    )


def overrides(model: keras.Model, *methods: str) -> list[str]:
    """Those of the given methods that a model's class, or one of its bases outside Keras, defines itself."""
    return [m for m in methods if not defining_class(model, m).__module__.startswith("keras.src.")]


def shared_copy(model: keras.Model, cls: type) -> Any:
    """A model of another class with the same layers, variables and attributes, which can be compiled separately.

    Args:
        model: the model.
        cls: a class that differs from the model's only by bases that add no state.
    """
    result = keras.Model.__new__(cls)
    # Keras wraps these two methods in each instance.
    own = {name: vars(result)[name] for name in ("build", "quantize") if name in vars(result)}
    vars(result).update({name: _own_container(value) for name, value in vars(model).items()} | own)
    stores = {name: (test, list(values)) for name, (test, values) in model._tracker.config.items()}
    tracker = Tracker(stores, exclusions=model._tracker.exclusions)
    tracker.stored_ids = {name: set(ids) for name, ids in model._tracker.stored_ids.items()}
    tracker.locked, tracker._lock_violation_msg = model._tracker.locked, model._tracker._lock_violation_msg
    vars(result)["_tracker"] = tracker
    for name, (_, values) in stores.items():
        # A sequential model has its own list of layers, which is not the tracker's.
        if vars(model).get(f"_{name}") is model._tracker.config[name][1]:
            vars(result)[f"_{name}"] = values
    vars(result).update(_inbound_nodes=[], _outbound_nodes=[])
    vars(result).update(train_function=None, test_function=None, predict_function=None)
    if model.compiled:
        copy_compilation(model, result)
    return result


def _own_container(value: Any) -> Any:
    """A copy of a plain container: TensorFlow tracks attributes in such containers, and they must not be shared."""
    return copy.copy(value) if type(value) in (list, dict, set) else value


def copy_compilation(source: keras.Model, target: keras.Model) -> None:
    """Compile `target` as `source` is, with the same optimizer, losses and metrics."""
    configuration = compilation(source)
    if configuration is not None:
        keras.Model.compile(target, **{**configuration, "jit_compile": False})


def compiled_copy(model: keras.Model) -> Any:
    """An object that is compiled like a model, but whose losses and metrics are not built yet."""
    configuration = compilation(model) or {}
    names = getattr(model, "output_names", None)
    loss, metrics = model._compile_loss, model._compile_metrics
    if loss is not None:
        loss = CompileLoss(configuration["loss"], configuration["loss_weights"], output_names=names)
    if metrics is not None:
        metrics = CompileMetrics(configuration["metrics"], configuration["weighted_metrics"], output_names=names)
    return types.SimpleNamespace(name=model.name, _compile_loss=loss, _compile_metrics=metrics)


def compilation(model: keras.Model) -> dict[str, Any] | None:
    """The arguments with which a model was compiled; None if it was not compiled."""
    if not model.compiled:
        return None
    return {**model._compile_config.config, "optimizer": model.optimizer}


def start_with_epoch(model: keras.Model, epoch: int | None) -> None:
    """Let `fit` begin with this epoch, whatever its `initial_epoch` is; None restores the normal behaviour."""
    model._initial_epoch = epoch


def loss_dtype(model: keras.Model) -> str:
    """The dtype in which Keras adds up a compiled model's losses."""
    return model._compile_loss.dtype if model._compile_loss is not None else keras.config.floatx()


def update_loss_trackers(model: keras.Model, total: tf.Tensor, losses: dict[int, tf.Tensor], cases: int) -> None:
    """Give Keras the losses of a batch: the total, and each loss by its number among the compiled ones."""
    model._loss_tracker.update_state(total, sample_weight=cases)
    for number, tracker in enumerate(model._compile_loss.metrics if model._compile_loss is not None else ()):
        if number in losses:
            tracker.update_state(losses[number], sample_weight=cases)


def weight_regularization(
    variables: list[keras.Variable], scale: tf.Tensor | None = None
) -> tuple[tf.Tensor, list[tf.Tensor | None]]:
    """The loss that the regularizers of variables add, and its gradients times `scale`.

    Args:
        variables: a model's trainable variables. Only their regularizers count, as in Keras.
        scale: the factor by which the differentiated loss is multiplied; without it no gradients are computed.

    Returns:
        The loss, a scalar, and for each variable its gradient, or None if it has no regularizer.
    """
    regularized = [v for v in variables if v.regularizer is not None]
    if not regularized:
        return tf.zeros([]), [None] * len(variables)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        values = [v.value for v in regularized]
        tape.watch(values)
        total = tf.add_n([tf.cast(keras.ops.sum(v.regularizer(v)), keras.config.floatx()) for v in regularized])
    if scale is None:
        return total, []
    found = dict(zip(map(id, regularized), tape.gradient(total, values), strict=True))
    gradients = [found.get(id(v)) for v in variables]
    return total, [None if g is None else tf.convert_to_tensor(g) * tf.cast(scale, g.dtype) for g in gradients]


def build_state(model: Any, x: Any, y: Any, training: bool) -> None:
    """Make the variables of the optimizer, the losses and the metrics before a step would make them.

    Args:
        model: a compiled, partitioned model.
        x, y: a batch.
        training: whether the step trains the model.
    """
    if training and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    batch = tree.flatten(x)[0].shape[0]

    def handle(t: Any) -> keras.KerasTensor:
        return keras.KerasTensor(tuple(t.shape), dtype=keras.backend.standardize_dtype(t.dtype))

    specs = model._network.output_specs_for(x, training)
    outputs = tree.map_structure(lambda t: keras.KerasTensor((batch, *t.shape[1:]), t.dtype.name), specs)
    labels = tree.map_structure(handle, y)
    loss_calls(model, labels, outputs, None)
    metric_calls(model, labels, outputs, None)


def without_optionals(model: keras.Model, step: Callable) -> Callable:
    """A step that gets None for each `tf.experimental.Optional` in a batch, as in Keras's own functions."""
    return model._autoconvert_optionals(step)


@dataclass(frozen=True)
class Call:
    """A loss or a metric, and the arguments with which Keras calls it.

    Attributes:
        called: the loss or the metric.
        y_true, y_pred, sample_weight: the tensors, or structures of them; `sample_weight` may be None.
        number: the number of a loss among the compiled ones.
        factor: the factor of a loss in the total.
    """

    called: Any
    y_true: Any
    y_pred: Any
    sample_weight: Any
    number: int = 0
    factor: float = 1.0


@dataclass
class _Recorder:
    """Stands in for a loss or a list of metrics, and records the arguments with which it is called."""

    value: float = 0.0
    arguments: tuple[Any, Any, Any] | None = None

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
        self.arguments = (y_true, y_pred, sample_weight)
        return self.value

    update_state = __call__


def _bare_copy(value: Any) -> Any:
    """A copy with the same attributes; Keras's own way of copying serializes the object."""
    result = object.__new__(type(value))
    vars(result).update(vars(value))
    return result


def loss_calls(model: keras.Model, y_true: Any, y_pred: Any, sample_weight: Any) -> list[Call]:
    """The calls that Keras would make to a compiled model's losses, found by running Keras's own code with stand-ins.

    Args:
        model: a compiled model.
        y_true, y_pred, sample_weight: structures of anything with `shape` and `dtype`.
    """
    compiled = model._compile_loss
    if compiled is None:
        return []
    recorders: list[_Recorder] = []
    stand_in = _bare_copy(compiled)

    def adopt() -> None:
        recorders[:] = [_Recorder() for _ in compiled._flat_losses]
        vars(stand_in).update(vars(compiled))
        pairs = zip(compiled._flat_losses, recorders, strict=True)
        vars(stand_in)["_flat_losses"] = [loss._replace(loss=recorder) for loss, recorder in pairs]
        # Keras iterates over losses and their metrics together.
        vars(stand_in)["_metrics"] = [None] * len(recorders)

    def build(y_true: Any, y_pred: Any) -> None:
        compiled.build(y_true, y_pred)
        adopt()

    if compiled.built:
        adopt()
    else:
        vars(stand_in)["build"] = build
    with tf.init_scope():
        # The total is linear in the losses, so a loss's factor is the total when that loss is 1 and the others are 0.
        stand_in.call(y_true, y_pred, sample_weight)
        factors = []
        for recorder in recorders:
            recorder.value = 1.0
            factors.append(float(stand_in.call(y_true, y_pred, sample_weight)))
            recorder.value = 0.0
    return [
        Call(loss.loss, *recorder.arguments, number=number, factor=factor)
        for number, (loss, recorder, factor) in enumerate(zip(compiled._flat_losses, recorders, factors, strict=True))
        if recorder.arguments is not None
    ]


def metric_calls(model: keras.Model, y_true: Any, y_pred: Any, sample_weight: Any) -> list[Call]:
    """The calls that Keras would make to a compiled model's metrics; see `loss_calls`."""
    compiled = model._compile_metrics
    if compiled is None:
        return []
    if not compiled.built:
        compiled.build(y_true, y_pred)
    stand_in = _bare_copy(compiled)
    calls = []
    for name in ("_flat_metrics", "_flat_weighted_metrics"):
        recorders = [None if metrics is None else _Recorder() for metrics in getattr(compiled, name)]
        vars(stand_in)[name] = recorders
        calls.append((getattr(compiled, name), recorders))
    type(compiled).update_state(stand_in, y_true, y_pred, sample_weight)
    return [
        Call(metric, *recorder.arguments)
        for lists, recorders in calls
        for metrics, recorder in zip(lists, recorders, strict=True)
        if recorder is not None and recorder.arguments is not None
        for metric in metrics.metrics
    ]


def build_metric(metric: keras.metrics.Metric, y_true: tf.Tensor, y_pred: tf.Tensor) -> None:
    """Build a metric whose state depends on the shapes of its first batch, without counting that batch."""
    if getattr(metric, "_built", True):
        return
    metric.update_state(y_true, y_pred)
    metric.reset_state()


def is_mean_of_function(metric: keras.metrics.Metric) -> bool:
    """Whether a metric is Keras's mean over cases of a function of labels and predictions."""
    return (
        isinstance(metric, keras.metrics.MeanMetricWrapper)
        and defining_method(metric, "update_state") is keras.metrics.MeanMetricWrapper
    )


def defining_method(value: Any, method: str) -> type:
    return next(cls for cls in type(value).__mro__ if method in vars(cls))
