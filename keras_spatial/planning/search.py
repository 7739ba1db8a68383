"""Search for the smallest mesh on which a model fits."""

import math
from collections.abc import Iterator, Sequence

import keras

from keras_spatial.distribution import SpatialParallel
from keras_spatial.mesh import device_mesh
from keras_spatial.planning.plan import Plan, plan
from keras_spatial.planning.sizes import readable


class NothingFits(ValueError):
    """No mesh of the allowed size has devices large enough; the message says why."""


def smallest_mesh(
    model: keras.Model,
    memory: int,
    *,
    most_devices: int = 256,
    batch_size: int = 1,
    dtype: str | None = None,
    training: bool = True,
    input_shape: Sequence[int] | None = None,
) -> Plan:
    """The plan of the smallest mesh on which a step fits, of 1, 2, 4, 8 ... devices, with the image split evenly.

    Args:
        model: any Keras model.
        memory: the bytes of one device.
        most_devices: the largest mesh to try.
        batch_size, dtype, training, input_shape: as for `ks.plan`.

    Raises:
        NothingFits: if the largest mesh is too small; it says what takes the memory.

    Example:

    ```python
    model = ks.models.UNet3D((128, 128, 128, 1), classes=3, levels=2)
    print(ks.planning.smallest_mesh(model, ks.planning.parse_size("2GB")))
    ```
    """
    rank = len(model.inputs[0].shape) - 2
    options = {"batch_size": batch_size, "dtype": dtype, "training": training, "input_shape": input_shape}
    best = None
    for count in _counts(most_devices):
        if best is not None and count * memory < best.devices * best.activations / 4:
            continue  # Far too small: in all, a step holds at least as much as on a smaller mesh.
        best = plan(model, even_distribution(count, rank), **options)
        if best.fits(memory):
            return best
        if best.weights + best.optimizer > memory:
            break
    assert best is not None
    raise NothingFits(
        f"No mesh of up to {most_devices} devices with {readable(memory)} each is enough.\n{best.explain(memory)}"
    )


def even_distribution(devices: int, rank: int) -> SpatialParallel:
    """A mesh over which the image axes are split as evenly as possible. Its devices need not exist.

    Args:
        devices: the number of devices, a power of two.
        rank: the number of image axes.
    """
    shape, layout = even_mesh(devices, rank)
    return SpatialParallel(device_mesh(shape, devices=["cpu:0"] * devices), layout)


def even_mesh(devices: int, rank: int) -> tuple[dict[str, int], dict[str, str]]:
    """The shape and the layout of the mesh of `even_distribution`."""
    parts = [1] * min(rank, 2 if devices <= 256 else 3)
    for i in range(int(math.log2(devices))):
        parts[i % len(parts)] *= 2
    names, axes = ("rows", "columns", "slices"), ("x", "y", "z")
    used = [(n, a, p) for n, a, p in zip(names, axes, parts, strict=False) if p > 1] or [("rows", "x", 1)]
    return {n: p for n, _, p in used}, {a: n for n, a, _ in used}


def _counts(most: int) -> Iterator[int]:
    count = 1
    while count <= most:
        yield count
        count *= 2
