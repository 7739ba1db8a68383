"""Augmentation of partitioned volumes with the transforms of Hou et al. (arXiv 1909.03108) and of the code that they
released.

The seed of an example determines a transform of the whole volume. Each part then computes only its own voxels of the
result, by reading the voxels that land in it: the opposite part for a flip, a neighbourhood for a shift or a shear.
Together the parts are the transform of the whole volume, whatever the partition.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from keras_spatial.data.boxes import Box, Index
from keras_spatial.data.hashing import hashed, normal

Read = Callable[[Box], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Augmentation:
    """The settings of augmentation: which transforms are drawn, and how strong they are.

    Intensities are those that the network gets: 1 is 1024 HU for a windowed CT, and a standard deviation for a z-score.

    Attributes:
        flips: whether to mirror x, y and z, each with probability 1/2; or a text with some of the axes, such as "x" if
            left and right may be exchanged, but not front and back.
        rotation: whether to rotate by 180 degrees about z, with probability 1/2.
        translation: the largest shift along each axis, as a fraction of the axis's length.
        shear: the largest shear, which is the shift along x (y) as a fraction of the distance from the centre along y
            (z).
        intensity_scale: the largest relative change of the intensity of a class; each class draws its own.
        intensity_shift: the largest shift of the intensity of a class; each class draws its own.
        noise: the largest standard deviation of the noise, which is drawn for single voxels and for cubes of 4x4x4
            voxels.
        corruption: the probability that the voxels outside the liver (label 0) get strong noise with a standard
            deviation of 0.1.
        classes: the number of classes, for the changes of intensity.
        angle: the largest rotation about each axis, in radians; voxels should be cubes.
        zoom: the largest relative change of size; 0.3 draws factors from 1 / 1.3 to 1.3.
        gamma: the largest change of the exponent of the intensity; 0.5 draws exponents from 1 / 1.5 to 1.5.
        occasional: the probability of each of rotation by `angle`, zoom and gamma.
        bounds: the lowest and the highest intensity, to which values are clipped; None for z-scores, which have no
            bounds.

    Raises:
        ValueError: if an attribute is out of range.

    Example:

    ```python
    store = ks.data.Store("data/lits/64/2.0.0", "train")
    transform = ks.data.Augmentation(flips="x", noise=0.02).draw(seed=7)

    def read(box):
        return store.read(0, box)

    image, label = transform.apply(read, ks.data.Box((0, 0, 0), (32, 64, 64)), (64, 64, 64))
    ```
    """

    flips: bool | str = True
    rotation: bool = True
    translation: float = 0.0
    shear: float = 0.0
    intensity_scale: float = 0.0
    intensity_shift: float = 0.0
    noise: float = 0.0
    corruption: float = 0.0
    classes: int = 3
    angle: float = 0.0
    zoom: float = 0.0
    gamma: float = 0.0
    occasional: float = 1.0
    bounds: tuple[float, float] | None = (0.0, 1.0)

    def __post_init__(self) -> None:
        fractions = ("translation", "shear", "intensity_scale", "intensity_shift", "noise", "corruption")
        for field in (*fractions, "angle", "zoom", "gamma", "occasional"):
            value = getattr(self, field)
            if not 0 <= value <= 1:
                raise ValueError(f"{field}: expected a number from 0 to 1. Received: {value!r}")
        if isinstance(self.flips, str) and not set(self.flips) <= set("xyz"):
            raise ValueError(f"flips: expected True, False or some of the axes x, y, z. Received: {self.flips!r}")
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise ValueError(f"bounds: expected a lowest and a highest value, or None. Received: {self.bounds!r}")
        if self.gamma and (self.bounds is None or self.bounds[0] < 0):
            raise ValueError(
                f"gamma: expected bounds that begin at 0 or above, because gamma is an exponent. Received: "
                f"gamma={self.gamma}, bounds={self.bounds}"
            )
        if self.classes < 1:
            raise ValueError(f"classes: expected at least 1. Received: {self.classes!r}")

    def draw(self, seed: int) -> "Transform":
        """Draw the transform of one example. The same seed gives the same transform in every process."""
        bits = iter(hashed(np.arange(32 + 2 * self.classes, dtype=np.uint64), seed).tolist())

        def uniform(bound: float) -> float:
            return bound * (2 * next(bits) / 2**64 - 1)

        def coin() -> bool:
            return next(bits) < 2**63

        def factor(bound: float) -> float:
            return (1 + bound) ** uniform(1.0) if drawn() else 1.0

        def drawn() -> bool:
            return next(bits) / 2**64 < self.occasional

        axes = self.flips if isinstance(self.flips, str) else "xyz" if self.flips else ""
        flips = [coin() and axis in axes for axis in "xyz"]
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
            # These are drawn last, so that an augmentation without them still draws the same numbers as before.
            angles=(uniform(self.angle), uniform(self.angle), uniform(self.angle)) if drawn() else (0.0, 0.0, 0.0),
            zoom=factor(self.zoom),
            gamma=factor(self.gamma),
            bounds=self.bounds,
        )


@dataclass(frozen=True)
class Transform:
    """One drawn transform: first geometry, then the intensity of each class, then noise. See `Augmentation`."""

    flips: tuple[bool, bool, bool] = (False, False, False)
    translation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    shear: tuple[float, float] = (0.0, 0.0)
    noise: tuple[float, float] = (0.0, 0.0)
    corrupted: bool = False
    scale: tuple[float, ...] = ()
    shift: tuple[float, ...] = ()
    seed: int = 0
    angles: tuple[float, float, float] = (0.0, 0.0, 0.0)
    zoom: float = 1.0
    gamma: float = 1.0
    bounds: tuple[float, float] | None = (0.0, 1.0)

    def apply(self, read: Read, box: Box, shape: Index) -> tuple[np.ndarray, np.ndarray]:
        """Compute the voxels of `box` of the transformed volume.

        Args:
            read: a function that reads a box of the original volume: the image `[x, y, z, channels]` and the label
                `[x, y, z]`.
            box: a box of the result, in voxels.
            shape: the shape of the whole volume, in voxels.

        Returns:
            The image, float32 `[x, y, z, channels]` within the bounds, and the label, uint8 `[x, y, z]`.
        """
        mirrored = _mirror(box, shape, self.flips)
        axes = tuple(axis for axis, flip in enumerate(self.flips) if flip)
        image, label = self._warped(read, mirrored, shape)
        image, label = np.flip(image, axes), np.flip(label, axes)
        return self._intensity(image, label, box), np.ascontiguousarray(label)

    def moved(self, place: Index, shape: Index) -> Index:
        """Where a voxel of the original volume ends up in the result; if it has left the volume, the nearest voxel of
        the result.

        Args:
            place: the voxel.
            shape: the shape of the whole volume, in voxels.
        """
        landed = np.array(place, float)
        if self._warps:
            matrix, offset = self._map(shape)
            landed = np.linalg.solve(matrix, landed - offset)
        x, y, z = np.clip(np.rint(landed).astype(int), 0, np.array(shape) - 1).tolist()
        return _mirror(Box((x, y, z), (x + 1, y + 1, z + 1)), shape, self.flips).start

    @property
    def _warps(self) -> bool:
        return any(self.translation) or any(self.shear) or any(self.angles) or self.zoom != 1

    def _map(self, shape: Index) -> tuple[np.ndarray, np.ndarray]:
        """The matrix, float64 `[3, 3]`, and the offset, float64 `[3]`, from a voxel of the mirrored result to the place
        in the original volume from which it comes."""
        matrix = np.eye(3)
        matrix[0, 1], matrix[1, 2] = self.shear
        matrix = matrix @ _turn(self.angles) / self.zoom
        centre = (np.array(shape) - 1) / 2
        return matrix, centre - matrix @ centre + np.array(self.translation) * shape

    def _warped(self, read: Read, box: Box, shape: Index) -> tuple[np.ndarray, np.ndarray]:
        if not self._warps:
            return read(box)
        matrix, offset = self._map(shape)
        # The original voxels that land in the box, with one more voxel on each side for the interpolation.
        corners = np.array(np.meshgrid(*zip(box.start, np.array(box.stop) - 1, strict=True))).reshape(3, -1)
        places = matrix @ corners + offset[:, None]
        low = np.clip(np.floor(places.min(1)).astype(int) - 1, 0, np.array(shape) - 1)
        high = np.clip(np.ceil(places.max(1)).astype(int) + 2, low + 1, shape)
        image, label = read(Box(tuple(low.tolist()), tuple(high.tolist())))
        # Positions are computed in the coordinates of the whole volume, so that every part rounds them equally.
        index = np.meshgrid(*(np.arange(a, b) for a, b in zip(box.start, box.stop, strict=True)), indexing="ij")
        inside = np.ones(box.shape, bool)
        positions = []
        for axis in range(3):
            place = offset[axis] + sum(matrix[axis, k] * index[k] for k in range(3) if matrix[axis, k])
            inside &= (place > -0.5) & (place < shape[axis] - 0.5)
            positions.append(np.clip(place, 0, shape[axis] - 1) - low[axis])
        moved = np.stack(
            [
                ndimage.map_coordinates(channel, positions, order=1, mode="nearest")
                for channel in np.moveaxis(image, -1, 0)
            ],
            axis=-1,
        )
        marked = ndimage.map_coordinates(label, positions, order=0, mode="nearest")
        # Voxels from outside the volume are 0: air in a windowed CT, the mean of a z-score.
        return np.where(inside[..., None], moved, 0).astype(np.float32), np.where(inside, marked, 0).astype(np.uint8)

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
        result = result if self.bounds is None else np.clip(result, *self.bounds, out=result)
        return result if self.gamma == 1 else result ** np.float32(self.gamma)


def _turn(angles: tuple[float, float, float]) -> np.ndarray:
    """The matrix, float64 `[3, 3]`, of a rotation about x, then y, then z, each by its angle in radians."""
    result = np.eye(3)
    for axis, angle in enumerate(angles):
        if angle:
            first, second = (axis + 1) % 3, (axis + 2) % 3
            about = np.eye(3)
            about[first, first] = about[second, second] = np.cos(angle)
            about[first, second], about[second, first] = -np.sin(angle), np.sin(angle)
            result = about @ result
    return result


def _mirror(box: Box, shape: Index, flips: tuple[bool, bool, bool]) -> Box:
    pairs = [
        (n - b, n - a) if flip else (a, b) for a, b, n, flip in zip(box.start, box.stop, shape, flips, strict=True)
    ]
    (x0, x1), (y0, y1), (z0, z1) = pairs
    return Box((x0, y0, z0), (x1, y1, z1))


PAPER = Augmentation()
"""The default of the released code: only flips along the three axes and half a turn about z."""

STRONG = dataclasses.replace(
    PAPER, translation=0.05, shear=0.1, intensity_scale=0.05, intensity_shift=0.03, noise=0.03, corruption=0.2
)
"""All transforms of the released code. The paper states no strengths; ours keep the anatomy plausible."""

NNUNET = Augmentation(rotation=False, angle=0.52, zoom=0.3, gamma=0.5, noise=0.03, occasional=0.3)
"""Transforms like nnU-Net's (Isensee et al., Nature Methods 18, 2021): rotations by up to 30 degrees, zoom, gamma,
noise and flips. Its blur and low resolution, which read beyond a part, and its contrast, which reads the whole volume,
are left out."""
