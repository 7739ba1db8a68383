"""`keras.ops` that move elements, or multiply along named axes."""

import numpy as np
from conformance.table.operations_pointwise import DOMAINS
from conformance.table.statuses import BATCH, Case, Equal
from keras import ops as O

ARRAY = np.random.default_rng(0).normal(size=(21, 19, 3))


def _cases(**calls) -> Equal:
    return Equal({name.replace("_", "-"): Case(call) for name, call in calls.items()})


MOVING = {
    "append": _cases(x=lambda x: O.append(x, x * 2.0, axis=1), everything=lambda x: O.append(x[0, 0], x[0, 1])),
    "array_split": _cases(channels=lambda x: O.array_split(x, 2, axis=-1), x=lambda x: O.array_split(x, 4, axis=1)),
    "broadcast_to": _cases(row=lambda x: O.broadcast_to(x[:, :1], (BATCH, 21, 19, 3))),
    "concatenate": _cases(
        x=lambda x: O.concatenate([x, x * 2.0, x[:, :4]], axis=1),
        channels=lambda x: O.concatenate([x, O.relu(x)], axis=-1),
        other_shards=lambda x: O.concatenate([x[:, 1::2], O.flip(x, 1)[:, ::2][:, :10]], axis=-1),
        array=lambda x: O.concatenate([x, np.ones((BATCH, 21, 2, 3), x.dtype)], axis=2),
    ),
    "diagonal": _cases(image=lambda x: O.diagonal(x, 1, 1, 2), channels=lambda x: O.diagonal(x, 0, 2, 3)),
    "dsplit": _cases(image=lambda x: O.dsplit(x, [5, 12])),
    "dstack": _cases(images=lambda x: O.dstack([x, -x])),
    "expand_dims": _cases(x=lambda x: O.expand_dims(x, 1), end=lambda x: O.expand_dims(x, -1)),
    "flip": _cases(x=lambda x: O.flip(x, axis=1), everything=lambda x: O.flip(x)),
    "fliplr": _cases(image=lambda x: O.fliplr(x)),
    "flipud": _cases(image=lambda x: O.flipud(x)),
    "get_item": _cases(
        slices=lambda x: x[:, 2:-3, ::2, :],
        one=lambda x: x[:, 3, :, None, 1:],
        ellipsis=lambda x: x[..., 0],
        backwards=lambda x: x[:, ::-1, ::-2],
        function=lambda x: O.get_item(x, (slice(None), 4)),
    ),
    "hsplit": _cases(image=lambda x: O.hsplit(x, [5, 12])),
    "hstack": _cases(images=lambda x: O.hstack([x, -x])),
    "meshgrid": _cases(rows=lambda x: O.meshgrid(x[0, :, 0, 0], x[0, 0, :, 0])),
    "moveaxis": _cases(channels=lambda x: O.moveaxis(x, 1, -1), image=lambda x: O.moveaxis(x, 1, 2)),
    "pad": _cases(
        zeros=lambda x: O.pad(x, [[0, 0], [1, 2], [0, 3], [0, 0]]),
        value=lambda x: O.pad(x, [[0, 0], [1, 2], [0, 3], [1, 0]], constant_values=2.0),
        reflect=lambda x: O.pad(x, [[0, 0], [1, 2], [3, 0], [0, 0]], mode="reflect"),
        symmetric=lambda x: O.pad(x, [[0, 0], [4, 2], [3, 0], [0, 0]], mode="symmetric"),
    ),
    "ravel": _cases(image=lambda x: O.ravel(x)),
    "rearrange": Equal(
        {
            "permuted": Case(lambda x: O.rearrange(x, "b h w c -> b w h c"), static=True),
            "joined": Case(lambda x: O.rearrange(x, "b h w c -> b (h w) c"), static=True),
            "windows": Case(
                lambda x: O.rearrange(x[:, :20, :18], "b (h p) (w q) c -> b h w (p q c)", p=2, q=2), static=True
            ),
        }
    ),
    "repeat": _cases(x=lambda x: O.repeat(x, 2, axis=1), channels=lambda x: O.repeat(x, 3, axis=-1)),
    "reshape": _cases(
        joined=lambda x: O.reshape(x, (-1, 21 * 19, 3)),
        batch=lambda x: O.reshape(x, (-1, 3)),
        channels=lambda x: O.reshape(x, (-1, 21, 19, 1, 3)),
        windows=lambda x: O.reshape(x[:, :20, :18], (-1, 10, 2, 9, 2, 3)),
    ),
    "roll": _cases(
        x=lambda x: O.roll(x, 3, axis=1),
        both=lambda x: O.roll(x, (3, -2), axis=(1, 2)),
        everything=lambda x: O.roll(x[:1, :1], 2),
    ),
    "rot90": _cases(image=lambda x: O.rot90(x, axes=(1, 2)), thrice=lambda x: O.rot90(x, 3, axes=(1, 2))),
    "slice": Equal({"image": Case(lambda x: O.slice(x, (0, 2, 3, 0), (BATCH, 10, 7, 3)), static=True)}),
    "split": _cases(
        channels=lambda x: O.split(x, 3, axis=-1),
        x=lambda x: O.split(x, [5, 12], axis=1),
    ),
    "squeeze": _cases(x=lambda x: O.squeeze(x[:, 4:5], 1), all=lambda x: O.squeeze(x[:, 4:5, :, :1])),
    "stack": _cases(x=lambda x: O.stack([x, -x], axis=1), channels=lambda x: O.stack([x, -x], axis=-1)),
    "swapaxes": _cases(image=lambda x: O.swapaxes(x, 1, 2), added=lambda x: x[:, :19] + O.swapaxes(x[:, :19], 1, 2)),
    "take": _cases(
        x=lambda x: O.take(x, [3, 0, 20], axis=1),
        channels=lambda x: O.take(x, np.array([2, 0]), axis=-1),
        one=lambda x: O.take(x, 4, axis=2),
        square=lambda x: O.take(x, np.array([[2, 0], [1, 1]]), axis=1),
    ),
    "take_along_axis": _cases(
        channels=lambda x: O.take_along_axis(x, O.argsort(-x, axis=-1), axis=-1),
        x=lambda x: O.take_along_axis(x, DOMAINS["counts"](x), axis=1),
    ),
    "tile": _cases(x=lambda x: O.tile(x, [1, 2, 1, 1]), channels=lambda x: O.tile(x, 2)),
    "transpose": _cases(channels=lambda x: O.transpose(x, (0, 2, 3, 1)), reversed=lambda x: O.transpose(x)),
    "tril": _cases(image=lambda x: O.tril(O.transpose(x, (0, 3, 1, 2))), channels=lambda x: O.tril(x, 1)),
    "triu": _cases(image=lambda x: O.triu(O.transpose(x, (0, 3, 1, 2)), -1), channels=lambda x: O.triu(x)),
    "unstack": _cases(channels=lambda x: O.unstack(x, axis=-1), x=lambda x: O.unstack(x[:, :3], axis=1)),
    "vsplit": _cases(batch=lambda x: O.vsplit(O.concatenate([x, x], 0), 2)),
    "vstack": _cases(images=lambda x: O.vstack([x, -x])),
}

