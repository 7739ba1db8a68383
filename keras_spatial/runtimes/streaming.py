"""Mesh-TensorFlow on fewer devices than the mesh has positions: shards are computed one after another.

Here a position of the mesh is a shard and not a device. Shards that are not being computed are kept in host memory or
in a file, so that an image of any size needs device memory for only a few shards. Every function is traced once,
however many positions there are. The operations are those of every other runtime, on the same shards, with the same
results.
"""

import contextlib
import functools
import itertools
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_spatial.mesh_tensorflow import mtf
from keras_spatial.runtimes.base import Place, Runtime, ShardOperations, sizes_of
from keras_spatial.runtimes.captured import by_value, spec_of, value_of, variables_of
from keras_spatial.runtimes.functions import SharedFunction, VariedFunction, trace
from keras_spatial.runtimes.nodes import Call, Calls, Export, HandOut, Import, Reduce, Reduction, Value, Whole, Zeros
from keras_spatial.runtimes.program import Program, threads_between_operations
from keras_spatial.runtimes.storage import check_offload, storage_for

# Calls run one after another, even of different models, because their operations would have to take turns anyway.
_CALL = threading.RLock()
# The module that runs the functions of `tf.py_function` and `tf.numpy_function`.
_PYTHON_FUNCTIONS = tf.py_function.__module__
# Threads between operations: enough for two models side by side and for whatever else runs meanwhile.
_THREADS = 4


class LaidOutValues:
    """A laid-out tensor: for each position a `Value`, a tensor of the graph, or a Python number."""

    def __init__(self, tensor_list: Sequence[Any]):
        self.tensor_list = list(tensor_list)

    @classmethod
    def from_tensor_list(cls, tensor_list: Sequence[Any]) -> "LaidOutValues":
        return cls(tensor_list)

    @property
    def all_slices(self) -> list[Any]:
        return self.tensor_list

    @property
    def slice_shape(self) -> list[int]:
        return self.tensor_list[0].shape.as_list()

    def to_laid_out_tensor(self) -> "LaidOutValues":
        return self


