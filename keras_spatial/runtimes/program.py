"""A step as a program: operations that run one after another, each of them shard after shard.

While TensorFlow traces a step, a `StreamingMesh` adds the operations on shards to a program instead of making graph
nodes for them. The graph has one node for each operation, whose inputs are whole small tensors (weights, seeds) and a
token from the node before it; the node runs the operation's function on every shard in turn. TensorFlow runs the rest
of the graph, such as the optimizer, as in every other runtime.

Successive operations run as one loop over the shards if each needs from the others only shards with the same number or
a lower one. Data that pass between them are then neither stored nor brought back.
"""

import contextlib
import itertools
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from keras_spatial.runtimes.analysis import Analysis, analyse
from keras_spatial.runtimes.functions import unoptimized
from keras_spatial.runtimes.nodes import Calls, Export, Node, Running, Value
from keras_spatial.runtimes.storage import Storage

# The attribute of a graph with the programs that it runs, one for each partitioned model.
_PROGRAMS = "_streaming_programs"


def threads_between_operations() -> int:
    """The number of threads in which TensorFlow runs operations concurrently."""
    return tf.config.threading.get_inter_op_parallelism_threads() or len(os.sched_getaffinity(0))


class Turns:
    """Lets the operations of several programs take turns.

    Each operation waits in one of TensorFlow's threads, and the one whose turn it is needs another thread for the
    functions of its shards. If all threads waited, nothing would run.
    """

    def __init__(self) -> None:
        self._turn, self._count, self._present = threading.Lock(), threading.Lock(), 0

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for one's turn, and keep it inside a `with` block.

        Raises:
            RuntimeError: if no thread would be left.
        """
        with self._count:
            if self._present + 1 >= threads_between_operations():
                raise RuntimeError(
                    f"{self._present + 1} calls of models whose shards share devices run side by side in TensorFlow's "
                    f"{threads_between_operations()} threads between operations. If one TensorFlow function makes "
                    "them, let one wait for the other with tf.control_dependencies; call models themselves from "
                    "several threads, not within a tf.function; or call "
                    "tf.config.threading.set_inter_op_parallelism_threads with a larger number before TensorFlow "
                    "starts."
                )
            self._present += 1
        try:
            with self._turn:
                yield
        finally:
            with self._count:
                self._present -= 1


_TURNS = Turns()


class Program:
    """The operations of a step on shards, in order.

    Args:
        make_storage: a function that makes the storage for shards between operations, when the program first runs.
        devices: the devices that compute, in the order of the mesh's positions; there are fewer of them than positions.
        report: a function that is called with the original error if an operation fails in a thread of TensorFlow's.
    """

    def __init__(
        self,
        make_storage: Callable[[], Storage],
        devices: Sequence[str],
        report: Callable[[BaseException], None],
    ):
        self.devices = list(devices)
        self.nodes: list[Node] = []
        self._make_storage, self._report = make_storage, report
        self._storage: Storage | None = None
        # The token of the last operation, in the graph of the forward pass and in that of a backward pass.
        self._tokens: dict[tf.Graph, tf.Tensor] = {}
        self._running: Running | None = None
        self._runs = itertools.count(1)
        self._analysis, self._analysed = Analysis(), 0
        # The number of operations in the graph of the forward pass.
        self._forward = 0

    def add(self, node: Node, inputs: Sequence[tf.Tensor] = ()) -> list[tf.Tensor]:
        """Append an operation.

        Args:
            node: the operation.
            inputs: the tensors of the graph that it reads.

        Returns:
            The operation's results in the graph.

        Raises:
            ValueError: if a tensor is of a kind that cannot be passed to Python.
        """
        kinds = {tensor.dtype for tensor in inputs} & {tf.resource, tf.variant}
        if kinds:
            names = sorted(kind.name for kind in kinds)
            raise ValueError(f"If shards share devices, operations take only arrays of numbers. Received: {names}")
        number = len(self.nodes)
        self.nodes.append(node)
        returned = [node.dtype] if isinstance(node, Export) else []

        graph = tf.compat.v1.get_default_graph()
        # TensorFlow keeps every Python function that a graph has called forever. The function must not keep the program
        # alive; the graph does that.
        known = weakref.ref(self)
        if graph is next(iter(self._tokens), graph):
            self._forward = len(self.nodes)
        if graph not in self._tokens:
            setattr(graph, _PROGRAMS, [*getattr(graph, _PROGRAMS, ()), self])

        def run(token: np.ndarray, *arrays: np.ndarray) -> tuple:
            program = known()
            assert program is not None
            return program.run(number, int(token), arrays)

        # The token says which run this is: the first operation begins a run, and a backward pass continues the run of
        # its forward pass.
        token = self._tokens.get(graph, next(iter(self._tokens.values()), tf.constant(0)))
        with tf.device("cpu:0"):
            self._tokens[graph], *results = tf.numpy_function(run, [token, *inputs], [tf.int32, *returned])
        self._tokens[graph].set_shape([])
        for result in results:
            assert isinstance(node, Export)
            result.set_shape(node.shape)
        return results

    def run(self, number: int, token: int, inputs: Sequence[np.ndarray]) -> tuple:
        """Run one operation.

        Args:
            number: the number of the operation.
            token: the number of the run that it is part of; 0 for the first operation, which begins a run.
            inputs: the tensors of the graph that it reads.

        Returns:
            The number of the run, and the arrays that the operation returns to the graph.

        Raises:
            RuntimeError: if the run is not the current one any more.
        """
        try:
            with _TURNS.turn(), unoptimized():
                running = self._going_on(number, token)
                try:
                    return (np.int32(running.number), *self._run(running, self.nodes[number], inputs))
                except BaseException:
                    self._running = None
                    running.abandon()
                    raise
        except BaseException as error:
            self._report(error)
            raise

    def analysis(self) -> Analysis:
        """The analysis of the program as it is now."""
        # A backward pass may have been traced since the last time.
        if self._analysed != len(self.nodes):
            self._analysis = analyse(self.nodes, sums_at_once=len(self.devices) == 1)
            self._analysed = len(self.nodes)
        return self._analysis

    def reader(self, value: Value) -> Callable[[], np.ndarray]:
        """A function that reads a shard that the last run handed out, even after later runs."""
        running = self._running
        assert running is not None
        return lambda: np.asarray(running.bring(value))

    def _going_on(self, number: int, token: int) -> Running:
        """The run that an operation is part of; the first operation begins one."""
        if not token:
            analysis = self.analysis()
            if self._storage is None:
                self._storage = self._make_storage()
            self._running = Running(self._storage, self.devices, analysis.wanted, analysis.last, next(self._runs))
        elif self._running is None or token != self._running.number:
            if number < self._forward:
                raise RuntimeError(
                    "Two calls of one model ran at once, inside TensorFlow functions of the caller. If shards share "
                    "devices, calls must follow one another: call the model itself from several threads, or such a "
                    "function from only one thread."
                )
            raise RuntimeError(
                "The gradient of an earlier call was asked for. If shards share devices, only the last call of "
                "a model can be differentiated: take its gradient before you call the model again."
            )
        return self._running

    def _run(self, running: Running, node: Node, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run an operation. An operation that is part of a loop runs when the loop is complete."""
        if not isinstance(node, Calls):
            return node.run(running, inputs)
        loop = self._analysis.loops[node]
        running.pending.append(inputs)
        if node is loop.nodes[-1]:
            pending, running.pending = running.pending, []
            loop.run(running, pending)
        return []
