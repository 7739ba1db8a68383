"""Every public function of `keras.ops`, and of its namespace of images."""

import keras
import numpy as np
from conformance.table.operations_arrays import MOVING, PRODUCTS
from conformance.table.operations_pointwise import DOMAINS, POINTWISE
from conformance.table.operations_reducing import REDUCING
from conformance.table.operations_windows import IMAGE, WINDOWED
from conformance.table.statuses import Case, Equal, NotConcerned, Refused, Replicated, Status, not_concerned
from keras import ops as O


def _square(x):
    """A matrix for each case, far from singular and symmetric."""
    row = x[:, 0, :6, :]
    return O.matmul(row, O.transpose(row, (0, 2, 1))) + 3.0 * np.eye(6).astype(x.dtype)


def _line(x):
    return x[:, :, 0, 0]


LINEAR_ALGEBRA = "a decomposition of matrices needs them whole"
SPECTRUM = "a Fourier transform mixes all elements of an axis"
SORTED = "its result's shape or order depends on all elements together"


def _whole(reason: str, static: bool = False, /, **calls) -> dict[str, Replicated]:
    return {name: Replicated({"image": Case(call, static=static, often=False)}, reason) for name, call in calls.items()}


_MATRIX = np.array([[1.1, 0.2, -1.5, -0.1, 0.9, 1.2, 0.001, -0.002]] * 3, "float32")
_PLACES = np.random.default_rng(4).uniform(0, 18, size=(3, 5, 7)).astype("float32")
_CORNERS = np.array([[[0.0, 0.0], [0.0, 18.0], [20.0, 0.0], [20.0, 18.0]]] * 3, "float32")
PLACES = "any element may go to any place of its result"
POSITIONS = "reads any voxel for any other; the layers that do so have rules"


def _images(reason: str, **calls) -> dict[str, Replicated]:
    """TensorFlow computes some of these in float32, and has no float64 gradient of others."""
    return {
        f"image.{name}": Replicated({"image": Case(call, often=False, dtypes=("float32",))}, reason)
        for name, call in calls.items()
    }


MATRICES_AND_LISTS = (
    {
        # A small image, because Keras folds window after window.
        "fold": Replicated(
            {
                "image": Case(
                    lambda x: O.fold(O.unfold(O.transpose(x, (0, 3, 1, 2)), 3), (7, 6), 3), shape=(7, 6, 3), often=False
                )
            },
            PLACES,
        )
    }
    | _whole(
        PLACES,
        cdist=lambda x: O.cdist(x[:, 0], x[:, :, 0]),
        correlate=lambda x: O.correlate(x[0, :, 0, 0], x[0, 0, :5, 0]),
        diag=lambda x: O.diag(x[0, 0, :, 0]),
        diagflat=lambda x: O.diagflat(x[0, 0, :, 0]),
        extract_sequences=lambda x: O.extract_sequences(x[:, :, 0, 0], 6, 4),
        scatter=lambda x: O.scatter(np.array([[2], [0], [4]]), x[0, :3, 0, :], (6, 3)),
        scatter_update=lambda x: O.scatter_update(x[0], np.array([[2, 1], [20, 18]]), np.ones((2, 3), x.dtype)),
        searchsorted=lambda x: O.searchsorted(np.array([-1.0, 0.0, 1.5], x.dtype), x[0, 0, :, 0]),
        unfold=lambda x: O.unfold(O.transpose(x, (0, 3, 1, 2)), 3),
        unravel_index=lambda x: O.unravel_index(DOMAINS["counts"](x), (3, 3)),
        vander=lambda x: O.vander(x[0, 0, :, 0], 3),
    )
    | _images(
        POSITIONS,
        affine_transform=lambda x: O.image.affine_transform(x, _MATRIX),
        elastic_transform=lambda x: O.image.elastic_transform(x, seed=3),
        map_coordinates=lambda x: O.image.map_coordinates(x[0], _PLACES, order=1),
        perspective_transform=lambda x: O.image.perspective_transform(x, _CORNERS, _CORNERS * 0.9 + 1.0),
        scale_and_translate=lambda x: O.image.scale_and_translate(
            x, (3, 11, 9, 3), np.array([0.5, 0.5], "float32"), np.zeros(2, "float32"), (1, 2), "linear"
        ),
    )
    | _images(
        "makes cases of channels, and its batch is another one",
        ssim=lambda x: O.image.ssim(O.sigmoid(x), O.sigmoid(x * 1.1), filter_size=5),
    )
    | {
        "in_top_k": Replicated(
            {
                "cases": Case(
                    lambda x: O.in_top_k(O.cast(x[:, 0, 0, 0] > 0, "int32"), x[:, 1, 1], 1),
                    often=False,
                    dtypes=("float32",),
                )
            },
            "looks for the places of classes among the largest",
        )
    }
)

