"""The parts of a streaming program: shards, the operations on them, and one run of the program."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

# A private module, to call a function by its name, with the tensors that it captured as plain arguments.
from tensorflow.python.eager import context

from keras_spatial.runtimes.storage import Storage, copied

# How many tensors `tf.add_n` adds at once.
_WIDTH = 8
# A loop or another operation, the number of a shard, and the number of an operation in the loop.
Place = tuple[Any, int, int]


class Value:
    """A shard that one operation makes and others read; a shard that several positions hold is a single value."""

    __slots__ = ("dtype", "shape")

    def __init__(self, shape: tf.TensorShape, dtype: tf.DType):
        self.shape, self.dtype = shape, dtype

    @property
    def size(self) -> int:
        """The size in bytes."""
        return (self.shape.num_elements() or 0) * self.dtype.size


class Zeros(Value):
    """A shard of zeros from beyond the mesh. It is made when it is read, and never kept."""

    __slots__ = ()


@dataclass(frozen=True)
class Whole:
    """A tensor of the graph that an operation reads at every position, by its number among the node's inputs."""

    number: int


@dataclass
class Call:
    """A call of a function for one shard.

    Attributes:
        function: TensorFlow's concrete function; None if the results are values that exist already.
        arguments: the arguments that the function uses: `Value`s, `Whole`s, or Python numbers such as coordinates.
        captured: the numbers of the node's inputs that the function captured.
        results: the values that it makes.
    """

    function: Any
    arguments: tuple[Any, ...]
    captured: tuple[int, ...]
    results: tuple[Value, ...]

    @property
    def reads(self) -> Iterator[Value]:
        return (a for a in self.arguments if isinstance(a, Value) and not isinstance(a, Zeros))


@dataclass
class Reduction:
    """A sum or maximum over shards: for each group, its members in order and the result."""

    groups: list[tuple[list[Value], Value]]
    reduce: str  # "SUM" or "MAX"


class Total:
    """A sum or maximum of tensors that arrive one by one.

    They are added in the order in which `tf.add_n` adds them on a CPU, so that the sum is the same to the last bit:
    first two to nine tensors one after another, then sums of eight.

    Args:
        count: the number of tensors.
        reduce: "SUM" or "MAX".
    """

    def __init__(self, count: int, reduce: str):
        self._count = count
        self._combine: Callable[[Any, Any], tf.Tensor] = tf.add if reduce == "SUM" else tf.maximum
        self._first = count % _WIDTH + (_WIDTH if count % _WIDTH < 2 else 0)
        self._number = 0
        self._part: tf.Tensor | None = None
        self.value: Any = None

    def add(self, x: tf.Tensor) -> bool:
        """Add one more tensor, and return whether it was the last."""
        if self._number < self._first:
            self.value = x if self.value is None else self._combine(self.value, x)
        else:
            self._part = x if self._part is None else self._combine(self._part, x)
            if (self._number - self._first) % _WIDTH == _WIDTH - 1:
                self.value, self._part = self._combine(self.value, self._part), None
        self._number += 1
        return self._number == self._count


