"""Halo exchange: every shard receives the halos of its neighbours, and gives their gradients back.

A shard's neighbourhood is kept as the shard itself and thin halos, one pair per split axis; it is assembled only
inside the local function that needs it. The halos of the second axis include the corners, since they are cut from the
neighbour's shard *with* the halos that it received along the first axis.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from keras_spatial.mesh_tensorflow import mtf
from keras_spatial.runtimes.functions import SharedFunction, custom_gradient, scalar, static_sizes

# From this number of elements, copying a shard costs more than preparing a few more operations.
LARGE = 1 << 18
# On CPUs, TensorFlow's `tensor_scatter_nd_add` and `_update` copy the tensor that they change, and the page faults of
# that copy cost more than the rest of the exchange. `InplaceAdd` and `InplaceUpdate` make no copy, but overwrite what
# other operations may still read, so they are given only tensors that nothing else reads.

# Profiles tell the operations of the exchange from those of the layers by this name (`keras_spatial.profiling`).
SCOPE = "halo_exchange"


def _scoped(function: Callable) -> Callable:
    @functools.wraps(function)
    def inside(*args):
        with tf.name_scope(SCOPE):
            return function(*args)

    return inside


@dataclass(frozen=True)
class Halo:
    """How many elements of its neighbours a shard needs along one split axis of a tensor.

    Attributes:
        axis: the tensor's axis, such as 1 for the first image axis.
        mesh_axis: the mesh axis over which it is split.
        before: elements needed below the shard's own.
        after: elements needed above the shard's own.
    """

    axis: int
    mesh_axis: int
    before: int
    after: int


def exchange(mesh_impl: mtf.MeshImpl, x, halos: Sequence[Halo]) -> list:
    """The halos of every shard: below and above it for each halo in turn; zeros beyond the mesh's edge.

    A halo wider than a shard comes from as many neighbours as needed.

    Args:
        mesh_impl: the mesh implementation.
        x: a laid-out tensor.
        halos: axes and widths. Each halo's halos extend over those of the halos before it.

    Returns:
        Laid-out tensors, `[below, above]` of the first halo, then of the second, and so on. A halo of width 0 is an
        empty tensor.
    """
    shape = x.to_laid_out_tensor().slice_shape
    received: list = []
    for number, halo in enumerate(halos):
        earlier = tuple(halos[:number])
        length = shape[halo.axis]
        cut = _strips_to_send(earlier, halo, length)
        strips = list(mesh_impl.slicewise(cut, x, *received))
        below = [
            mesh_impl.shift_by_n_processors(strips.pop(0), halo.mesh_axis, hop, wrap=False)
            for hop, _ in _hops(halo.before, length)
        ]
        above = [
            mesh_impl.shift_by_n_processors(strips.pop(0), halo.mesh_axis, -hop, wrap=False)
            for hop, _ in _hops(halo.after, length)
        ]
        empty = strips.pop(0) if strips else None
        received.append(_joined(mesh_impl, below[::-1], halo.axis, empty))
        received.append(_joined(mesh_impl, above, halo.axis, empty))
    return received


def exchange_adjoint(mesh_impl: mtf.MeshImpl, dx, dreceived: Sequence, halos: Sequence[Halo]):
    """The transpose of `exchange`: the gradients of halos return to the shards that they came from, and are added
    there.

    Args:
        mesh_impl: the mesh implementation.
        dx: the gradient of the shards, a laid-out tensor.
        dreceived: the gradients of the halos, in the order in which `exchange` returns them.
        halos: the halos that `exchange` was given.

    Returns:
        The gradient with respect to the exchanged tensor.
    """
    shape = dx.to_laid_out_tensor().slice_shape
    dreceived = list(dreceived)
    # Large shards are worth more nodes, which add in place.
    large = math.prod(shape) >= LARGE
    in_place = mesh_impl.in_place and large and bool(halos)
    if in_place:
        dx = mesh_impl.slicewise(_own_memory, dx)
    for number in reversed(range(len(halos))):
        halo, length = halos[number], shape[halos[number].axis]
        dbelow, dabove = dreceived[2 * number :]
        dreceived = dreceived[: 2 * number]
        pieces = []
        start = halo.before
        for hop, width in _hops(halo.before, length):
            start -= width
            piece = _cut(mesh_impl, dbelow, halo.axis, start, width, halo.before)
            pieces.append(mesh_impl.shift_by_n_processors(piece, halo.mesh_axis, -hop, wrap=False))
        start = 0
        for hop, width in _hops(halo.after, length):
            piece = _cut(mesh_impl, dabove, halo.axis, start, width, halo.after)
            pieces.append(mesh_impl.shift_by_n_processors(piece, halo.mesh_axis, hop, wrap=False))
            start += width
        earlier = tuple(halos[:number])
        if in_place:
            rows, *dreceived = mesh_impl.slicewise(_add_to_halos(earlier, halo, length), *dreceived, *pieces)
            places = [start + i for start, width in _ranges(halo, length) for i in range(width)]
            dx = mesh_impl.slicewise(functools.partial(_write, tf.raw_ops.InplaceAdd, halo.axis, places), dx, rows)
        else:
            add = _add_returned(earlier, halo, length)
            dx, *dreceived = mesh_impl.slicewise(add.inline if large else add, dx, *dreceived, *pieces)
    return dx


@_scoped
def assemble(x: tf.Tensor, received: Sequence[tf.Tensor], halos: Sequence[Halo]) -> tf.Tensor:
    """A shard with its halos around it, on one device."""
    for number, halo in enumerate(halos):
        parts = [t for t in (received[2 * number], x, received[2 * number + 1]) if t.shape[halo.axis]]
        x = tf.concat(parts, halo.axis) if len(parts) > 1 else x
    return x


def neighbourhood(
    x: tf.Tensor,
    received: Sequence[tf.Tensor],
    halos: Sequence[Halo],
    paddings: Mapping[int, tuple[int, int]] | None = None,
    fill: float = 0.0,
    in_place: bool = False,
) -> tf.Tensor:
    """As `assemble`, with other axes padded, too. Its gradient cuts out what it needs without intermediate copies.

    Args:
        x: the shard.
        received, halos: as for `assemble`.
        paddings: the numbers of elements below and above along axes without a halo.
        fill: the value of these elements.
        in_place: whether halos may be written into a padded copy of a large shard.
    """
    around = {**(paddings or {}), **{halo.axis: (halo.before, halo.after) for halo in halos}}
    around = {axis: widths for axis, widths in around.items() if any(widths)}
    if not paddings and len(around) < 2:
        return assemble(x, received, halos)
    widths = [around.get(axis, (0, 0)) for axis in range(x.shape.rank)]
    core = [before for before, _ in widths]
    others = around.keys() - {halo.axis for halo in halos}

    @custom_gradient
    def put_together(x: tf.Tensor, *received: tf.Tensor):
        if others and in_place and math.prod(static_sizes(x.shape)) >= LARGE:
            y = _written_around(x, received, halos, widths, fill)
        else:
            y = assemble(x, received, halos)
            outer = [widths[axis] if axis in others else (0, 0) for axis in range(x.shape.rank)]
            y = tf.pad(y, outer, constant_values=scalar(fill, x.dtype)) if others else y
        places = []
        for number, halo in enumerate(halos):
            # A halo spans the halos of earlier axes, but only the shard along later axes.
            done = {h.axis for h in halos[: number + 1]}
            begin = [0 if axis in done and axis not in others else core[axis] for axis in range(x.shape.rank)]
            for start in (0, halo.before + static_sizes(x.shape)[halo.axis]):
                places.append([start if axis == halo.axis else b for axis, b in enumerate(begin)])

        def gradient(dy: tf.Tensor):
            dx = tf.slice(dy, core, static_sizes(x.shape))
            dreceived = [tf.slice(dy, place, static_sizes(m.shape)) for place, m in zip(places, received, strict=True)]
            return [dx, *dreceived]

        return y, gradient

    return put_together(x, *received)


@_scoped
def _written_around(
    x: tf.Tensor, received: Sequence[tf.Tensor], halos: Sequence[Halo], widths: Sequence[tuple[int, int]], fill: float
) -> tf.Tensor:
    """A shard with its halos and padding around it, in one copy of the shard instead of one for each axis."""
    value = scalar(fill, x.dtype)
    y = tf.pad(x, widths, constant_values=value)
    for number, halo in enumerate(halos):
        # A halo spans the halos of earlier axes. What it lacks along later axes is written afterwards.
        done = {h.axis for h in halos[: number + 1]}
        lacking = [(0, 0) if axis in done else pair for axis, pair in enumerate(widths)]
        above = halo.before + static_sizes(x.shape)[halo.axis]
        for rows, start in zip(received[2 * number :][:2], (0, above), strict=True):
            places = [start + i for i in range(static_sizes(rows.shape)[halo.axis])]
            if places:
                rows = tf.pad(rows, lacking, constant_values=value)
                y = _write(tf.raw_ops.InplaceUpdate, halo.axis, places, y, rows)
    return y


@_scoped
def _own_memory(x: tf.Tensor) -> tf.Tensor:
    """The tensor itself if nothing else can read it, or else a copy."""
    return tf.raw_ops.Snapshot(input=x)


@_scoped
def _write(operation: Callable[..., tf.Tensor], axis: int, places: Sequence[int], x: tf.Tensor, rows: tf.Tensor):
    """Add or write rows at places along one axis of `x`, in the memory of `x`.

    Args:
        operation: `tf.raw_ops.InplaceAdd` or `tf.raw_ops.InplaceUpdate`.
        axis: the axis.
        places: the place along the axis of each row.
        x: a tensor that nothing else reads.
        rows: the rows, in the shape of `x` with as many elements along the axis as there are places.
    """
    sizes = static_sizes(x.shape)
    lead, rest = math.prod(sizes[:axis]), math.prod(sizes[axis + 1 :])
    index = (np.arange(lead)[:, None] * sizes[axis] + np.asarray(places)).reshape(-1).astype("int32")
    flat = tf.reshape(x, [lead * sizes[axis], rest])
    return tf.reshape(operation(x=flat, i=tf.constant(index), v=tf.reshape(rows, [len(index), rest])), sizes)


def take(x: tf.Tensor, axis: int, start: int, width: int) -> tf.Tensor:
    """`width` elements of `x` from `start` on along one axis; `x` itself if that is all of it."""
    if start == 0 and x.shape[axis] == width:
        return x
    begin = [0] * x.shape.rank
    size = [-1] * x.shape.rank
    begin[axis], size[axis] = start, width
    return tf.slice(x, begin, size)


def _hops(width: int, length: int) -> list[tuple[int, int]]:
    """Split a halo into `(distance of the neighbour, elements taken from it)`, nearest first."""
    return [(hop + 1, min(length, width - hop * length)) for hop in range(-(-width // length))]


def _ranges(halo: Halo, length: int) -> list[tuple[int, int]]:
    """What a shard sends along one axis, as `(start, width)`: for each hop up the mesh, then for each hop down."""
    up = [(length - width, width) for _, width in _hops(halo.before, length)]
    down = [(0, width) for _, width in _hops(halo.after, length)]
    return up + down


# Many layers of a network have the same halos, so the functions for them are traced once.


@functools.cache
def _strips_to_send(earlier: tuple[Halo, ...], halo: Halo, length: int) -> SharedFunction:
    """A function from a shard and its earlier halos to the strips that its neighbours need, corners included."""

    @_scoped
    def cut(x: tf.Tensor, *received: tf.Tensor) -> tuple[tf.Tensor, ...]:
        strips = []
        for start, width in _ranges(halo, length):
            rows = [take(t, halo.axis, start, width) for t in (x, *received)]
            strips.append(assemble(rows[0], rows[1:], earlier))
        if not (halo.before and halo.after):
            whole = assemble(take(x, halo.axis, 0, 0), [take(t, halo.axis, 0, 0) for t in received], earlier)
            strips.append(whole)
        return tuple(strips)

    return SharedFunction(cut)


@functools.cache
def _add_returned(earlier: tuple[Halo, ...], halo: Halo, length: int) -> SharedFunction:
    """The adjoint of `_strips_to_send`: returned strips are added to the shard and its earlier halos."""
    ranges = _ranges(halo, length)

    @_scoped
    def add(dx: tf.Tensor, *others: tf.Tensor) -> tuple[tf.Tensor, ...]:
        tensors, strips = [dx, *others[: 2 * len(earlier)]], others[2 * len(earlier) :]
        for (start, _), strip in zip(ranges, strips, strict=True):
            for i, rows in enumerate(_disassemble(strip, [static_sizes(t.shape) for t in tensors[1:]], earlier)):
                tensors[i] = add_rows(tensors[i], rows, halo.axis, start)
        return tuple(tensors)

    return SharedFunction(add)


@functools.cache
def _add_to_halos(earlier: tuple[Halo, ...], halo: Halo, length: int) -> SharedFunction:
    """As `_add_returned`, but the strips that belong to the shard itself are not added yet; they come first, side by
    side.
    """
    ranges = _ranges(halo, length)

    @_scoped
    def add(*tensors: tf.Tensor) -> tuple[tf.Tensor, ...]:
        halos, strips = list(tensors[: 2 * len(earlier)]), tensors[2 * len(earlier) :]
        own = []
        for (start, _), strip in zip(ranges, strips, strict=True):
            rows, *others = _disassemble(strip, [static_sizes(t.shape) for t in halos], earlier)
            own.append(rows)
            halos = [add_rows(t, more, halo.axis, start) for t, more in zip(halos, others, strict=True)]
        return tf.concat(own, halo.axis), *halos

    return SharedFunction(add)


def _disassemble(strip: tf.Tensor, shapes: Sequence[list[int]], earlier: Sequence[Halo]) -> list[tf.Tensor]:
    """The inverse of `assemble`: the shard's own part, then that of each halo, whose shapes are given."""
    received: list[tf.Tensor] = []
    for number in reversed(range(len(earlier))):
        axis = earlier[number].axis
        below, above = shapes[2 * number][axis], shapes[2 * number + 1][axis]
        own = static_sizes(strip.shape)[axis] - below - above
        received = [take(strip, axis, 0, below), take(strip, axis, below + own, above), *received]
        strip = take(strip, axis, below, own)
    return [strip, *received]


