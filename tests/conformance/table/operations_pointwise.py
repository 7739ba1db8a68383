"""`keras.ops` that compute each element independently."""

import numpy as np
from conformance.table.statuses import Case, Equal, Refused
from keras import ops as O

DOMAINS = {
    "any": lambda x: x,
    "nonzero": lambda x: O.where(O.abs(x) < 0.1, x + 0.3, x),
    "positive": lambda x: O.abs(x) + 0.1,
    "unit": lambda x: 0.9 * O.tanh(x),
    "above-one": lambda x: O.abs(x) + 1.1,
    "integers": lambda x: O.cast(O.floor(O.clip(3.0 * x, -8.0, 8.0)), "int32"),
    "counts": lambda x: O.cast(O.floor(O.clip(O.abs(3.0 * x), 1.0, 8.0)), "int32"),
    "booleans": lambda x: x > 0.1,
    "with-nan": lambda x: O.where(x > 1.5, float("nan"), O.where(x < -1.5, float("inf"), x)),
}

UNARY = {
    "any": """abs absolute angle arctan arcsinh ceil celu conj conjugate copy cos cosh deg2rad elu erf erfc exp exp2
        expm1 fabs floor gelu hard_shrink hard_sigmoid hard_silu hard_tanh i0 imag isreal leaky_relu log_sigmoid
        negative ones_like rad2deg real relu relu6 round selu sigmoid sign signbit silu sin sinc sinh soft_shrink
        softplus softsign sparse_plus sparse_sigmoid square squareplus stop_gradient tan tanh tanh_shrink trunc
        zeros_like""",
    "nonzero": "cbrt reciprocal",
    "positive": "log log10 log1p log2 rsqrt sqrt",
    "unit": "arccos arcsin arctanh erfinv",
    "above-one": "arccosh",
    "integers": "bitwise_invert bitwise_not",
    "booleans": "logical_not",
    "with-nan": "isfinite isinf isnan isneginf isposinf nan_to_num",
}

BINARY = {
    ("any", "any"): """add arctan2 equal fmax fmin greater greater_equal heaviside hypot isclose less less_equal
        logaddexp logaddexp2 maximum minimum multiply nextafter not_equal subtract""",
    ("any", "nonzero"): "divide divide_no_nan floor_divide mod true_divide",
    ("any", "positive"): "fmod",
    ("positive", "any"): "power",
    ("any", "counts"): "ldexp",
    ("booleans", "any"): "logical_and logical_or logical_xor",
    ("integers", "counts"): """bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor gcd lcm
        left_shift right_shift""",
}


def _unary(name: str, domain: str) -> Case:
    return Case(lambda x: getattr(O, name)(DOMAINS[domain](x)), often=False)


def _binary(name: str, first: str, second: str) -> dict[str, Case]:
    """A binary operation with an image, with a row of it and with an array."""
    function = getattr(O, name)
    array = np.random.default_rng(3).normal(size=(19, 1))

    def with_array(x):
        other = DOMAINS[second](O.cast(O.convert_to_tensor(array), x.dtype))
        return function(DOMAINS[first](x), other)

    return {
        "images": Case(lambda x: function(DOMAINS[first](x), DOMAINS[second](0.7 - O.flip(x, -1))), often=False),
        "row": Case(lambda x: function(DOMAINS[first](x), DOMAINS[second](0.3 - x[:, :1])), often=False),
        "array": Case(with_array, often=False),
    }


COMPLEX = "complex numbers have no gradients on a mesh: keep real and imaginary parts as channels"

POINTWISE = {
    name: Equal({"image": _unary(name, domain)}) for domain, names in UNARY.items() for name in names.split()
} | {name: Equal(_binary(name, first, second)) for (first, second), names in BINARY.items() for name in names.split()}

POINTWISE |= {
    "cast": Equal(
        {
            "integers": Case(lambda x: O.cast(3.0 * x, "int32")),
            "half": Case(lambda x: O.cast(O.cast(x, "float16"), x.dtype)),
        }
    ),
    "clip": Equal({"numbers": Case(lambda x: O.clip(x, -0.5, 0.5))}),
    "digitize": Equal({"bins": Case(lambda x: O.digitize(x, np.array([-1.0, 0.0, 1.5])))}),
    "full_like": Equal({"number": Case(lambda x: O.full_like(x, 2.5))}),
    "isin": Equal({"integers": Case(lambda x: O.isin(DOMAINS["integers"](x), np.array([1, 2, -3])))}),
    "saturate_cast": Equal({"bytes": Case(lambda x: O.saturate_cast(200.0 * x, "uint8"))}),
    "select": Equal({"three": Case(lambda x: O.select([x > 1.0, x < -1.0], [x * 2.0, -x], 0.5))}),
    "threshold": Equal({"numbers": Case(lambda x: O.threshold(x, 0.3, -1.0))}),
    "where": Equal(
        {
            "images": Case(lambda x: O.where(x > 0, O.sin(x), O.tanh(x))),
            "row": Case(lambda x: O.where(x[:, :, :1] > 0, x, 0.5)),
        }
    ),
    "one_hot": Equal({"channels": Case(lambda x: O.one_hot(DOMAINS["counts"](x[..., 0]), 9))}),
    "multi_hot": Equal({"lists": Case(lambda x: O.multi_hot(DOMAINS["counts"](x[:, 0, :, 0]), 9))}),
    "polar": Refused(Case(lambda x: O.real(O.polar(O.abs(x), x))), COMPLEX, "complex"),
    "view_as_real": Refused(Case(lambda x: O.view_as_real(O.polar(O.abs(x), x))), COMPLEX, "complex"),
    "view": Equal({"integers": Case(lambda x: O.view(O.cast(x, "float32"), "int32"))}),
}
