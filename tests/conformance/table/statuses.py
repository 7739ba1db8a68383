"""The four statuses that the conformance table gives to a name of Keras. Each status is checked or explained."""

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
        call: a function from the image, a Keras tensor, to one or more outputs.
        shape: the image's shape without the batch; no mesh of the tests divides its sizes.
        training: whether the model runs in training mode.
        precision: the largest difference in float64, relative to the largest entry. It is larger than 1e-9 only where
            Keras itself computes in float32.
        static: whether the model is made for one batch size, which some functions of Keras need.
        often: whether it runs on two meshes; if many cases have the same rule, one mesh is enough for each.
        dtypes: the dtypes for which TensorFlow has the computation and its gradient.
    """

    call: Callable[[Any], Any]
    shape: tuple[int, ...] = IMAGE_2D
    training: bool = False
    precision: float = 1e-9
    static: bool = False
    often: bool = True
    dtypes: tuple[str, ...] = ("float64", "float32")

    def model(self, dtype: str = "float32") -> keras.Model:
        """The computation after a pointwise layer, so that the gradient of its input reaches a weight.

        The layer has a bias: elements beyond the image are not zero, and an operation that does not mask them fails.
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
        cases: the cases that are compared.
        refused: arguments that are refused by name nevertheless.
        note: a remark for the documentation.
    """

    cases: Mapping[str, Any]
    refused: Mapping[str, "Refused"] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Replicated:
    """Refused by name by `ks.partition`; with `unsupported="replicate"` it runs on whole tensors, equal to Keras."""

    cases: Mapping[str, Any]
    reason: str


@dataclass(frozen=True)
class Refused:
    """Refused by name by `ks.partition` or `compile`.

    Attributes:
        case: the case that is refused.
        reason: why it is refused, for the documentation.
        says: a regular expression for the error, which also contains the name.
    """

    case: Any
    reason: str
    says: str = ""


@dataclass(frozen=True)
class NotConcerned:
    """A name that a partitioned model does not compute with.

    Attributes:
        reason: why not.
        fails: a computation at which plain Keras itself fails on TensorFlow, if that is the reason.
    """

    reason: str
    fails: Case | None = None


Status = Equal | Replicated | Refused | NotConcerned


def not_concerned(reason: str, names: str) -> dict[str, NotConcerned]:
    """The same reason for several names."""
    return {name: NotConcerned(reason) for name in names.split()}


def public_names(namespace: Any) -> dict[str, tuple[str, ...]]:
    """The public names of a namespace of Keras, each object once, with its other names.

    Submodules are separate namespaces. An object with several names is listed by the first one in alphabetical order,
    with classes before functions.
    """
    by_object: dict[int, list[str]] = {}
    for name in sorted(vars(namespace)):
        value = getattr(namespace, name)
        if not (name.startswith("_") or inspect.ismodule(value)):
            by_object.setdefault(id(value), []).append(name)
    return {names[0]: tuple(names[1:]) for names in by_object.values()}


class floats:
    """Set Keras's default floating-point dtype inside a `with` block."""

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
