"""The costs of a step whose shards share devices, found by following its program in the order of a run without running
it.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import tensorflow as tf

from keras_spatial.planning.costs import Costs, costs
from keras_spatial.runtimes.nodes import Call, Calls, Export, Import, Loop, Node, Reduce, Value, Zeros
from keras_spatial.runtimes.program import Program
from keras_spatial.runtimes.storage import MINIMUM_BYTES, QUEUE


@dataclass(frozen=True)
class StreamedCosts:
    """What one run of a program costs.

    Attributes:
        peak: bytes of the tensors in memory at the worst moment: what an operation reads and makes, what it needs for
            itself, what is prefetched for the next shard, and what waits to be written. On a CPU, what host memory
            keeps is included, because it is the same memory.
        at: the operation that runs then.
        largest: the largest tensors in memory at that moment: name and bytes.
        workspace: bytes, of those at the peak, inside that operation.
        kept: the most bytes that host memory or the file keeps at once.
        moved: bytes that go there and come back; tensors that are too small for a file are not counted.
        flops: floating-point operations of all shards.
    """

    peak: int
    at: str
    largest: tuple[tuple[str, int], ...]
    workspace: int
    kept: int
    moved: int
    flops: int


def streamed_costs(program: Program, *, to_file: bool, on_cpu: bool) -> StreamedCosts:
    """What running a program would cost.

    Args:
        program: the traced program.
        to_file: whether shards wait in a file, and not in host memory.
        on_cpu: whether the devices are CPUs, whose memory is that of the host.
    """
    walk = _Walk(program, to_file, on_cpu)
    for node in program.nodes:
        if isinstance(node, Calls):
            loop = walk.loops[node]
            if node is loop.nodes[-1]:
                walk.through_loop(loop)
        elif isinstance(node, Import):
            walk.through_import(node)
        elif isinstance(node, Reduce) and not node.done:
            walk.through_sum(node)
        elif isinstance(node, Export):
            walk.through_export(node)
    return StreamedCosts(walk.peak, walk.at, walk.largest, walk.workspace, walk.most_kept, walk.moved, walk.flops)


class _Walk:
    """The state of a run, in bytes."""

    def __init__(self, program: Program, to_file: bool, on_cpu: bool):
        analysis = program.analysis()
        self.loops, self._wanted, self._last = analysis.loops, analysis.wanted, analysis.last
        self._to_file, self._on_cpu = to_file, on_cpu
        self._known: dict[str, Costs] = {}
        self._resident: set[Value] = set()
        self._kept: set[Value] = set()
        self._held = self._in_memory = 0
        self._queue: deque[int] = deque(maxlen=QUEUE)
        self.peak = self.workspace = self.most_kept = self.moved = self.flops = 0
        self.at, self.largest = "", ()

    def through_loop(self, loop: Loop) -> None:
        count = len(loop.nodes[0].calls)
        totals: dict[Value, int] = {}
        coming: set[Value] = set()
        for i in range(count):
            at_hand: set[Value] = set()
            ahead = {v for v in loop.last[i + 1] if v in self._kept} if i + 1 < count else set()
            for k, node in enumerate(loop.nodes):
                call = node.calls[i]
                inner = self._costs_of(call)
                self.flops += inner.flops
                arguments = {a for a in call.arguments if isinstance(a, Value)}
                for value in arguments - at_hand:
                    self._bring(value)
                    coming.discard(value)
                # Prefetched shards go to host memory; without a file they are there already.
                beside = [*at_hand, *coming, *ahead] if self._to_file else [*at_hand]
                self._at_once({*arguments, *beside}, sum(totals.values()), inner, node.name)
                at_hand |= {a for a in arguments if loop.last[i].get(a, -1) > k}
                at_hand -= {v for v in at_hand if loop.last[i][v] <= k}
                self._forget(loop, i, k)
                for value in call.results:
                    if value in node.into:
                        reduction, group = node.into[value]
                        members, total = reduction.groups[group]
                        totals[total] = value.size
                        if value is members[-1]:
                            self._keep(total)
                            del totals[total]
                        continue
                    if value in loop.last[i]:
                        at_hand.add(value)
                    self._keep(value)
            coming = ahead

    def through_import(self, node: Import) -> None:
        for value, _ in node.parts:
            if len(node.parts) == 1:
                self._resident.add(value)
            self._keep(value)

    def through_sum(self, node: Reduce) -> None:
        for i, (members, result) in enumerate(node.reduction.groups):
            for value in members:
                self._bring(value)
            # The tensor that is added, the one that is prefetched, the sum, and a partial sum of a few before it is
            # added.
            self._at_once(members[:2], 2 * result.size, Costs(result.size, "", (), 0, 0), node.reduction.reduce)
            self._keep(result)
            self._forget(node, i, 0)

    def through_export(self, node: Export) -> None:
        for i, (value, _) in enumerate(node.parts):
            self._bring(value)
            self._at_once([value], 0, Costs(0, "", (), 0, 0), "export")
            self._forget(node, i, 0)

    def _costs_of(self, call: Call) -> Costs:
        name = call.function.name if call.function is not None else ""
        if name not in self._known:
            graph: tf.Graph | None = None if call.function is None else call.function.graph
            self._known[name] = Costs(0, "", (), 0, 0) if graph is None else costs(graph, graph.outputs)
        return self._known[name]

    def _moves(self, value: Value) -> bool:
        return value not in self._resident and value.size >= MINIMUM_BYTES

    def _lies_in_memory(self, value: Value) -> bool:
        return value in self._kept and not (self._to_file and self._moves(value))

    def _bring(self, value: Value) -> None:
        if not isinstance(value, Zeros) and self._moves(value):
            self.moved += value.size

    def _keep(self, value: Value) -> None:
        if value not in self._wanted:
            return
        self._kept.add(value)
        self._held += value.size
        self.most_kept = max(self.most_kept, self._held)
        if self._moves(value):
            self.moved += value.size
        if self._to_file and self._moves(value):
            self._queue.append(value.size)
        else:
            self._in_memory += value.size

    def _forget(self, part: Loop | Node, shard: int, operation: int) -> None:
        for value in self._last.get((part, shard, operation), ()):
            self._kept.discard(value)
            self._held -= value.size
            self._in_memory -= 0 if self._to_file and self._moves(value) else value.size

    def _at_once(self, values: Iterable[Value], sums: int, inner: Costs, name: str) -> None:
        values = [*values]
        size = sums + sum(self._queue) + inner.peak
        if self._on_cpu:
            # Shards in memory are read in place.
            size += self._in_memory + sum(v.size for v in values if not self._lies_in_memory(v))
        else:
            size += sum(v.size for v in values)
        if size > self.peak:
            self.peak, self.at, self.workspace = size, name, inner.workspace
            named = sorted(((f"{v.dtype.name}{v.shape.as_list()}", v.size) for v in values), key=lambda n: -n[1])
            self.largest = tuple(named[:8])
