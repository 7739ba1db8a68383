"""`keras.ops` that reduce axes, or compute along one."""

import numpy as np
from conformance.table.operations_pointwise import DOMAINS
from conformance.table.statuses import Case, Equal
from keras import ops as O


def _reductions(name: str, domain: str = "any", keepdims: bool = True) -> Equal:
    """Reductions over a sharded axis, the image, the channels and everything."""
    function, of = getattr(O, name), DOMAINS[domain]
    cases = {
        "x": Case(lambda x: function(of(x), axis=1)),
        "image": Case(lambda x: function(of(x), axis=(1, 2))),
        "channels": Case(lambda x: function(of(x), axis=-1)),
        "everything": Case(lambda x: function(of(x))),
    }
    if keepdims:
        cases["kept"] = Case(lambda x: function(of(x), axis=2, keepdims=True))
    return Equal(cases)


def _with_holes(name: str) -> Equal:
    """Reductions over images in which some values are missing."""
    function = getattr(O, name)
    return Equal(
        {
            "x": Case(lambda x: function(O.where(x > 1.0, float("nan"), 0.5 * x), axis=1)),
            "image": Case(lambda x: function(O.where(x > 1.0, float("nan"), 0.1 * x), axis=(1, 2))),
        }
    )


def _places(name: str) -> Equal:
    function = getattr(O, name)
    return Equal(
        {
            "channels": Case(lambda x: function(x, axis=-1)),
            "x": Case(lambda x: function(x, axis=1)),
            "kept": Case(lambda x: function(x, axis=2, keepdims=True)),
        }
    )


def _along(name: str, *arguments) -> Equal:
    function = getattr(O, name)
    return Equal(
        {
            "channels": Case(lambda x: function(x, *arguments, axis=-1)),
            "x": Case(lambda x: function(x, *arguments, axis=1)),
        }
    )


def _quantiles(name: str, *arguments) -> Equal:
    """Quantiles of small images, because with missing values Keras computes one result after another."""
    function, small = getattr(O, name), (7, 6, 3)
    return Equal(
        {
            "channels": Case(lambda x: function(x, *arguments, axis=-1), shape=small),
            "image": Case(lambda x: function(x, *arguments, axis=(1, 2)), shape=small),
        }
    )


REDUCING = (
    {
        name: _reductions(name)
        for name in ["amax", "amin", "max", "mean", "min", "std", "sum", "var", "logsumexp", "ptp"]
    }
    | {name: _reductions(name, "unit") for name in ["prod"]}
    | {name: _reductions(name, "booleans") for name in ["all", "any"]}
    | {name: _reductions(name, "with-nan") for name in ["nanmax", "nanmin"]}
    | {name: _with_holes(name) for name in ["nanmean", "nanprod", "nanstd", "nansum", "nanvar"]}
    | {name: _places(name) for name in ["argmax", "argmin", "nanargmax", "nanargmin"]}
    | {
        name: _along(name)
        for name in ["argsort", "cumprod", "cumsum", "log_softmax", "nancumprod", "nancumsum", "softmax", "sort"]
    }
    | {"sparsemax": _along("sparsemax")}
    | {name: _quantiles(name) for name in ["median", "nanmedian"]}
    | {name: _quantiles(name, 0.3) for name in ["quantile", "nanquantile"]}
    | {name: _quantiles(name, 30.0) for name in ["percentile", "nanpercentile"]}
)

REDUCING |= {
    "argpartition": Equal({"row": Case(lambda x: O.argpartition(x[0, 0, :, 0], 4))}),
    "average": Equal(
        {
            "x": Case(lambda x: O.average(x, axis=1)),
            "weighted": Case(lambda x: O.average(x, axis=1, weights=O.abs(x) + 0.1)),
        }
    ),
    "count_nonzero": Equal(
        {"image": Case(lambda x: O.count_nonzero(O.relu(x), axis=(1, 2))), "x": Case(lambda x: O.count_nonzero(x, 1))}
    ),
    "cumsum": Equal(
        {"channels": Case(lambda x: O.cumsum(x, axis=-1)), "x": Case(lambda x: O.cumsum(x, axis=1))},
    ),
    "diff": Equal({"channels": Case(lambda x: O.diff(x)), "x": Case(lambda x: O.diff(x, axis=1))}),
    "glu": Equal({"channels": Case(lambda x: O.glu(O.concatenate([x, -x], -1)))}),
    "moments": Equal(
        {
            "image": Case(lambda x: O.moments(x, axes=[1, 2])),
            "kept": Case(lambda x: O.moments(x, axes=[0, 1], keepdims=True)),
        }
    ),
    "norm": Equal(
        {
            "channels": Case(lambda x: O.norm(x, axis=-1)),
            "image": Case(lambda x: O.norm(x, axis=(1, 2))),
            "one": Case(lambda x: O.norm(x, ord=1, axis=1)),
            "largest": Case(lambda x: O.norm(x, ord=np.inf, axis=1)),
        }
    ),
    "normalize": Equal({"channels": Case(lambda x: O.normalize(x)), "x": Case(lambda x: O.normalize(x, axis=1))}),
    "top_k": Equal({"channels": Case(lambda x: O.top_k(x, 2))}),
    "trapezoid": Equal({"x": Case(lambda x: O.trapezoid(x, axis=1)), "channels": Case(lambda x: O.trapezoid(x))}),
    "allclose": Equal({"images": Case(lambda x: O.allclose(x, x + 1e-9))}),
    "psnr": Equal({"images": Case(lambda x: O.psnr(x, O.tanh(x), max_val=2.0))}),
    "layer_normalization": Equal(
        {
            "channels": Case(lambda x: O.layer_normalization(x)),
            "x": Case(lambda x: O.layer_normalization(x, axis=1)),
        }
    ),
    "rms_normalization": Equal(
        {
            "channels": Case(lambda x: O.rms_normalization(x)),
            "scaled": Case(lambda x: O.rms_normalization(x, scale=np.array([0.5, 1.0, 2.0], x.dtype))),
            "x": Case(lambda x: O.rms_normalization(x, axis=1)),
        }
    ),
    "batch_normalization": Equal(
        {
            "arrays": Case(
                lambda x: O.batch_normalization(
                    x, np.array([0.1, 0.2, 0.3], x.dtype), np.array([1.0, 2.0, 0.5], x.dtype), axis=-1
                )
            ),
            "moments": Case(lambda x: O.batch_normalization(x, *O.moments(x, axes=[0, 1, 2]), axis=-1)),
        }
    ),
    "binary_crossentropy": Equal(
        {
            "probabilities": Case(lambda x: O.binary_crossentropy(O.sigmoid(-x), O.sigmoid(x))),
            "logits": Case(lambda x: O.binary_crossentropy(O.sigmoid(-x), x, from_logits=True)),
        }
    ),
    "categorical_crossentropy": Equal(
        {
            "probabilities": Case(lambda x: O.categorical_crossentropy(O.softmax(-x), O.softmax(x))),
            "logits": Case(lambda x: O.categorical_crossentropy(O.softmax(-x), x, from_logits=True)),
        }
    ),
    "sparse_categorical_crossentropy": Equal(
        {
            "probabilities": Case(lambda x: O.sparse_categorical_crossentropy(O.argmax(-x, -1), O.softmax(x))),
            "logits": Case(lambda x: O.sparse_categorical_crossentropy(O.argmax(-x, -1), x, from_logits=True)),
        }
    ),
}