# Keras computes these only outside TensorFlow's graphs, or their sizes depend on values.
EAGER = "Keras's own code for it does not run in a TensorFlow graph, replicated or not"
ONLY_REFUSED = {
    name: Refused(Case(call), reason)
    for name, call, reason in (
        ("corrcoef", lambda x: O.corrcoef(x[0, 0]), EAGER),
        ("kron", lambda x: O.kron(x[0, 0], x[0, 1, :2]), EAGER),
        ("associative_scan", lambda x: O.associative_scan(lambda a, b: a + b, x, axis=1), EAGER),
        (
            "bincount",
            lambda x: O.bincount(DOMAINS["counts"](x[:, 0, :, 0]), minlength=9),
            "values decide on its size",
        ),
        (
            "slice_update",
            lambda x: O.slice_update(x, (0, 2, 3, 0), x[:, :5, :4] * 2.0),
            "TensorFlow has no gradient of it",
        ),
    )
}

REPLICATED = ONLY_REFUSED | (
    MATRICES_AND_LISTS
    | _whole(
        LINEAR_ALGEBRA,
        cholesky=lambda x: O.cholesky(_square(x)),
        cholesky_inverse=lambda x: O.cholesky_inverse(O.cholesky(_square(x))),
        det=lambda x: O.det(_square(x)),
        eigh=lambda x: O.eigh(_square(x))[0],
        inv=lambda x: O.inv(_square(x)),
        logdet=lambda x: O.logdet(_square(x)),
        lstsq=lambda x: O.lstsq(_square(x)[0], x[0, 0, :6, :]),
        matrix_rank=lambda x: O.matrix_rank(_square(x)),
        pinv=lambda x: O.pinv(_square(x)),
        qr=lambda x: O.qr(_square(x))[1],
        slogdet=lambda x: O.slogdet(_square(x)),
        solve=lambda x: O.solve(_square(x), x[:, 0, :6, :]),
        solve_triangular=lambda x: O.solve_triangular(O.cholesky(_square(x)), x[:, 0, :6, :], lower=True),
        svd=lambda x: O.svd(_square(x), compute_uv=False),
    )
    | _whole(
        SPECTRUM,
        fft=lambda x: O.fft((_line(x), _line(x) * 0.5)),
        fft2=lambda x: O.fft2((x[..., 0], x[..., 1])),
        ifft2=lambda x: O.ifft2((x[..., 0], x[..., 1])),
        irfft=lambda x: O.irfft((_line(x), _line(x) * 0.5)),
        rfft=lambda x: O.rfft(_line(x)),
        stft=lambda x: O.stft(_line(x), 8, 4, 8),
        istft=lambda x: O.istft(O.stft(_line(x), 8, 4, 8), 8, 4, 8),
    )
    | _whole(
        SORTED,
        True,
        segment_max=lambda x: O.segment_max(x[0, :6, 0], np.array([0, 0, 1, 1, 2, 2]), num_segments=3),
        segment_min=lambda x: O.segment_min(x[0, :6, 0], np.array([0, 0, 1, 1, 2, 2]), num_segments=3),
        segment_prod=lambda x: O.segment_prod(x[0, :6, 0], np.array([0, 0, 1, 1, 2, 2]), num_segments=3),
        segment_sum=lambda x: O.segment_sum(x[0, :6, 0], np.array([0, 0, 1, 1, 2, 2]), num_segments=3),
        ctc_decode=lambda x: O.ctc_decode(x[:, :, 0], np.array([21, 21, 21]))[1],
        ctc_loss=lambda x: O.ctc_loss(
            np.array([[1, 2], [2, 1], [1, 1]]), x[:, :, 0], np.array([2, 2, 2]), np.array([21, 21, 21])
        ),
    )
    | _whole(
        "what it runs over the elements is not seen by the walk over the model",
        True,
        fori_loop=lambda x: O.fori_loop(0, 3, lambda i, v: v * 0.5 + 1.0, x),
        map=lambda x: O.map(lambda v: O.sum(v) * v, x),
        switch=lambda x: O.switch(1, [lambda v: v * 2.0, lambda v: v - 1.0], x),
        vectorized_map=lambda x: O.vectorized_map(lambda v: O.sum(v) * v, x),
        while_loop=lambda x: O.while_loop(lambda v: O.sum(O.abs(v)) > 9.0, lambda v: (v * 0.5,), (x,))[0],
    )
)


