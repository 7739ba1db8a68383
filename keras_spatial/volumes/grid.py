"""The grid on which a data set stores its volumes and on which its networks predict."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel import affines

from keras_spatial.volumes.headers import raise_it
from keras_spatial.volumes.limits import Limits
from keras_spatial.volumes.volume import LimitError, Shape, Volume


@dataclass(frozen=True)
class Grid:
    """A cube of `resolution` voxels over the whole field of view, or voxels of `spacing` mm, or the scan's own grid.

    Attributes:
        resolution: the number of voxels along each axis, from 8 to 2048; or None.
        spacing: the edge of cubic voxels in mm, or the edges along x, y and z, from 0.1 to 20 mm; or None.

    Raises:
        ValueError: if both are given, or one is out of range.

    Example:

    ```python
    shape = ks.volumes.Grid(spacing=1.5).target(volume.array.shape, volume.spacing)
    ```
    """

    resolution: int | None = None
    spacing: float | tuple[float, float, float] | None = None

    def __post_init__(self):
        if self.resolution is not None and self.spacing is not None:
            raise ValueError(
                "expected a resolution, or a spacing, or neither for the scan's own grid. "
                f"Received: resolution={self.resolution}, spacing={self.spacing}"
            )
        if self.resolution is not None and not (isinstance(self.resolution, int) and 8 <= self.resolution <= 2048):
            raise ValueError(f"resolution: expected an integer from 8 to 2048 voxels. Received: {self.resolution!r}")
        if isinstance(self.spacing, Sequence):
            object.__setattr__(self, "spacing", tuple(float(s) for s in self.spacing))
        if self.spacing is not None and not (len(self.edges) == 3 and all(0.1 <= s <= 20 for s in self.edges)):
            raise ValueError(f"spacing: expected 0.1 to 20 mm, once or for x, y and z. Received: {self.spacing!r}")

    def __str__(self) -> str:
        if self.resolution is not None:
            return str(self.resolution)
        if self.spacing is None:
            return "native"
        return "x".join(f"{s:g}" for s in self.edges[: 3 if len(set(self.edges)) > 1 else 1]) + "mm"

    @property
    def edges(self) -> tuple[float, ...]:
        """The edges of a voxel along x, y and z in mm; empty if the spacing does not determine the grid."""
        if self.spacing is None:
            return ()
        return self.spacing if isinstance(self.spacing, tuple) else (self.spacing,) * 3

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The number of voxels along each axis; None if it differs from case to case."""
        return self.resolution, self.resolution, self.resolution

    def target(self, shape: Shape, spacing: tuple[float, float, float]) -> Shape:
        """The shape on this grid of a case with this shape and spacing (mm) in canonical order."""
        if self.resolution is not None:
            return self.resolution, self.resolution, self.resolution
        if self.spacing is None:
            return shape
        x, y, z = (max(1, round(n * s / e)) for n, s, e in zip(shape, spacing, self.edges, strict=True))
        return x, y, z

    def target_of(self, volume: Volume, limits: Limits) -> Shape:
        """The shape of a volume in canonical order on this grid.

        Raises:
            LimitError: if that is more voxels than the limits allow, perhaps because the lengths in the header are not
                in mm.
        """
        x, y, z = volume.array.shape
        target = self.target((x, y, z), volume.spacing)
        if self.spacing is not None and math.prod(target) > limits.grid_voxels:
            raise LimitError(
                f"{volume.name}: expected a grid of at most {limits.grid_voxels} voxels. Received: {target} of {self}, "
                f"for voxels of {[round(s, 4) for s in volume.spacing]} mm there. {raise_it('grid_voxels')}"
            )
        return target

    def as_dict(self) -> dict[str, Any]:
        """The grid as a plain dict, for JSON."""
        return {"resolution": self.resolution, "spacing": list(self.edges) or None}


def resampled_affine(affine: np.ndarray, shape: Shape, target: Shape) -> np.ndarray:
    """The affine after resampling over the same field of view, in which voxel i covers [i/n, (i+1)/n] of an axis.

    Args:
        affine: the affine before resampling, float64 `[4, 4]`, from voxel index to mm.
        shape: the number of voxels along each axis before resampling.
        target: the number of voxels along each axis after resampling.

    Returns:
        The affine after resampling, float64 `[4, 4]`.

    Example:

    ```python
    affine = ks.volumes.resampled_affine(volume.affine, volume.array.shape, (128, 128, 64))
    ```
    """
    factor = np.array(shape) / np.array(target)
    scale = affines.from_matvec(np.diag(factor), (factor - 1) / 2)
    return affine @ scale
