"""The analysis of a complete streaming program: which operations form loops, and how long each shard is kept."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from keras_spatial.runtimes.nodes import Calls, HandOut, Import, Loop, Node, Place, Reduce, Value


@dataclass
class Analysis:
    """The analysis of a program.

    Attributes:
        loops: the loop of each operation.
        wanted: the shards that must be kept, because they are read outside of the loop's pass that makes them.
        last: the shards that are read for the last time at each place.
    """

    loops: dict[Calls, Loop] = field(default_factory=dict)
    wanted: set[Value] = field(default_factory=set)
    last: dict[Place, list[Value]] = field(default_factory=dict)


def analyse(nodes: Sequence[Node], *, sums_at_once: bool) -> Analysis:
    """Find which operations form loops, when each shard is read for the last time, and which sums are computed at once.

    Args:
        nodes: the operations, in order. Sums that are computed at once are recorded in them.
        sums_at_once: whether results that are read only by a sum are added as soon as they are computed.
    """
    if sums_at_once:
        _sum_at_once(nodes)
    parts, loops = _parts(nodes)
    handed_out = {value for node in nodes if isinstance(node, HandOut) for value in node.values}
    result = Analysis(loops, set(handed_out))
    last: dict[Value, Place] = {}
    for part in parts:
        if not isinstance(part, Loop):
            for shard, value in part.reads():
                last[value] = (part, shard, 0)
                result.wanted.add(value)
            continue
        part.last = []
        for i, calls in enumerate(zip(*(node.calls for node in part.nodes), strict=True)):
            here: dict[Value, int] = {}
            made: set[Value] = set()
            for k, call in enumerate(calls):
                for value in call.reads:
                    here[value] = k
                    last[value] = (part, i, k)
                    if value not in made:
                        result.wanted.add(value)
                made.update(call.results)
            part.last.append(here)
    for value, place in last.items():
        if value in result.wanted and value not in handed_out:
            result.last.setdefault(place, []).append(value)
    return result


def _parts(nodes: Sequence[Node]) -> tuple[list[Loop | Node], dict[Calls, Loop]]:
    """The loops and other operations, in the order in which they run; and the loop of each operation."""
    parts: list[Loop | Node] = []
    loops: dict[Calls, Loop] = {}
    loop: Loop | None = None
    made: dict[Value, int] = {}
    for node in nodes:
        if isinstance(node, Import) or (isinstance(node, Reduce) and node.done):
            continue  # It does not interrupt a loop: it needs nothing from the loop, or is done inside the loop.
        if not isinstance(node, Calls):
            loop = None
            parts.append(node)
            continue
        joins = (
            loop is not None
            and len(loop.nodes[0].calls) == len(node.calls)
            and all(made.get(value, -1) <= i for i, value in node.reads())
        )
        if loop is None or not joins:
            loop, made = Loop([]), {}
            parts.append(loop)
        loop.nodes.append(node)
        loops[node] = loop
        for i, call in enumerate(node.calls):
            for value in call.results:
                made[value] = i
                if value in node.into:
                    reduction, group = node.into[value]
                    made[reduction.groups[group][1]] = len(node.calls)
    return parts, loops


def _sum_at_once(nodes: Sequence[Node]) -> None:
    """Add the results of an operation as soon as they are computed, if only a single sum reads them."""
    readers: Counter[Value] = Counter()
    made_by: dict[Value, Calls] = {}
    for node in nodes:
        if isinstance(node, Reduce):
            node.done = False
        readers.update(value for _, value in node.reads())
        if isinstance(node, Calls):
            node.into.clear()
            made_by |= {value: node for call in node.calls for value in call.results}
    for node in nodes:
        if isinstance(node, Reduce):
            groups = node.reduction.groups
            values = [value for members, _ in groups for value in members]
            if len({made_by.get(v) for v in values}) == 1 and all(v in made_by and readers[v] == 1 for v in values):
                node.done = True
                made_by[values[0]].into |= {
                    value: (node.reduction, i) for i, (members, _) in enumerate(groups) for value in members
                }