class StreamingMesh(ShardOperations, mtf.MeshImpl):
    """A mesh that adds operations to a program instead of making nodes in a graph.

    Args:
        shape: the shape of the mesh.
        layout: Mesh-TF layout rules.
        program: the program to which operations are added.
        register: a function that registers a shard, with its program and the sizes of the part that is wanted, and
            returns a number for it.
    """

    LaidOutTensor = LaidOutValues

    def __init__(
        self,
        shape: mtf.Shape,
        layout: mtf.LayoutRules,
        program: Program,
        register: Callable[[Value, Program, Sequence[int]], int],
    ):
        super().__init__(shape, layout)
        self.program = program
        self._register = register
        # For each local function, the function that calls it. Many layers share one.
        self._calling: dict[Any, Any] = {}

    @property
    def devices(self) -> list[str]:
        """The device of each position."""
        devices = self.program.devices
        return [devices[i * len(devices) // self.size] for i in range(self.size)]

    def laid_out_pnum(self) -> LaidOutValues:
        return LaidOutValues(range(self.size))

    def laid_out_pcoord(self, mesh_axis: int) -> LaidOutValues:
        return LaidOutValues([mtf.pnum_to_processor_coordinates(self.shape, p)[mesh_axis] for p in range(self.size)])

    def slicewise(self, fn: Callable, *inputs: Any) -> Any:
        laid_out = [x.to_laid_out_tensor() if hasattr(x, "to_laid_out_tensor") else x for x in inputs]
        lists = [x.tensor_list if isinstance(x, LaidOutValues) else [x] * self.size for x in laid_out]
        wholes = _Wholes()
        functions: dict[Any, _Function] = {}
        calls: dict[tuple, Call] = {}
        found: list[Call] = []
        for position in zip(*lists, strict=True):
            key, arguments = (position[0], position[1:]) if isinstance(fn, VariedFunction) else (None, position)
            signature = (key, *((a.dtype, tuple(a.shape)) if _is_tensor(a) else type(a) for a in arguments))
            if signature not in functions:
                local = fn.of(key) if isinstance(fn, VariedFunction) else fn
                functions[signature] = _Function(local, arguments, self._calling)
            function = functions[signature]
            # Positions whose arguments are all the same, such as weights, share one call.
            same = (signature, *(id(a) if _is_tensor(a) else a for a in function.used(arguments)))
            if same not in calls:
                calls[same] = function.call(arguments, wholes)
            found.append(calls[same])
        results = list(zip(*(call.results for call in found), strict=True))
        single = next(iter(functions.values())).single
        needed = [call for call in calls.values() if call.function is not None]
        if needed:
            self.program.add(Calls(getattr(fn, "__name__", "call"), needed), wholes.tensors)
        laid = tuple(LaidOutValues(values) for values in results)
        return laid[0] if single else laid

    def allreduce(self, x: Any, mesh_axes: Sequence[int], reduction_fn_string: str) -> LaidOutValues:
        x = x.to_laid_out_tensor()
        if all(self.shape[axis].size == 1 for axis in mesh_axes):
            return x
        values = self._values(x)
        results: list[Any] = [None] * self.size
        groups = []
        for group in mtf.processor_groups(self.shape, list(mesh_axes)):
            total = Value(values[0].shape, values[0].dtype)
            groups.append(([values[p] for p in group], total))
            for p in group:
                results[p] = total
        self.program.add(Reduce(Reduction(groups, reduction_fn_string)))
        return LaidOutValues(results)

    def receive(self, x: Any, mesh_axis: int, source_pcoord: Sequence[int | None]) -> LaidOutValues:
        """Receive a shard from one neighbour, or zeros, without a copy: the neighbour's own shard is read."""
        values = self._values(x.to_laid_out_tensor())
        zeros = Zeros(values[0].shape, values[0].dtype)
        received: list[Any] = [None] * self.size
        for group in mtf.processor_groups(self.shape, [mesh_axis]):
            for p, source in zip(group, source_pcoord, strict=True):
                received[p] = zeros if source is None else values[group[source]]
        return LaidOutValues(received)

    def allconcat(self, x: Any, mesh_axis: int, concat_axis: int) -> Any:
        raise NotImplementedError("keras_spatial gathers by all-reduce: see engine.reshard.")

    def alltoall(self, x: Any, mesh_axis: int, split_axis: int, concat_axis: int) -> Any:
        raise NotImplementedError("keras_spatial changes layouts by halo exchange: see engine.reshard.")

    def import_tf_tensor(self, x: mtf.Tensor, tf_x: tf.Tensor) -> LaidOutValues:
        shape = tf.TensorShape(self.slice_shape(x.shape))
        begins = self._begins(x.shape)
        parts = {begin: Value(shape, tf_x.dtype) for begin in begins}
        self.program.add(Import(self._placed(parts, x.shape)), [tf_x])
        return LaidOutValues([parts[begin] for begin in begins])

    def export_to_tf_tensor(self, x: mtf.Tensor, laid_out_x: Any) -> tf.Tensor:
        values = self._values(laid_out_x.to_laid_out_tensor())
        parts = dict(zip(self._begins(x.shape), values, strict=True))
        node = Export(self._placed(parts, x.shape), tuple(x.shape.to_integer_list), values[0].dtype)
        (whole,) = self.program.add(node)
        return whole

    def hand_out(self, shards: Sequence[Any], places: Sequence[Place]) -> list[tf.Tensor]:
        """Return numbers that stand for the shards; see `StreamingRuntime.handed_out`."""
        values = self._values(LaidOutValues([shards[position] for position, _ in places]))
        self.program.add(HandOut(values))
        return [
            tf.constant(self._register(value, self.program, sizes_of(index)), tf.int64)
            for value, (_, index) in zip(values, places, strict=True)
        ]

    def _begins(self, shape: mtf.Shape) -> list[tuple[int, ...]]:
        """Where the shard of each position begins in the whole tensor."""
        return [tuple(self.slice_begin(shape, p)) for p in range(self.size)]

    def _placed(
        self, parts: Mapping[tuple[int, ...], Value], shape: mtf.Shape
    ) -> list[tuple[Value, tuple[slice, ...]]]:
        """Shards with their places in the whole tensor."""
        lengths = self.slice_shape(shape)
        return [(v, tuple(slice(b, b + n) for b, n in zip(begin, lengths, strict=True))) for begin, v in parts.items()]

    def _values(self, x: LaidOutValues) -> list[Value]:
        """The shards as values of the program."""
        if all(isinstance(value, Value) for value in x.tensor_list):
            return x.tensor_list
        return self.slicewise(tf.identity, x).tensor_list


class _Wholes:
    """The tensors of the graph that an operation reads."""

    def __init__(self) -> None:
        self.tensors: list[tf.Tensor] = []
        self._numbers: dict[int, int] = {}

    def number(self, tensor: tf.Tensor) -> int:
        """The number of a tensor; for a variable, the number of its value."""
        if id(tensor) not in self._numbers:
            self._numbers[id(tensor)] = len(self.tensors)
            self.tensors.append(value_of(tensor) if tensor.dtype == tf.resource else tensor)
        return self._numbers[id(tensor)]


class _Function:
    """A local function, traced for arguments of some shapes.

    Args:
        fn: the function.
        arguments: the arguments at one position.
        calling: the function that calls each local function, by the local function. A new one is added.
    """

    def __init__(self, fn: Callable, arguments: Sequence[Any], calling: dict[Any, Any]):
        self.single = False
        if not isinstance(fn, SharedFunction):
            fn = SharedFunction(self._of_one_result(fn))
        specs: list[Any] = [a if _is_tensor(a) else tf.TensorSpec([], tf.constant(a).dtype) for a in arguments]
        prepared = fn.prepared(specs)
        self._used = prepared.used
        inputs = prepared.concrete.inputs
        # Results that are an unchanged argument need no call, such as those of operations that only order or name it.
        self._passed = [_passed_on(output, inputs) for output in prepared.concrete.outputs]
        self._variables = variables_of(prepared.concrete)
        # A function that is called from another function is prepared for its device as in every other runtime, so that
        # results are the same to the last bit.
        if prepared.concrete not in calling:
            taken = [*(specs[i] for i in self._used), *(spec_of(variable) for variable in self._variables)]
            calling[prepared.concrete] = trace(by_value(prepared.concrete), taken)
        self._concrete = calling[prepared.concrete]

    def _of_one_result(self, fn: Callable) -> Callable:
        def function(*tensors: tf.Tensor) -> tuple[tf.Tensor, ...]:
            result = fn(*tensors)
            self.single = not isinstance(result, tuple)
            return (result,) if self.single else result

        return function

    def used(self, arguments: Sequence[Any]) -> list[Any]:
        return [arguments[i] for i in self._used]

    def call(self, arguments: Sequence[Any], wholes: _Wholes) -> Call:
        used = self.used(arguments)
        outputs = self._concrete.outputs
        passed = [used[i] for i in self._passed if i is not None and i < len(used)]
        values = tuple(value for value in passed if isinstance(value, Value))
        if len(values) == len(outputs):
            return Call(None, (), (), values)
        results = tuple(Value(output.shape, output.dtype) for output in outputs)
        taken = tuple(a if isinstance(a, Value) or not _is_tensor(a) else Whole(wholes.number(a)) for a in used)
        captured = tuple(wholes.number(t) for t in [*self._variables, *self._concrete.captured_inputs])
        return Call(self._concrete, taken, captured, results)


def _is_tensor(argument: Any) -> bool:
    return isinstance(argument, (Value, tf.Tensor))


def _passed_on(output: tf.Tensor, inputs: Sequence[tf.Tensor]) -> int | None:
    """The number of the input that an output passes on unchanged, or None."""
    while output.op.type in ("Identity", "EnsureShape"):
        output = output.op.inputs[0]
    return next((i for i, t in enumerate(inputs) if t is output), None)


class StreamingRuntime(Runtime):
    """The runtime for positions of a mesh that share devices of one process.

    Args:
        device_mesh, layout: as for `Runtime`.
        offload: where to keep the shards that are not being computed: "host", or a folder.

    Raises:
        OffloadError: an `OSError`, if the folder cannot be written to.
        ValueError: if TensorFlow was started with a single thread between operations.
    """

    def __init__(
        self, device_mesh: keras.distribution.DeviceMesh, layout: Mapping[str, str], offload: str | os.PathLike
    ):
        super().__init__(device_mesh, layout)
        self.offload = offload
        _demand_threads()
        check_offload(offload)
        # A program lives as long as the function that runs it.
        self._handed_out: dict[int, tuple[weakref.ref[Program], Value, tuple[int, ...]]] = {}
        self._numbers = itertools.count()
        self._errors: list[BaseException] = []

    def mesh_impl(self) -> StreamingMesh:
        devices = list(dict.fromkeys(self.devices))
        program = Program(functools.partial(storage_for, self.offload), devices, self._errors.append)
        return StreamingMesh(self.shape, self.layout_rules, program, self._register)

    def compiled(self, step: Callable[[Any], Any]) -> Callable[[Any], Any]:
        function = super().compiled(step)

        def run(data: Any) -> Any:
            with self.raising():
                return function(data)

        return run

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        # Callers wait here, and not in one of TensorFlow's few threads.
        with contextlib.nullcontext() if _within_tensorflow() else _CALL:
            try:
                yield
            except tf.errors.OpError as error:
                found = next((known for known in self._errors if str(known) in str(error)), None)
                self._errors.clear()
                if found is not None:
                    raise found from error
                raise

    def handed_out(self, values: Sequence[Any], places: Sequence[Place]) -> list[Callable[[], np.ndarray]]:
        return [self._taken(value) for value in values]

    def _taken(self, value: tf.Tensor) -> Callable[[], np.ndarray]:
        program, kept, size = self._handed_out[int(value)]
        alive = program()
        assert alive is not None
        read = alive.reader(kept)
        return lambda: read()[tuple(slice(n) for n in size)]

    def _register(self, value: Value, program: Program, size: Sequence[int]) -> int:
        number, handed_out = next(self._numbers), self._handed_out
        handed_out[number] = (weakref.ref(program, lambda _: handed_out.pop(number, None)), value, tuple(size))
        return number


def _within_tensorflow() -> bool:
    """Whether a call is made by a Python function that TensorFlow runs, such as a data set's: it cannot wait for a
    step that may be waiting for it."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == _PYTHON_FUNCTIONS:
            return True
        frame = frame.f_back
    return False


def _demand_threads() -> None:
    """Make sure that TensorFlow has enough threads: a step waits in one of them for the functions of its shards.

    Raises:
        ValueError: if TensorFlow has started with a single thread.
    """
    if threads_between_operations() >= _THREADS:
        return
    try:
        tf.config.threading.set_inter_op_parallelism_threads(_THREADS)
    except RuntimeError:
        # TensorFlow has started already. Two threads are enough for one model at a time.
        if threads_between_operations() < 2:
            raise ValueError(
                "Shards that share devices need two of TensorFlow's threads between operations, but it was started "
                "with one. Make the distribution before any TensorFlow operation, or call "
                "tf.config.threading.set_inter_op_parallelism_threads(2) first."
            ) from None