class Node:
    """An operation of a program."""

    def run(self, running: "Running", inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        raise NotImplementedError

    def reads(self) -> Iterator[tuple[int, Value]]:
        """The values that it reads, in order, each with the number of the shard at which it reads it."""
        raise NotImplementedError


@dataclass(eq=False)
class Calls(Node):
    """A function that is called for every shard.

    Attributes:
        name: the name of the operation.
        calls: the calls for the positions, without repetitions of equal calls.
        into: the sums into which results are added at once, by result; such results are never kept.
    """

    name: str
    calls: list[Call]
    into: dict[Value, tuple[Reduction, int]] = field(default_factory=dict)

    def reads(self) -> Iterator[tuple[int, Value]]:
        return ((i, value) for i, call in enumerate(self.calls) for value in call.reads)


@dataclass(eq=False)
class Loop:
    """Operations that run shard after shard: all of them on the first shard, then all of them on the second.

    Attributes:
        nodes: the operations.
        last: the number of the last operation that reads each value, for each shard.
    """

    nodes: list[Calls]
    last: list[dict[Value, int]] = field(default_factory=list)

    def run(self, running: "Running", inputs: Sequence[Sequence[np.ndarray]]) -> None:
        wholes = [[tf.convert_to_tensor(x) for x in arrays] for arrays in inputs]
        totals: dict[Value, Total] = {}
        count = len(self.nodes[0].calls)
        for i in range(count):
            at_hand: dict[Value, tf.Tensor] = {}
            with tf.device(running.device_of(i, count)):
                for k, node in enumerate(self.nodes):
                    call = node.calls[i]
                    arguments = [self._argument(running, a, wholes[k], at_hand, i, k) for a in call.arguments]
                    if k == 0 and i + 1 < count:
                        running.prefetch(self.last[i + 1])
                    arguments += [wholes[k][number] for number in call.captured]
                    results = _called(call.function, arguments)
                    del arguments
                    for value in [v for v in at_hand if self.last[i][v] == k]:
                        del at_hand[value]
                    running.forget(self, i, k)
                    for value, result in zip(call.results, results, strict=True):
                        if value in node.into:
                            self._add(running, totals, node.into[value], result)
                            continue
                        if value in self.last[i]:
                            at_hand[value] = result
                        running.keep(value, result)
                    del results

    def _argument(
        self,
        running: "Running",
        argument: Any,
        wholes: Sequence[tf.Tensor],
        at_hand: dict[Value, tf.Tensor],
        i: int,
        k: int,
    ) -> tf.Tensor:
        if isinstance(argument, Whole):
            return wholes[argument.number]
        if not isinstance(argument, Value):
            return tf.constant(argument)
        if isinstance(argument, Zeros):
            return tf.zeros(argument.shape, argument.dtype)
        if argument in at_hand:
            return at_hand[argument]
        tensor = running.bring(argument)
        if self.last[i][argument] > k:
            at_hand[argument] = tensor
        return tensor

    def _add(
        self, running: "Running", totals: dict[Value, Total], into: tuple[Reduction, int], result: tf.Tensor
    ) -> None:
        reduction, group = into
        members, value = reduction.groups[group]
        if totals.setdefault(value, Total(len(members), reduction.reduce)).add(result):
            running.keep(value, totals.pop(value).value)


@dataclass(eq=False)
class Reduce(Node):
    """The sum or maximum of shards that were kept.

    Attributes:
        reduction: the sum or maximum.
        done: whether the operation that makes the shards reduces them itself.
    """

    reduction: Reduction
    done: bool = False

    def reads(self) -> Iterator[tuple[int, Value]]:
        if self.done:
            return iter(())
        return ((i, v) for i, (members, _) in enumerate(self.reduction.groups) for v in members)

    def run(self, running: "Running", inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        if self.done:
            return []
        for i, (members, result) in enumerate(self.reduction.groups):
            with tf.device(running.device_of(i, len(self.reduction.groups))):
                total = Total(len(members), self.reduction.reduce)
                for number, value in enumerate(members):
                    x = running.bring(value)
                    running.prefetch(members[number + 1 : number + 2])
                    total.add(x)
                running.keep(result, total.value)
            running.forget(self, i, 0)
        return []


@dataclass(eq=False)
class Import(Node):
    """Cuts a tensor of the graph into shards.

    Attributes:
        parts: each shard with its place; a tensor that is not sharded has a single part.
    """

    parts: list[tuple[Value, tuple[slice, ...]]]

    def reads(self) -> Iterator[tuple[int, Value]]:
        return iter(())

    def run(self, running: "Running", inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        (whole,) = inputs
        if len(self.parts) == 1:
            # The graph holds such a tensor anyway, for example a weight or a seed.
            running.keep(self.parts[0][0], tf.convert_to_tensor(whole), resident=True)
            return []
        for value, place in self.parts:
            # A copy, because a view would keep the whole tensor alive.
            running.keep(value, copied(whole[place], value.dtype))
        return []


@dataclass(eq=False)
class Export(Node):
    """Assembles a whole tensor for the graph.

    Attributes:
        parts: each shard with its place.
        shape, dtype: the shape and dtype of the whole tensor.
    """

    parts: list[tuple[Value, tuple[slice, ...]]]
    shape: tuple[int, ...]
    dtype: tf.DType

    def reads(self) -> Iterator[tuple[int, Value]]:
        return ((i, value) for i, (value, _) in enumerate(self.parts) if not isinstance(value, Zeros))

    def run(self, running: "Running", inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        if len(self.parts) == 1:
            result = np.asarray(running.bring(self.parts[0][0]))
            running.forget(self, 0, 0)
            return [result]
        result = np.empty(self.shape, self.dtype.as_numpy_dtype)
        for i, (value, place) in enumerate(self.parts):
            result[place] = np.asarray(running.bring(value))
            running.forget(self, i, 0)
        return [result]


@dataclass(eq=False)
class HandOut(Node):
    """Keeps shards that the caller reads from the program one by one after the step."""

    values: list[Value]

    def reads(self) -> Iterator[tuple[int, Value]]:
        return iter(())

    def run(self, running: "Running", inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return []


class Running:
    """One run of a program, with the shards that are kept at the moment. Shards that are left are dropped with it.

    Args:
        storage: the storage that keeps the shards.
        devices: the devices that compute.
        wanted: the shards that must be kept.
        last: the values that are read for the last time, by the place at which that happens.
        number: the number of the run.
    """

    def __init__(
        self,
        storage: Storage,
        devices: Sequence[str],
        wanted: Set[Value],
        last: Mapping[Place, Sequence[Value]],
        number: int,
    ):
        self._storage, self._devices, self._wanted, self._last = storage, devices, wanted, last
        self.number = number
        # The inputs that the operations of an incomplete loop were given.
        self.pending: list[Sequence[np.ndarray]] = []
        self._kept: dict[Value, Any] = {}

    def __del__(self) -> None:
        self._storage.leave([*self._kept.values()])

    def abandon(self) -> None:
        """Discard the run after an error."""
        self._storage.abandon()

    def device_of(self, number: int, count: int) -> str:
        """The device that computes shard `number` of `count`."""
        return self._devices[number * len(self._devices) // count]

    def prefetch(self, values: Iterable[Value]) -> None:
        for value in values:
            if value in self._kept:
                self._storage.prefetch(self._kept[value])

    def bring(self, value: Value) -> tf.Tensor:
        if isinstance(value, Zeros):
            return tf.zeros(value.shape, value.dtype)
        if value not in self._kept:
            raise RuntimeError(
                "A gradient was computed a second time. If shards share devices, computing a gradient drops the shards "
                "that it has read: call the model again."
            )
        return self._storage.bring(self._kept[value])

    def keep(self, value: Value, tensor: tf.Tensor, resident: bool = False) -> None:
        """Keep a result if anything will read it.

        Args:
            value: the value that the result belongs to.
            tensor: the result.
            resident: whether it must stay in host memory.
        """
        if value in self._wanted:
            self._kept[value] = self._storage.keep(tensor, resident)

    def drop(self, value: Value) -> None:
        self._storage.drop(self._kept.pop(value))

    def forget(self, part: Any, shard: int, operation: int) -> None:
        """Drop the values that are read for the last time at this place."""
        for value in self._last.get((part, shard, operation), ()):
            self.drop(value)


def _called(concrete: Any, arguments: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
    """Call a function by its name, since TensorFlow's own call would read captured tensors from the tracing graph."""
    return context.context().call_function(concrete.name, list(arguments), len(concrete.outputs))
