"""Augmentation of partitioned volumes: the list of Hou et al. (arXiv 1909.03108) and of its released code.

One seed per example decides a transform of the whole volume. A part then computes just its own voxels of the result, by
reading the voxels that land in it: the mirror-image part for a flip, a neighbourhood for a shift or a shear. Together
the parts are the transform of the whole, whatever the partition.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from keras_spatial.data.hashing import hashed, normal
from keras_spatial.data.store import Box, Index

Read = Callable[[Box], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Augmentation:
    """Which transforms are drawn, and how strong. Intensities are of the windowed image: 1 is 1024 HU.

    Attributes:
        flips: mirror x, y and z, each with probability 1/2.
        rotation: turn by 180 degrees about z, with probability 1/2.
        translation: largest shift along each axis, as a share of its length.
        shear: largest shear: shift along x and y as a share of the distance along the next axis from the centre.
        intensity_scale: largest relative change of the intensity of a class; each class draws its own.
        intensity_shift: largest shift of the intensity of a class; each class draws its own.
        noise: largest standard deviation of the noise, on two scales: single voxels, and cubes of four voxels an axis.
        corruption: probability that the voxels outside the liver (label 0) get strong noise, of standard deviation 0.1.
        classes: number of classes, for the changes of intensity.
    """

    flips: bool = True
    rotation: bool = True
    translation: float = 0.0
    shear: float = 0.0
    intensity_scale: float = 0.0
    intensity_shift: float = 0.0
    noise: float = 0.0
    corruption: float = 0.0
    classes: int = 3

    def __post_init__(self) -> None:
        for field in ("translation", "shear", "intensity_scale", "intensity_shift", "noise", "corruption"):
            value = getattr(self, field)
            if not 0 <= value <= 1:
                raise ValueError(f"{field}: expected a number from 0 to 1. Received: {value!r}")
        if self.classes < 1:
            raise ValueError(f"classes: expected at least 1. Received: {self.classes!r}")

    def draw(self, seed: int) -> "Transform":
        """The transform of one example; the same seed gives the same transform on every process."""
        bits = iter(hashed(np.arange(32 + 2 * self.classes, dtype=np.uint64), seed).tolist())

        def uniform(bound: float) -> float:
            return bound * (2 * next(bits) / 2**64 - 1)

        def coin() -> bool:
            return next(bits) < 2**63

        flips = [coin() and self.flips for _ in range(3)]
        turn = coin() and self.rotation
        return Transform(
            # Half a turn about z mirrors x and y.
            flips=(flips[0] != turn, flips[1] != turn, flips[2]),
            translation=(uniform(self.translation), uniform(self.translation), uniform(self.translation)),
            shear=(uniform(self.shear), uniform(self.shear)),
            noise=(abs(uniform(self.noise)), abs(uniform(self.noise))),
            corrupted=next(bits) / 2**64 < self.corruption,
            scale=tuple(1 + uniform(self.intensity_scale) for _ in range(self.classes)),
            shift=tuple(uniform(self.intensity_shift) for _ in range(self.classes)),
            seed=next(bits),
        )


@dataclass(frozen=True)
class Transform:
    """One drawn transform: geometry first, then intensity of each class, then noise. See `Augmentation`."""

    flips: tuple[bool, bool, bool] = (False, False, False)
    translation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    shear: tuple[float, float] = (0.0, 0.0)
    noise: tuple[float, float] = (0.0, 0.0)
    corrupted: bool = False
    scale: tuple[float, ...] = ()
    shift: tuple[float, ...] = ()
    seed: int = 0

    def apply(self, read: Read, box: Box, shape: Index) -> tuple[np.ndarray, np.ndarray]:
        """The voxels of `box` of the transformed volume.

        Args:
            read: gives image `[x, y, z, 1]` and label `[x, y, z]` of a box of the original.
            box: of the result.
            shape: voxels of the whole volume.

        Returns:
            Image float32 `[x, y, z, 1]` in [0, 1] and label uint8 `[x, y, z]`.
        """
        mirrored = _mirror(box, shape, self.flips)
        axes = tuple(axis for axis, flip in enumerate(self.flips) if flip)
        image, label = self._warped(read, mirrored, shape)
        image, label = np.flip(image, axes), np.flip(label, axes)
        return self._intensity(image, label, box), np.ascontiguousarray(label)

    def _warped(self, read: Read, box: Box, shape: Index) -> tuple[np.ndarray, np.ndarray]:
        if not any(self.translation) and not any(self.shear):
            return read(box)
        matrix = np.eye(3)
        matrix[0, 1], matrix[1, 2] = self.shear
        centre = (np.array(shape) - 1) / 2
        offset = centre - matrix @ centre + np.array(self.translation) * shape
        # The original voxels that land in the box, with a voxel around for the interpolation.
        corners = np.array(np.meshgrid(*zip(box.start, np.array(box.stop) - 1, strict=True))).reshape(3, -1)
        places = matrix @ corners + offset[:, None]
        low = np.clip(np.floor(places.min(1)).astype(int) - 1, 0, np.array(shape) - 1)
        high = np.clip(np.ceil(places.max(1)).astype(int) + 2, low + 1, shape)
        image, label = read(Box(tuple(low.tolist()), tuple(high.tolist())))
        # Positions are computed in the coordinates of the whole volume, so that they round alike in every part.
        index = np.meshgrid(*(np.arange(a, b) for a, b in zip(box.start, box.stop, strict=True)), indexing="ij")
        inside = np.ones(box.shape, bool)
        positions = []
        for axis in range(3):
            place = offset[axis] + sum(matrix[axis, k] * index[k] for k in range(3) if matrix[axis, k])
            inside &= (place > -0.5) & (place < shape[axis] - 0.5)
            positions.append(np.clip(place, 0, shape[axis] - 1) - low[axis])
        moved = ndimage.map_coordinates(image[..., 0], positions, order=1, mode="nearest")
        marked = ndimage.map_coordinates(label, positions, order=0, mode="nearest")
        # What comes from outside the volume is air.
        return np.where(inside, moved, 0).astype(np.float32)[..., None], np.where(inside, marked, 0).astype(np.uint8)

    def _intensity(self, image: np.ndarray, label: np.ndarray, box: Box) -> np.ndarray:
        result = np.array(image, np.float32)
        if any(s != 1 for s in self.scale) or any(self.shift):
            scale, shift = np.array(self.scale, np.float32), np.array(self.shift, np.float32)
            kind = np.minimum(label, scale.size - 1)
            result = result * scale[kind][..., None] + shift[kind][..., None]
        fine, coarse = self.noise
        if fine:
            result += np.float32(fine) * normal(self.seed, box.start, box.stop)[..., None]
        if coarse:
            low, high = [a // 4 for a in box.start], [(b + 3) // 4 for b in box.stop]
            cubes = normal(self.seed + 1, low, high)
            for axis, (a, b) in enumerate(zip(box.start, box.stop, strict=True)):
                cubes = np.take(cubes, np.arange(a, b) // 4 - a // 4, axis)
            result += np.float32(coarse) * cubes[..., None]
        if self.corrupted:
            noise = normal(self.seed + 2, box.start, box.stop)[..., None]
            result += np.where(label[..., None] == 0, np.float32(0.1) * noise, np.float32(0))
        return np.clip(result, 0, 1, out=result)


def _mirror(box: Box, shape: Index, flips: tuple[bool, bool, bool]) -> Box:
    pairs = [
        (n - b, n - a) if flip else (a, b) for a, b, n, flip in zip(box.start, box.stop, shape, flips, strict=True)
    ]
    (x0, x1), (y0, y1), (z0, z1) = pairs
    return Box((x0, y0, z0), (x1, y1, z1))


PAPER = Augmentation()
"""The default of the released code: three flips and half a turn about z, nothing else."""

STRONG = dataclasses.replace(
    PAPER, translation=0.05, shear=0.1, intensity_scale=0.05, intensity_shift=0.03, noise=0.03, corruption=0.2
)
"""Everything on that list, at strengths that leave the anatomy plausible; ours, as the paper states none."""
