"""The rows of the tables of networks that somebody else wrote."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras


@dataclass(frozen=True)
class Network:
    """A network that is compared with plain Keras.

    Attributes:
        make: a function that builds it with random weights, at a small size.
        mesh: the mesh over which its image is sharded, as for `equality.split`.
        training: whether the two are compared in training mode, in which batch normalization uses the statistics of the
            batch. Networks that draw random numbers, and deep ones with few voxels in their last layers, are compared
            in inference mode.
        replicated: whether it is partitioned with `unsupported="replicate"`, because some of its layers have no rule.
        shapes: the shapes of its inputs without the batch, in their structure, if the model leaves them open.
        rounded: whether it computes something in float32 whatever its inputs are, as TensorFlow does when it resizes
            with interpolation; results then agree only to float32.
        by_policy: whether Keras's dtype policy makes it float64, not `floatx`, because the library's own code fails
            with another `floatx` on one device too; its inputs are float32.
        quick: whether continuous integration runs it; `pytest tests/ecosystem --all-networks` runs all of them.
    """

    make: Callable[[], keras.Model]
    mesh: str = "2x2"
    training: bool = True
    replicated: bool = False
    shapes: Any = None
    rounded: bool = False
    by_policy: bool = False
    quick: bool = False


@dataclass(frozen=True)
class Library:
    """The networks that a library exports.

    Attributes:
        title: the name and version of the library, for the documentation.
        exported: every network that it exports.
        networks: the networks that are compared, by exported name; text after a comma in a name distinguishes cases.
        left_out: for each reason, the names of the networks that are left out, separated by spaces.
    """

    title: str
    exported: frozenset[str]
    networks: Mapping[str, Network]
    left_out: Mapping[str, str]

    @property
    def compared(self) -> set[str]:
        """The exported names that at least one case compares."""
        return {exported_name(case) for case in self.networks}

    @property
    def reasons(self) -> dict[str, str]:
        """Why a network is left out, by its exported name."""
        return {name: reason for reason, names in self.left_out.items() for name in names.split()}


def exported_name(case: str) -> str:
    """The exported name in a case's name, `"UNet"` of `"UNet, 3D, transposed convolutions"`."""
    return case.split(",")[0]


def exported_models(module: Any) -> frozenset[str]:
    """The names of a module's public model classes."""
    return frozenset(
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and isinstance(value, type) and issubclass(value, keras.Model)
    )


def release(version: str) -> str:
    """`"0.32"` of `"0.32.1"`: a corrected release changes no page."""
    return ".".join(version.split(".")[:2])
