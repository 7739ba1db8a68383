"""Resharding, which moves the same elements to other devices, and operations that are linear along one axis.

Every change of layout consists of three moves. A sharded axis that becomes whole is gathered: each device writes its
shard into zeros of the whole size, and an all-reduce adds them. A whole axis that becomes sharded is cut: each device
keeps its own shard. A sharded axis whose shards move only a little (another shard length, cropping, padding) is
shifted: shards exchange halos, and nothing is gathered.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import tensorflow as tf

from keras_spatial.engine.graph import Graph
from keras_spatial.engine.halo import Halo
from keras_spatial.engine.local import LocalOperation, Source
from keras_spatial.engine.mirror import Mirror
from keras_spatial.engine.tensors import SpatialTensor, mesh_shape_of
from keras_spatial.layout import Axis
from keras_spatial.runtimes.functions import custom_gradient, scalar, static_sizes


def resharded(trace: Graph, x: SpatialTensor, axes: Sequence[Axis]) -> SpatialTensor:
    """The tensor with its axes cut into other shards. The sizes of the axes do not change.

    Raises:
        ValueError: if sizes differ.
    """
    if x.shape != tuple(axis.size for axis in axes):
        raise ValueError(f"Resharding keeps all sizes. Received: a tensor of shape {x.shape} for the axes {axes}")
    for i, axis in enumerate(axes):
        old = x.axes[i]
        if old.sharded and not old.cut_like(axis):
            x = shifted(trace, x, i, axis, 0) if axis.sharded and axis.name == old.name else gathered(trace, x, i)
    for i, axis in enumerate(axes):
        if axis.sharded and not x.axes[i].sharded:
            x = _cut(trace, x, i, axis)
    # Renaming whole axes costs nothing, because the Mesh-TF tensor identifies them by position.
    return x if x.axes == tuple(axes) else renamed(trace, x, axes)


def whole(trace: Graph, x: SpatialTensor, indices: Sequence[int]) -> SpatialTensor:
    """The tensor with some axes gathered on every device."""
    for i in indices:
        if x.axes[i].sharded:
            x = gathered(trace, x, i % x.ndim)
    return x


def aligned(trace: Graph, tensors: Sequence[SpatialTensor], but: int | None = None) -> list[SpatialTensor]:
    """Reshard tensors that broadcast against each other, so that axes of equal size have the same shards.

    Args:
        trace: the graph of the step.
        tensors: the tensors.
        but: the index of an axis, counted from the end, that is left unchanged.
    """
    rank = max(x.ndim for x in tensors)
    targets: dict[int, Axis] = {}
    for i in range(-rank, 0):
        axes = [x.axes[i] for x in tensors if x.ndim >= -i]
        size = max(axis.size for axis in axes)
        taken = {axis.name for axis in targets.values() if axis.sharded}
        split = [axis for axis in axes if axis.size == size > 1 and axis.sharded and axis.name not in taken]
        targets[i] = split[0] if split else Axis(f"axis{rank + i}", size)

    def wanted(axis: Axis, i: int) -> Axis:
        if (
            i == but
            or (axis.size == targets[i].size and axis.cut_like(targets[i]))
            or not (axis.sharded or targets[i].sharded)
        ):
            return axis
        return targets[i] if axis.size == targets[i].size else Axis(axis.name, axis.size)

    return [resharded(trace, x, [wanted(axis, i - x.ndim) for i, axis in enumerate(x.axes)]) for x in tensors]


def renamed(trace: Graph, x: SpatialTensor, axes: Sequence[Axis]) -> SpatialTensor:
    """The same shards, with other names for the whole axes."""
    if mesh_shape_of(axes) == mesh_shape_of(x.axes):
        return SpatialTensor(x.value, tuple(axes))
    return trace.reduced(tf.identity, [x], axes, name="renamed")


def permuted(trace: Graph, x: SpatialTensor, order: Sequence[int]) -> SpatialTensor:
    """The axes in another order; each keeps its shards, so nothing moves between devices."""
    if list(order) == list(range(x.ndim)):
        return x
    return trace.reduced(lambda t: tf.transpose(t, order), [x], [x.axes[i] for i in order], name="permuted")


def gathered(trace: Graph, x: SpatialTensor, i: int) -> SpatialTensor:
    """The tensor with one sharded axis whole on every device."""
    old = x.axes[i]
    axes = tuple(Axis(a.name, a.size) if j == i else a for j, a in enumerate(x.axes))
    shape = [a.length for a in axes]
    dtype = tf.int8 if x.dtype == tf.bool else x.dtype

    def place(coordinate: list, t: tf.Tensor) -> tuple[tf.Tensor, ...]:
        spread = among_shards(tf.cast(t, dtype), i, old.shards, coordinate[0])
        return (tf.ensure_shape(tf.slice(spread, [0] * x.ndim, shape), shape),)

    operation = LocalOperation(
        place,
        [x.value],
        [(mesh_shape_of(axes), dtype)],
        coordinates=[trace.mesh_axis(old)],
        name="gathered",
    )
    return trace.cast(SpatialTensor(operation.outputs[0], axes), x.dtype)


def among_shards(t: tf.Tensor, i: int, shards: int, place) -> tf.Tensor:
    """A shard at its place along one axis, with zeros in place of the other shards.

    On a TPU the place is known only on the device, and XLA cannot compile a `tf.pad` whose width is such a number.
    """
    shape = static_sizes(t.shape)
    mine = tf.reshape(tf.range(shards) == place, [-1 if j == i else 1 for j in range(len(shape) + 1)])
    spread = tf.where(mine, tf.expand_dims(t, i), tf.zeros([], t.dtype))
    return tf.reshape(spread, [*shape[:i], shards * shape[i], *shape[i + 1 :]])


def _cut(trace: Graph, x: SpatialTensor, i: int, axis: Axis) -> SpatialTensor:
    axes = tuple(axis if j == i else a for j, a in enumerate(x.axes))
    shape = [a.length for a in axes]
    surplus = axis.shards * axis.length - axis.size

    def keep(coordinate: list, t: tf.Tensor) -> tuple[tf.Tensor, ...]:
        t = tf.pad(t, [(0, surplus if j == i else 0) for j in range(x.ndim)]) if surplus else t
        begin = [coordinate[0] * axis.length if j == i else 0 for j in range(x.ndim)]
        return (tf.ensure_shape(tf.slice(t, begin, shape), shape),)

    operation = LocalOperation(
        keep, [x.value], [(mesh_shape_of(axes), x.dtype)], coordinates=[trace.mesh_axis(axis)], name="cut"
    )
    return SpatialTensor(operation.outputs[0], axes)


def shifted(trace: Graph, x: SpatialTensor, i: int, axis: Axis, offset: int, fill: float | bool = 0) -> SpatialTensor:
    """Shift a tensor along one axis, for padding, cropping and other shard lengths.

    Element `o` of the result is element `o - offset` of the input, or `fill` if the input has no such element.

    Args:
        trace: the graph of the step.
        x: the tensor.
        i: the index of the axis.
        axis: the new axis, of any size and shard length, sharded over the same mesh axis or whole.
        offset: how far elements move towards the end.
        fill: the value of elements that the input does not have.
    """
    return shifted_along(trace, x, {i: (axis, offset)}, fill)


def shifted_along(
    trace: Graph, x: SpatialTensor, moves: Mapping[int, tuple[Axis, int]], fill: float | bool = 0
) -> SpatialTensor:
    """As `shifted`, along several axes at once, each with its new axis and its offset."""
    reaches = {i: _reach_of_shift(x.axes[i], *move) for i, move in moves.items()}
    for i, (axis, offset) in moves.items():
        if reaches[i] is None:
            x = _shifted_by_gathering(trace, x, i, axis, offset, fill)
    moves = {i: moves[i] for i in sorted(moves) if reaches[i] is not None}
    split = [i for i in moves if x.axes[i].sharded]
    if not split:
        for i, (axis, offset) in moves.items():
            x = _shifted_whole(trace, x, i, axis, offset, fill)
        return x
    axes = tuple(moves[j][0] if j in moves else a for j, a in enumerate(x.axes))
    shape = [a.length for a in axes]
    widths = {i: width for i, width in reaches.items() if width is not None}
    # Zeros come from beyond the last shard already.
    masked = [i for i in split if not _stays_inside(x.axes[i], *moves[i]) and (fill or x.axes[i].padded)]

    def move(places: list, t: tf.Tensor) -> tuple[tf.Tensor, ...]:
        begin: list = [0] * x.ndim
        for i, (_, offset) in moves.items():
            begin[i] = widths[i][0] - offset
        inside = None
        for i, place in zip(split, places, strict=True):
            axis, offset = moves[i]
            begin[i] += place * (axis.length - x.axes[i].length)
            if i in masked:
                index = place * axis.length - offset + tf.range(axis.length)
                known = tf.reshape(
                    (index >= 0) & (index < x.axes[i].size), [-1 if j == i else 1 for j in range(x.ndim)]
                )
                inside = known if inside is None else inside & known
        t = tf.ensure_shape(tf.slice(t, begin, shape), shape)
        return (t if inside is None else tf.where(inside, t, scalar(fill, t.dtype)),)

    operation = LocalOperation(
        move,
        [x.value],
        [(mesh_shape_of(axes), x.dtype)],
        halos=[Halo(i, trace.mesh_axis(x.axes[i]), *widths[i]) for i in split],
        paddings={i: widths[i] for i in moves if i not in split and any(widths[i])},
        fill=float(fill),
        coordinates=[trace.mesh_axis(x.axes[i]) for i in split],
        name="shifted",
    )
    return SpatialTensor(operation.outputs[0], axes)


def _reach_of_shift(old: Axis, axis: Axis, offset: int) -> tuple[int, int] | None:
    """The halo widths before and after a shard; None if shards would need about the whole axis."""
    if not old.sharded and not axis.sharded:
        return max(offset, 0), max(axis.size - offset - old.size, 0)
    if old.sharded != axis.sharded:
        return None
    first = [shard * axis.length - offset for shard in range(axis.shards)]
    before = max(0, *(shard * old.length - start for shard, start in enumerate(first)))
    after = max(0, *(start + axis.length - (shard + 1) * old.length for shard, start in enumerate(first)))
    return None if before + old.length + after > old.shards * old.length else (before, after)


def _stays_inside(old: Axis, axis: Axis, offset: int) -> bool:
    return offset <= 0 and axis.size - offset <= old.size


def _shifted_by_gathering(
    trace: Graph, x: SpatialTensor, i: int, axis: Axis, offset: int, fill: float | bool
) -> SpatialTensor:
    x = _shifted_whole(trace, whole(trace, x, [i]), i, Axis(axis.name, axis.size), offset, fill)
    return _cut(trace, x, i, axis) if axis.sharded else x


def _shifted_whole(
    trace: Graph, x: SpatialTensor, i: int, axis: Axis, offset: int, fill: float | bool
) -> SpatialTensor:
    size = x.axes[i].size
    start, stop = max(-offset, 0), min(axis.size - offset, size)
    axes = tuple(axis if j == i else a for j, a in enumerate(x.axes))
    if start == 0 and stop == size == axis.size:
        return renamed(trace, x, axes)

    def move(t: tf.Tensor) -> tf.Tensor:
        t = tf.gather(t, [], axis=i) if stop <= start else t[(slice(None),) * i + (slice(start, stop),)]
        before = min(max(offset, 0), axis.size)
        paddings = [(before, axis.size - before - max(stop - start, 0)) if j == i else (0, 0) for j in range(x.ndim)]
        return tf.pad(t, paddings, constant_values=scalar(fill, t.dtype)) if any(map(any, paddings)) else t

    return trace.reduced(move, [x], axes, name="shifted")


def _filled(t: tf.Tensor, i: int, inside: tf.Tensor, fill: float | bool) -> tf.Tensor:
    return tf.where(_along(inside, i, t.shape.rank), t, scalar(fill, t.dtype))


def _along(vector: tf.Tensor, i: int, rank: int) -> tf.Tensor:
    return tf.reshape(vector, [-1 if j == i else 1 for j in range(rank)])


def mirrored(trace: Graph, x: SpatialTensor, i: int) -> SpatialTensor:
    """The tensor with its elements along one axis in reverse order."""
    axis = x.axes[i]
    if not axis.sharded:
        return trace.reduced(lambda t: tf.reverse(t, [i]), [x], x.axes, name="mirrored")
    value = Mirror(x.value, i, trace.mesh_axis(axis)).outputs[0]
    # The elements beyond the image now come before it.
    surplus = axis.shards * axis.length - axis.size
    filled = replace(axis, size=axis.size + surplus)
    y = SpatialTensor(value, tuple(filled if j == i else a for j, a in enumerate(x.axes)))
    return shifted(trace, y, i, axis, -surplus) if surplus else y


def mapped(trace: Graph, x: SpatialTensor, i: int, axis: Axis, matrix: np.ndarray) -> SpatialTensor:
    """Apply a linear map along one axis: resizing, flipping, strided slicing, averaging over regions.

    A shard receives only the inputs for which its rows of the matrix have non-zero entries.

    Args:
        trace: the graph of the step.
        x: the tensor.
        i: the index of the axis.
        axis: the new axis.
        matrix: the map, of shape `(axis.size, x.axes[i].size)`.
    """
    old = x.axes[i]
    if x.dtype.is_floating and old.sharded and not axis.sharded:
        return _mapped_to_whole(trace, x, i, axis, matrix)
    if not x.dtype.is_floating:
        y = mapped(trace, trace.cast(x, tf.float64), i, axis, matrix)
        rounded = [(y.axes, x.dtype)]
        return trace.local(lambda t: tf.cast(tf.round(t), x.dtype), [y], rounded, elementwise=True, name="rounded")[0]
    if old.sharded and (axis.name, axis.shards) == (old.name, old.shards):
        before, after = _reach(matrix, old, axis)
        if before + old.length + after > old.shards * old.length:
            x, before, after = gathered(trace, x, i), 0, 0
    else:
        x, before, after = whole(trace, x, [i]), 0, 0
    old = x.axes[i]
    width = before + old.length + after
    rows = np.zeros((axis.shards * axis.length, width), "float64")
    for row in range(axis.size):
        start = (row // axis.length) * old.length - before if old.sharded else 0
        low, high = max(start, 0), min(start + width, old.size)
        rows[row, low - start : high - start] = matrix[row, low:high]
    source = Source(
        trace.mesh,
        tf.constant(rows, x.dtype),
        mesh_shape_of((axis, Axis("taps", width))),
        differentiable=False,
        name="matrix",
    )
    axes = tuple(axis if j == i else a for j, a in enumerate(x.axes))
    shape = [a.length for a in axes]

    # The union over all shards, because all devices run the same program.
    used = np.any(rows.reshape(axis.shards, axis.length, width), axis=0)

    def apply(place: list, t: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, ...]:
        if place:
            index = place[0] * old.length - before + tf.range(width)
            t = _filled(t, i, (index >= 0) & (index < old.size), 0)
        lead, rest = t.shape[:i].num_elements(), t.shape[i + 1 :].num_elements()
        return (tf.reshape(_banded_product(rows, tf.reshape(t, [lead, width, rest]), used), shape),)

    halos = [Halo(i, trace.mesh_axis(old), before, after)] if old.sharded else []
    coordinates = [trace.mesh_axis(old)] if old.padded else []
    operation = LocalOperation(
        apply if coordinates else lambda t, rows: apply([], t, rows),
        [x.value, source.outputs[0]],
        [(mesh_shape_of(axes), x.dtype)],
        halos=halos,
        coordinates=coordinates,
        name="mapped",
    )
    return SpatialTensor(operation.outputs[0], axes)


_TILE = 64


def _banded_product(matrix: tf.Tensor, t: tf.Tensor, used: np.ndarray) -> tf.Tensor:
    """`matrix @ t` along the middle axis of `t`, reading only those parts of the matrix that may not be zero.

    Args:
        matrix: a constant of shape `[rows, columns]`.
        t: a tensor of shape `[lead, columns, rest]`.
        used: booleans of shape `[rows, columns]`, true where the matrix may not be zero.
    """

    def product(t: tf.Tensor, used: np.ndarray, transposed: bool) -> tf.Tensor:
        tiles = []
        for start in range(0, len(used), _TILE):
            columns = np.nonzero(np.any(used[start : start + _TILE], axis=0))[0]
            low, high = (int(columns[0]), int(columns[-1]) + 1) if columns.size else (0, 1)
            stop = min(start + _TILE, len(used))
            part = matrix[low:high, start:stop] if transposed else matrix[start:stop, low:high]
            tiles.append(tf.matmul(part[None], t[:, low:high], transpose_a=transposed))
        return tf.concat(tiles, 1) if len(tiles) > 1 else tiles[0]

    @custom_gradient
    def multiplied(t: tf.Tensor):
        return product(t, used, False), lambda dy: [product(dy, used.T, True)]

    return multiplied(t)


def _mapped_to_whole(trace: Graph, x: SpatialTensor, i: int, axis: Axis, matrix: np.ndarray) -> SpatialTensor:
    """As `mapped`, for a result that is not sharded: each shard contributes a partial sum, and nothing is gathered."""
    old = x.axes[i]
    columns = np.pad(matrix, ((0, 0), (0, old.shards * old.length - old.size)))
    source = Source(
        trace.mesh,
        tf.constant(columns, x.dtype),
        mesh_shape_of((Axis("rows", axis.size), old)),
        differentiable=False,
        name="matrix",
    )
    axes = tuple(axis if j == i else a for j, a in enumerate(x.axes))
    shape = [a.length for a in axes]

    def apply(t: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
        lead, rest = t.shape[:i].num_elements(), t.shape[i + 1 :].num_elements()
        return tf.reshape(tf.matmul(columns[None], tf.reshape(t, [lead, t.shape[i], rest])), shape)

    table = SpatialTensor(source.outputs[0], (Axis("rows", axis.size), old))
    return trace.reduced(apply, [x, table], axes, name="mapped")


def selected(trace: Graph, x: SpatialTensor, i: int, axis: Axis, index: Sequence[int] | np.ndarray) -> SpatialTensor:
    """Select elements along one axis: element `o` of the result is input `index[o]`, or 0 if that index is negative."""
    places = np.array(index)
    known = places[places >= 0]
    offset = int(np.argmax(places >= 0) - known[0]) if known.size else 0
    wanted = np.arange(len(places)) - offset
    contiguous = np.where((wanted >= 0) & (wanted < x.axes[i].size), wanted, -1)
    if np.array_equal(contiguous, np.where(places >= 0, places, -1)):
        return shifted(trace, x, i, axis, offset)
    matrix = np.zeros((len(places), x.axes[i].size), "float32")
    rows = np.nonzero(places >= 0)[0]
    matrix[rows, places[rows]] = 1
    return mapped(trace, x, i, axis, matrix)


def windows_along(
    trace: Graph,
    x: SpatialTensor,
    i: int,
    axis: Axis,
    index: np.ndarray,
    combine: Callable[[tf.Tensor], tf.Tensor],
) -> SpatialTensor:
    """Combine windows along one axis: element `o` of the result combines the inputs `index[o]`, which may lie anywhere.

    Args:
        trace: the graph of the step.
        x: the tensor.
        i: the index of the axis.
        axis: the new axis.
        index: the indices of the inputs, of shape `(axis.size, taps)`.
        combine: a function from a tensor with the taps at axis `i + 1` to one without that axis.
    """
    x = whole(trace, x, [i])
    surplus = axis.shards * axis.length - axis.size
    table = trace.constant(np.pad(index, ((0, surplus), (0, 0)), mode="edge").astype("int32"))
    table = SpatialTensor(table.value, (Axis("rows", axis.size + surplus), Axis("taps", index.shape[1])))
    if axis.sharded:
        table = resharded(trace, table, (Axis(axis.name, table.shape[0], axis.shards, axis.length), table.axes[1]))
    axes = tuple(axis if j == i else a for j, a in enumerate(x.axes))
    return trace.reduced(lambda t, index: combine(tf.gather(t, index, axis=i)), [x, table], axes, name="windows")


def _reach(matrix: np.ndarray, old: Axis, new: Axis) -> tuple[int, int]:
    """The halo widths that the rows of the matrix need before and after the shard of inputs on the same device."""
    before = after = 0
    for shard in range(new.shards):
        used = np.nonzero(np.any(matrix[shard * new.length : (shard + 1) * new.length], axis=0))[0]
        if used.size:
            before = max(before, shard * old.length - int(used[0]))
            after = max(after, int(used[-1]) + 1 - (shard + 1) * old.length)
    return before, after