class Rows(keras.layers.Layer):
    """Images as one long row, by the sizes that they have when the layer is called."""

    def call(self, x):
        return O.reshape(x, (O.shape(x)[0], O.shape(x)[1] * O.shape(x)[2], 3))


SHAPES = {
    "shape": Equal({"in-a-layer": Case(lambda x: Rows()(x))}),
    "convert_to_tensor": Equal({"image": Case(lambda x: O.convert_to_tensor(x) * 2.0)}),
    "array": Equal({"image": Case(lambda x: O.array(x) * 2.0)}),
}

NOT_CONCERNED = (
    not_concerned(
        "makes a tensor of no image: a model meets it as an array, which binary operations are compared with",
        """arange bartlett blackman empty eye full geomspace hamming hanning identity kaiser linspace logspace ones tri
        zeros""",
    )
    | not_concerned("tells something of a tensor, and computes nothing", "dtype is_tensor ndim size")
    | not_concerned(
        "is for concrete tensors alone: Keras itself refuses it in a model", "convert_to_numpy nonzero unique eig"
    )
    | {
        "lu_factor": NotConcerned(
            "TensorFlow has no gradient of it", Case(lambda x: O.lu_factor(_square(x)[0])[0], static=True)
        ),
        "cond": NotConcerned(
            "Keras makes no functional model of it: its branches hold tensors that it does not see",
            Case(lambda x: O.cond(O.sum(x) > 0, lambda: x * 2.0, lambda: x - 1.0), static=True),
        ),
        "scan": NotConcerned(
            "Keras fails at it with tensors of a model",
            Case(lambda x: O.scan(lambda c, v: (c + v, c * v), x[0] * 0.0, x)[1], static=True),
        ),
        "histogram": NotConcerned(
            "Keras has it for other backends alone", Case(lambda x: O.histogram(x[0, 0, :, 0], bins=5))
        ),
        "view_as_complex": NotConcerned(
            "Keras fails at it on TensorFlow", Case(lambda x: O.imag(O.view_as_complex(x[..., :2])))
        ),
    }
    | not_concerned("leaves memory as it is: its values are undefined", "empty_like")
    | not_concerned("wraps a function, and does nothing in a model by itself", "custom_gradient vectorize jvp")
)

OPERATIONS: dict[str, Status] = {
    **POINTWISE,
    **REDUCING,
    **MOVING,
    **PRODUCTS,
    **WINDOWED,
    **IMAGE,
    **REPLICATED,
    **SHAPES,
    **NOT_CONCERNED,
}

__all__ = ["DOMAINS", "OPERATIONS"]
