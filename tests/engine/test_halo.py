"""The halo exchange alone: what arrives, and that its adjoint is its transpose."""

import numpy as np
import pytest
import tensorflow as tf
from equality import split

from keras_spatial.engine import halo
from keras_spatial.engine.halo import Halo, assemble, exchange, exchange_adjoint, neighbourhood
from keras_spatial.engine.tensors import mesh_shape_of
from keras_spatial.layout import Axis
from keras_spatial.mesh_tensorflow import mtf

BLOCK = (3, 2)
CASES = [
    ("2x2", [(1, 1), (1, 1)]),
    ("4x2", [(2, 0), (0, 1)]),
    ("1x3", [(0, 0), (2, 1)]),
    ("3x3", [(4, 5), (3, 2)]),  # Wider than a shard: from two and three neighbours.
    ("2x4", [(7, 0), (0, 7)]),  # Beyond the edge of the mesh.
]


def laid_out(impl, value: np.ndarray, blocks: tuple[int, int]):
    axes = [
        Axis(name, size, count, size // count)
        for name, size, count in zip(("x", "y"), value.shape, blocks, strict=True)
    ]
    graph = mtf.Graph()
    tensor = mtf.Tensor(mtf.Operation([], mtf.Mesh(graph, "m"), name="o"), mesh_shape_of(axes), tf.float64)
    return impl.import_tf_tensor(tensor, tf.constant(value))


def halos_of(mesh: str, widths) -> tuple[tuple[int, int], list[Halo]]:
    rows, columns = (int(n) for n in mesh.split("x"))
    used = [Halo(i, i, *w) for i, w in enumerate(widths) if any(w)]
    return (rows, columns), used


@pytest.mark.parametrize(("mesh", "widths"), CASES)
def test_every_slice_receives_its_neighbourhood(mesh, widths):
    impl = split(mesh).runtime.mesh_impl()
    blocks, halos = halos_of(mesh, widths)
    whole = np.random.default_rng(0).normal(size=(blocks[0] * BLOCK[0], blocks[1] * BLOCK[1]))
    x = laid_out(impl, whole, blocks)
    received = [m.tensor_list for m in exchange(impl, x, halos)]
    padded = np.pad(whole, widths)
    for pnum, own in enumerate(x.tensor_list):
        row, column = divmod(pnum, blocks[1])
        seen = assemble(own, [m[pnum] for m in received], halos)
        begin = (row * BLOCK[0], column * BLOCK[1])
        end = [b + n + sum(w) for b, n, w in zip(begin, BLOCK, widths, strict=True)]
        np.testing.assert_array_equal(seen, padded[begin[0] : end[0], begin[1] : end[1]])


@pytest.mark.parametrize("large", [1, halo.LARGE], ids=["in-place", "small"])
@pytest.mark.parametrize(("mesh", "widths"), CASES)
def test_adjoint_is_the_transpose(mesh, widths, large, monkeypatch):
    """<E x, y> = <x, E' y> for random x and y, where E is the exchange."""
    monkeypatch.setattr(halo, "LARGE", large)
    impl = split(mesh).runtime.mesh_impl()
    blocks, halos = halos_of(mesh, widths)
    generator = np.random.default_rng(1)
    x = laid_out(impl, generator.normal(size=(blocks[0] * BLOCK[0], blocks[1] * BLOCK[1])), blocks)
    received = exchange(impl, x, halos)

    def random_like(t):
        return impl.LaidOutTensor([tf.constant(generator.normal(size=s.shape)) for s in t.tensor_list])

    def inner(a, b):
        return sum(float(tf.reduce_sum(s * t)) for s, t in zip(a.tensor_list, b.tensor_list, strict=True))

    dx, dreceived = random_like(x), [random_like(m) for m in received]
    forward = inner(x, dx) + sum(inner(m, d) for m, d in zip(received, dreceived, strict=True))
    backward = inner(x, exchange_adjoint(impl, dx, dreceived, halos))
    assert forward == pytest.approx(backward, rel=1e-12)
    # The arguments are not overwritten.
    again = inner(x, dx) + sum(inner(m, d) for m, d in zip(received, dreceived, strict=True))
    assert forward == again


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("fill", [0.0, -2.0])
@pytest.mark.parametrize("halos", [[Halo(1, 0, 1, 2), Halo(2, 1, 2, 1)], [Halo(2, 1, 0, 1)], [Halo(1, 0, 3, 0)]])
def test_a_large_shard_is_surrounded_in_one_copy(halos, fill, dtype, monkeypatch):
    generator = np.random.default_rng(2)
    x = tf.constant(generator.normal(size=(2, 4, 3, 5, 2)), dtype)
    received, around = [], list(x.shape)
    for one in halos:
        received += [
            tf.constant(generator.normal(size=[*around[: one.axis], n, *around[one.axis + 1 :]]), dtype)
            for n in (one.before, one.after)
        ]
        around[one.axis] += one.before + one.after
    given = (x, received, halos, {3: (1, 2)}, fill)
    before = x.numpy().copy()
    monkeypatch.setattr(halo, "LARGE", 1)
    found = tf.function(lambda: neighbourhood(*given, in_place=True))()
    np.testing.assert_array_equal(found, neighbourhood(*given))
    np.testing.assert_array_equal(x, before)


def test_nothing_is_sent_where_nothing_is_needed():
    impl = split("2x2").runtime.mesh_impl()
    x = laid_out(impl, np.zeros((6, 4)), (2, 2))
    assert exchange(impl, x, []) == []
    assert exchange_adjoint(impl, x, [], []) is x