def add_rows(x: tf.Tensor, rows: tf.Tensor, axis: int, start: int) -> tf.Tensor:
    """`x` with `rows` added at `start` along one axis. Adds in place where nothing else uses `x`."""
    if 0 in rows.shape.as_list():
        return x
    if rows.shape[axis] == x.shape[axis]:
        return x + rows
    return _write_rows(x, rows, axis, start, tf.tensor_scatter_nd_add)


def _write_rows(x: tf.Tensor, rows: tf.Tensor, axis: int, start: int, scatter: Callable[..., tf.Tensor]) -> tf.Tensor:
    width = static_sizes(rows.shape)[axis]
    lead, rest = math.prod(static_sizes(x.shape)[:axis]), static_sizes(x.shape)[axis:][1:]
    index = np.stack(np.meshgrid(np.arange(lead), np.arange(start, start + width), indexing="ij"), -1)
    flat = tf.reshape(x, [lead, x.shape[axis], *rest])
    return tf.reshape(scatter(flat, index, tf.reshape(rows, [lead, width, *rest])), x.shape)


def _joined(mesh_impl: mtf.MeshImpl, parts: list, axis: int, empty):
    if not parts:
        return empty
    if len(parts) == 1:
        return parts[0]
    return mesh_impl.slicewise(lambda *ts: tf.concat(ts, axis), *parts)


def _cut(mesh_impl: mtf.MeshImpl, x, axis: int, start: int, width: int, of: int):
    if width == of:
        return x
    return mesh_impl.slicewise(lambda t: take(t, axis, start, width), x)
