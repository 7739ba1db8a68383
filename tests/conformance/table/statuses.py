"""What the conformance table says of a name of Keras: one of four things, each of them checked or explained."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras

BATCH = 3  # Two cores share three cases: one of them has a case that does not count.
IMAGE_1D = (21, 3)
IMAGE_2D = (21, 19, 3)
IMAGE_3D = (9, 7, 5, 2)


@dataclass(frozen=True)
class Case:
    """A computation on an image, done by plain Keras and on meshes.

    Attributes:
        call: from the image, a Keras tensor, to an output or several.
        shape: the image's shape without the batch; no mesh of the tests divides its sizes.
        training: whether the model runs in training mode.
        precision: the largest difference in float64, relative to the largest entry. It is larger than 1e-9 only where
            Keras itself computes in float32.
        static: whether the model is made for one batch size, which some functions of Keras need.
        often: whether it runs on two meshes; in one case of many of the same rule one mesh does.
        dtypes: those that TensorFlow has the computation and its gradient for.
    """

    call: Callable[[Any], Any]
    shape: tuple[int, ...] = IMAGE_2D
    training: bool = False
    precision: float = 1e-9
    static: bool = False
    often: bool = True
    dtypes: tuple[str, ...] = ("float64", "float32")

    def model(self, dtype: str = "float32") -> keras.Model:
        """The computation after a pointwise layer, so that its input has a gradient that a weight sees.

        The layer has a bias: what lies beyond the image is not zero, and an operation that forgets to mask it fails.
        """
        keras.utils.set_random_seed(7)
        with floats(dtype):
            image = keras.Input(self.shape, batch_size=BATCH if self.static else None)
            bias = keras.initializers.RandomUniform(0.2, 0.5)
            x = keras.layers.Dense(self.shape[-1], bias_initializer=bias, name="before")(image)
            outputs = keras.tree.flatten(self.call(x))
            return keras.Model(image, [y if is_floating(y) else keras.ops.cast(y, dtype) for y in outputs] + [x])


@dataclass(frozen=True)
class Equal:
    """Partitioned, with the results of plain Keras in every case.

    Attributes:
        cases: what is compared.
        refused: arguments that are refused by name all the same.
        note: what the documentation adds.
    """

    cases: Mapping[str, Any]
    refused: Mapping[str, "Refused"] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Replicated:
    """Refused by name by `ks.partition`; with `unsupported="replicate"` run on whole tensors, with Keras's results."""

    cases: Mapping[str, Any]
    reason: str


@dataclass(frozen=True)
class Refused:
    """Refused by name by `ks.partition` or `compile`.

    Attributes:
        case: what is refused.
        reason: why, for the documentation.
        says: words that the error holds beside the name; a regular expression.
    """

    case: Any
    reason: str
    says: str = ""


@dataclass(frozen=True)
class NotConcerned:
    """Nothing that a partitioned model computes with.

    Attributes:
        reason: why.
        fails: what plain Keras itself fails at on TensorFlow, where that is the reason.
    """

    reason: str
    fails: Case | None = None


Status = Equal | Replicated | Refused | NotConcerned


def not_concerned(reason: str, names: str) -> dict[str, NotConcerned]:
    """The same reason for several names."""
    return {name: NotConcerned(reason) for name in names.split()}


def public_names(namespace: Any) -> dict[str, tuple[str, ...]]:
    """The public names of a namespace of Keras, each object once, with its other names.

    Submodules are namespaces of their own. Of an object with several names the first in the order of the alphabet
    stands for all, classes before functions.
    """
    by_object: dict[int, list[str]] = {}
    for name in sorted(vars(namespace)):
        value = getattr(namespace, name)
        if not (name.startswith("_") or inspect.ismodule(value)):
            by_object.setdefault(id(value), []).append(name)
    return {names[0]: tuple(names[1:]) for names in by_object.values()}


class floats:
    """Keras's default of floating-point numbers, within a `with` block."""

    def __init__(self, dtype: str):
        self.dtype = dtype

    def __enter__(self):
        self.before = keras.config.floatx(), keras.config.dtype_policy()
        keras.config.set_floatx(self.dtype)
        keras.config.set_dtype_policy(self.dtype)

    def __exit__(self, *_):
        floatx, policy = self.before
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)


def is_floating(tensor: Any) -> bool:
    return "float" in keras.backend.standardize_dtype(tensor.dtype)