PRODUCTS = {
    "cross": _cases(channels=lambda x: O.cross(x, O.roll(x, 1, axis=1))),
    "dot": _cases(
        array=lambda x: O.dot(x, ARRAY[0, :3].astype(x.dtype)), vectors=lambda x: O.dot(x[0, 0, :, 0], x[0, 1, :, 0])
    ),
    "dot_product_attention": _cases(
        voxels=lambda x: O.dot_product_attention(*[O.reshape(y, (-1, 21 * 19, 1, 3)) for y in (x, x * 2.0, O.tanh(x))]),
        rows=lambda x: O.dot_product_attention(x, O.tanh(x), x),
        causal=lambda x: O.dot_product_attention(x, x, x, is_causal=True),
        mask=lambda x: O.dot_product_attention(x, x, x, mask=np.tril(np.ones((1, 1, 21, 21), bool))),
    ),
    "einsum": _cases(
        attention=lambda x: O.einsum("bqyc,bkyc->bqky", x, x),
        sum=lambda x: O.einsum("bxyc,bxyd->bcd", x, O.relu(x)),
        implicit=lambda x: O.einsum("bxyc,cd", x, ARRAY[0, :3].astype(x.dtype)),
    ),
    "inner": _cases(vectors=lambda x: O.inner(x[0, 0, :, 0], x[0, 1, :, 0]), images=lambda x: O.inner(x[0], x[1])),
    "matmul": _cases(
        array=lambda x: O.matmul(x, ARRAY[0, :3].astype(x.dtype)),
        image=lambda x: O.matmul(x, O.transpose(x, (0, 1, 3, 2))),
        vector=lambda x: O.matmul(x, ARRAY[0, 0].astype(x.dtype)),
    ),
    "outer": _cases(rows=lambda x: O.outer(x[0, 0, :, 0], x[0, :, 0, 0])),
    "tensordot": _cases(
        one=lambda x: O.tensordot(x, O.tanh(x[0]), axes=[[1, 2], [0, 1]]),
        channels=lambda x: O.tensordot(x, ARRAY[0, :3].astype(x.dtype), axes=1),
    ),
    "trace": _cases(image=lambda x: O.trace(x, 0, 1, 2)),
    "vdot": _cases(images=lambda x: O.vdot(x, O.tanh(x))),
}
