"""A step as a program: operations that run one after another, each shard after shard.

While TensorFlow traces a step, a `StreamingMesh` writes down what is to be done with shards instead of making nodes of
it. In the graph stands one node for each operation, which takes whole small tensors (weights, seeds) and a token of the
node before it; it runs the operation's function on every shard in turn. What stands in the graph beside them, such as
the optimizer, is TensorFlow's business as in every other runtime.

Operations that follow one another, and need of each other only what belongs to the same shard or one before it, run as
one loop over the shards: what passes between them is then neither kept nor brought back.
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

# Of a graph: the programs that it runs, one for each partitioned model.
_PROGRAMS = "_streaming_programs"


def threads_between_operations() -> int:
    """In how many threads TensorFlow runs operations side by side."""
    return tf.config.threading.get_inter_op_parallelism_threads() or len(os.sched_getaffinity(0))


class Turns:
    """Operations of several programs take turns.

    Each waits in a thread of TensorFlow's, and the one whose turn it is needs another for the functions of its shards.
    If all threads waited, none would go on.
    """

    def __init__(self) -> None:
        self._turn, self._count, self._present = threading.Lock(), threading.Lock(), 0

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the turn.

        Raises:
            RuntimeError: if no thread would be left.
        """
        with self._count:
            if self._present + 1 >= threads_between_operations():
                raise RuntimeError(
                    f"{self._present + 1} calls of models whose shards share devices run side by side in TensorFlow's "
                    f"{threads_between_operations()} threads between operations. Where one TensorFlow function makes "
                    "them, let one wait for the other by tf.control_dependencies; call models themselves from several "
                    "threads, not within a tf.function; or call "
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
    """What a step does with shards, in order.

    Args:
        make_storage: makes the place where shards are kept between operations, when the program first runs.
        devices: that compute, in the order of the mesh's positions; fewer than positions.
        report: told of what goes wrong, as it was raised; it happens in a thread of TensorFlow's.
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
        # The last operation's in the graph of the forward pass, and in that of a backward pass.
        self._tokens: dict[tf.Graph, tf.Tensor] = {}
        self._running: Running | None = None
        self._runs = itertools.count(1)
        self._analysis, self._analysed = Analysis(), 0
        # How many operations there are in the graph of the forward pass.
        self._forward = 0

    def add(self, node: Node, inputs: Sequence[tf.Tensor] = ()) -> list[tf.Tensor]:
        """Let an operation come next.

        Args:
            node: the operation.
            inputs: tensors of the graph that it takes.

        Returns:
            What it gives back to the graph.

        Raises:
            ValueError: if a tensor is of a kind that Python cannot be given.
        """
        kinds = {tensor.dtype for tensor in inputs} & {tf.resource, tf.variant}
        if kinds:
            names = sorted(kind.name for kind in kinds)
            raise ValueError(f"Where shards share devices, operations take arrays of numbers. Received: {names}")
        number = len(self.nodes)
        self.nodes.append(node)
        returned = [node.dtype] if isinstance(node, Export) else []

        graph = tf.compat.v1.get_default_graph()
        # TensorFlow never forgets a Python function that a graph has called: it must not keep the program alive, which
        # the graph does.
        known = weakref.ref(self)
        if graph is next(iter(self._tokens), graph):
            self._forward = len(self.nodes)
        if graph not in self._tokens:
            setattr(graph, _PROGRAMS, [*getattr(graph, _PROGRAMS, ()), self])

        def run(token: np.ndarray, *arrays: np.ndarray) -> tuple:
            program = known()
            assert program is not None
            return program.run(number, int(token), arrays)

        # Of which run it is: the first operation begins one, and a backward pass goes on with that of its forward pass.
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
            number: the operation's.
            token: which run it is part of; 0 for the first operation, which begins one.
            inputs: the tensors that it takes.

        Returns:
            The number of the run, and what the operation gives back.
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
        """What is known of the program as it stands."""
        # A backward pass may have been traced since the last time.
        if self._analysed != len(self.nodes):
            self._analysis = analyse(self.nodes, sums_at_once=len(self.devices) == 1)
            self._analysed = len(self.nodes)
        return self._analysis

    def reader(self, value: Value) -> Callable[[], np.ndarray]:
        """Reads a shard that was handed out by the last run, also when others have followed."""
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
                    "Two calls of one model ran at once, within TensorFlow functions of the caller's. Where shards "
                    "share devices, one call follows another: call the model itself from several threads, or such a "
                    "function from one."
                )
            raise RuntimeError(
                "The gradient of an earlier call was asked for. Where shards share devices, only the last call of "
                "a model can be differentiated: take its gradient before you call the model again."
            )
        return self._running

    def _run(self, running: Running, node: Node, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run an operation; one that is part of a loop when the loop is complete."""
        if not isinstance(node, Calls):
            return node.run(running, inputs)
        loop = self._analysis.loops[node]
        running.pending.append(inputs)
        if node is loop.nodes[-1]:
            pending, running.pending = running.pending, []
            loop.run(running, pending)
        return []
