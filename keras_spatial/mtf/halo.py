"""Halo exchange: every slice receives the margins of its neighbours, and gives margins back in the backward pass."""

from dataclasses import dataclass

import tensorflow as tf

from keras_spatial.mtf.compatibility import mtf


@dataclass(frozen=True)
class Halo:
    """How many elements of its neighbours a slice needs along one split axis of a tensor.

    Attributes:
        axis: the tensor's axis, such as 1 for the first image axis.
        mesh_axis: the mesh axis over which it is split.
        before: elements needed below the slice's own.
        after: elements needed above the slice's own.
    """

    axis: int
    mesh_axis: int
    before: int
    after: int


def exchange(mesh_impl: mtf.MeshImpl, x, halo: Halo):
    """Every slice with its neighbours' margins on both sides; zeros beyond the mesh's edge.

    A halo wider than a slice takes from as many neighbours as needed. Exchanged axis after axis, the corners come from
    the diagonal neighbours without messages of their own.

    Args:
        mesh_impl: the mesh implementation.
        x: a laid-out tensor.
        halo: the axis and the widths.

    Returns:
        A laid-out tensor whose slices are `before + after` longer along the axis.
    """
    if halo.before == 0 and halo.after == 0:
        return x
    length = x.to_laid_out_tensor().slice_shape[halo.axis]
    below = [
        mesh_impl.shift_by_n_processors(
            _ends(mesh_impl, x, halo.axis, width, last=True), halo.mesh_axis, hop, wrap=False
        )
        for hop, width in reversed(_hops(halo.before, length))
    ]
    above = [
        mesh_impl.shift_by_n_processors(
            _ends(mesh_impl, x, halo.axis, width, last=False), halo.mesh_axis, -hop, wrap=False
        )
        for hop, width in _hops(halo.after, length)
    ]
    return mesh_impl.slicewise(lambda *parts: tf.concat(parts, halo.axis), *below, x, *above)


def exchange_adjoint(mesh_impl: mtf.MeshImpl, dy, halo: Halo):
    """The transpose of `exchange`: margins go back to the slices they came from, and are added there.

    Args:
        mesh_impl: the mesh implementation.
        dy: a laid-out tensor with slices of the shape that `exchange` returns.
        halo: as given to `exchange`.

    Returns:
        A laid-out tensor whose slices have their own length again.
    """
    if halo.before == 0 and halo.after == 0:
        return dy
    length = dy.to_laid_out_tensor().slice_shape[halo.axis] - halo.before - halo.after
    own = _range(mesh_impl, dy, halo.axis, halo.before, length)
    start = halo.before
    for hop, width in _hops(halo.before, length):
        start -= width
        margin = _range(mesh_impl, dy, halo.axis, start, width)
        returned = mesh_impl.shift_by_n_processors(margin, halo.mesh_axis, -hop, wrap=False)
        own = mesh_impl.slicewise(lambda a, b: _add_at(a, b, halo.axis, last=True), own, returned)
    start = halo.before + length
    for hop, width in _hops(halo.after, length):
        margin = _range(mesh_impl, dy, halo.axis, start, width)
        returned = mesh_impl.shift_by_n_processors(margin, halo.mesh_axis, hop, wrap=False)
        own = mesh_impl.slicewise(lambda a, b: _add_at(a, b, halo.axis, last=False), own, returned)
        start += width
    return own


def _hops(width: int, length: int) -> list[tuple[int, int]]:
    """A margin as `(distance of the neighbour, elements taken from it)`, nearest first."""
    return [(hop + 1, min(length, width - hop * length)) for hop in range(-(-width // length))]


def _ends(mesh_impl: mtf.MeshImpl, x, axis: int, width: int, *, last: bool):
    length = x.to_laid_out_tensor().slice_shape[axis]
    return _range(mesh_impl, x, axis, length - width if last else 0, width)


def _range(mesh_impl: mtf.MeshImpl, x, axis: int, start: int, width: int):
    return mesh_impl.slicewise(lambda t: take(t, axis, start, width), x)


def take(x: tf.Tensor, axis: int, start: int, width: int) -> tf.Tensor:
    """`width` elements of `x` from `start` on along one axis; `x` itself where that is all of it."""
    if start == 0 and x.shape[axis] == width:
        return x
    begin = [0] * x.shape.rank
    size = [-1] * x.shape.rank
    begin[axis], size[axis] = start, width
    return tf.slice(x, begin, size)


def _add_at(x: tf.Tensor, margin: tf.Tensor, axis: int, *, last: bool) -> tf.Tensor:
    """`x` with `margin` added to its first or last elements along one axis."""
    length, width = x.shape[axis], margin.shape[axis]
    if width == length:
        return x + margin
    if last:
        parts = [take(x, axis, 0, length - width), take(x, axis, length - width, width) + margin]
    else:
        parts = [take(x, axis, 0, width) + margin, take(x, axis, width, length - width)]
    return tf.concat(parts, axis)
