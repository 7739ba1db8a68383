"""The patients: where the organs are, how dense they are, and which lesions the liver has. Lengths are in mm, densities
in HU.

Coordinates are those of the patient (RAS: x to the right, y to the front, z up), with z = 0 at half the liver's height.
Organs are ellipsoids; `render` bends them with a smooth random displacement.

The numbers are those of textbook adult anatomy and portal-venous CT, chosen so that organs overlap in HU as in real
scans: liver 80 to 130 HU beside spleen, kidneys, heart and vessels of the same density; lesions as dense as muscle and
bowel.

A LiTS case has 0 to 12 tumours (Bilic et al., Medical Image Analysis 84:102680, PMC10631490). Diameters are log-normal
here (median 14 mm, sigma 0.6), limited to 3 to 60 mm. One large lesion (log-normal, median 46 mm, limited to 36 to 60
mm) comes first, except in "hard" cases, so that a volume of 64 voxels along each axis has a lesion that is several
voxels wide.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

Difficulty = Literal["easy", "medium", "hard"]
Point = tuple[float, float, float]

# The orientations of LiTS volumes: mostly LAS, the scanner's order, and RAS and LPS among them.
ORIENTATIONS = ("LPS", "LAS", "RAS", "RPS", "LAI")


@dataclass(frozen=True)
class Level:
    """The parameters of a difficulty: the noise's standard deviation in HU, the lesions' contrast in HU, and their
    number.
    """

    noise: float
    contrast: tuple[float, float]
    lesions: tuple[int, int]
    large_lesion: bool


LEVELS: dict[str, Level] = {
    "easy": Level(noise=8, contrast=(50, 80), lesions=(1, 4), large_lesion=True),
    "medium": Level(noise=10, contrast=(45, 70), lesions=(1, 6), large_lesion=True),
    "hard": Level(noise=25, contrast=(15, 40), lesions=(1, 12), large_lesion=False),
}


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid: centre and radii in mm, density in HU."""

    centre: Point
    radii: Point
    hu: float

    def depth(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Roughly the distance to the surface in mm, positive inside and negative outside."""
        u, v, w = ((p - c) / r for p, c, r in zip((x, y, z), self.centre, self.radii, strict=True))
        return (1.0 - np.sqrt(u * u + v * v + w * w)) * min(self.radii)


@dataclass(frozen=True)
class Tube:
    """A straight vessel between two points, with a radius in mm and a density in HU."""

    start: Point
    stop: Point
    radius: float
    hu: float

    def depth(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """The distance to the surface in mm, positive inside and negative outside."""
        a, b, c = (q - p for p, q in zip(self.start, self.stop, strict=True))
        x, y, z = x - self.start[0], y - self.start[1], z - self.start[2]
        t = (x * a + y * b + z * c) / (a * a + b * b + c * c)
        t = np.minimum(np.maximum(t, 0.0), 1.0)
        x, y, z = x - t * a, y - t * b, z - t * c
        return self.radius - np.sqrt(x * x + y * y + z * z)


@dataclass(frozen=True)
class Patient:
    """Everything that `render` needs, except the voxel grid.

    Attributes:
        seed: the seed of the displacement, the texture and the noise.
        body: half the width and half the depth of the trunk in mm.
        organs: the organs, which are painted over each other in this order.
        liver: the lobes; together they are the liver.
        vessels: tubes inside the liver, which are labelled as liver, as in LiTS.
        lesions: ellipsoids, of which only the part inside the liver counts.
        liver_hu: the density of the liver in HU.
        muscle: the density of the muscles in HU.
        noise: the standard deviation of the noise in HU.
        field: the width, depth and height of the field of view in mm.
        bottom: the z coordinate of the field of view's lower face in mm.
        orientation: the axis codes in which the file is stored.
    """

    seed: int
    body: tuple[float, float]
    organs: tuple[Ellipsoid, ...]
    liver: tuple[Ellipsoid, ...]
    liver_hu: float
    vessels: tuple[Tube, ...]
    lesions: tuple[Ellipsoid, ...]
    muscle: float
    noise: float
    field: Point
    bottom: float
    orientation: str


class _Dice:
    """Random numbers rounded to 1/1024, so that the last bit of a machine's logarithm does not matter."""

    def __init__(self, seed: int):
        self.generator = np.random.Generator(np.random.Philox(seed))

    def between(self, low: float, high: float) -> float:
        return round((low + (high - low) * self.generator.random()) * 1024) / 1024

    def whole(self, low: int, high: int) -> int:
        return low + min(int(self.generator.random() * (high - low + 1)), high - low)

    def log_normal(self, median: float, sigma: float, low: float, high: float) -> float:
        # The sum of twelve uniform numbers is nearly normal, and needs no logarithm.
        normal = sum(self.generator.random() for _ in range(12)) - 6.0
        return round(float(np.clip(median * np.exp(sigma * normal), low, high)) * 1024) / 1024

    def organ(self, centre: Point, radii: Point, hu: tuple[float, float], shift: float = 6, size: float = 0.12):
        grow = self.between(1 - size, 1 + size)
        x, y, z = (c + self.between(-shift, shift) for c in centre)
        a, b, c = (r * grow * self.between(1 - size / 2, 1 + size / 2) for r in radii)
        return Ellipsoid((x, y, z), (a, b, c), self.between(*hu))


def patient(number: int, seed: int = 0, difficulty: str = "medium") -> Patient:
    """Draw patient `number` of the series `seed`.

    Args:
        number: the number of the case, from 0.
        seed: the seed of the series, from 0.
        difficulty: "easy", "medium" or "hard".

    Raises:
        ValueError: if the number or the seed is negative, or the difficulty is unknown.
    """
    if difficulty not in LEVELS:
        raise ValueError(f"difficulty: expected one of {list(get_args(Difficulty))}. Received: {difficulty!r}")
    if number < 0 or seed < 0:
        raise ValueError(f"number and seed: expected integers from 0. Received: number={number}, seed={seed}")
    level = LEVELS[difficulty]
    key = seed * 1_000_003 + number
    dice = _Dice(key)
    width = dice.between(150, 180)
    body = width, width * dice.between(0.66, 0.74)
    organs = _organs(dice)
    liver_hu = dice.between(80, 130)
    liver = (
        dice.organ((68, -2, 0), (64, 72, 78), (liver_hu, liver_hu)),
        dice.organ((8, 38, 26), (72, 36, 40), (liver_hu, liver_hu), shift=10, size=0.25),
    )
    vessels = tuple(
        Tube(
            (dice.between(15, 30), dice.between(-10, 5), dice.between(-10, 10)),
            (dice.between(20, 110), dice.between(-40, 50), dice.between(-40, 60)),
            dice.between(2.5, 6),
            liver_hu + dice.between(20, 50),
        )
        for _ in range(dice.whole(4, 8))
    )
    zoom = dice.between(1.06, 1.2)
    height = dice.between(230, 300)
    return Patient(
        seed=key,
        body=body,
        organs=organs,
        liver=liver,
        liver_hu=liver_hu,
        vessels=vessels,
        lesions=_lesions(dice, level, liver, liver_hu),
        muscle=dice.between(50, 70),
        noise=level.noise * dice.between(0.8, 1.2),
        field=(2 * width * zoom, 2 * width * zoom, height),
        bottom=-height / 2 + dice.between(-10, 10),
        orientation=ORIENTATIONS[dice.whole(0, len(ORIENTATIONS) - 1)],
    )


def _organs(dice: _Dice) -> tuple[Ellipsoid, ...]:
    blood = dice.between(110, 160)
    kidney = dice.between(110, 190)
    bowel = [
        dice.organ(
            (dice.between(-90, 90), dice.between(0, 60), dice.between(-150, -70)),
            (dice.between(16, 30), dice.between(14, 24), dice.between(16, 30)),
            (20, 110),
        )
        for _ in range(14)
    ]
    gas = [Ellipsoid((x, y + b * 0.5, z), (a * 0.5, b * 0.4, c * 0.5), -850.0) for o in bowel[::4]
           for (x, y, z), (a, b, c) in [(o.centre, o.radii)]]  # fmt: skip
    stomach = dice.organ((-62, 34, 16), (44, 34, 50), (25, 80), shift=8)
    x, y, z = stomach.centre
    bubble = Ellipsoid((x, y + stomach.radii[1] * 0.55, z), (20.0, 9.0, 22.0), -900.0)
    return (
        *bowel,
        *gas,
        dice.organ((-25, 28, 98), (52, 44, 42), (blood - 10, blood + 10)),  # heart
        dice.organ((38, -66, -90), (19, 19, 70), (50, 70)),  # psoas muscles
        dice.organ((-38, -66, -90), (19, 19, 70), (50, 70)),
        dice.organ((-10, 14, -34), (58, 13, 15), (75, 115)),  # pancreas
        dice.organ((-10, -38, 0), (11, 11, 400), (blood, blood), shift=3),  # aorta
        stomach,
        bubble,
        dice.organ((-96, -34, 14), (28, 44, 48), (85, 135)),  # spleen
        dice.organ((-62, -54, -52), (25, 25, 52), (kidney, kidney)),
        dice.organ((64, -54, -66), (25, 25, 50), (kidney, kidney)),
    )


def gallbladder(patient: Patient) -> Ellipsoid:
    """The gallbladder: bile of 10 HU in a groove of the liver's lower face. It is dark and beside the liver, but no
    lesion.
    """
    x, y, z = patient.liver[0].centre
    _, b, c = patient.liver[0].radii
    return Ellipsoid((x - 18, y + 0.55 * b, z - 0.72 * c), (14.0, 17.0, 24.0), 10.0)


def liver_depth(liver: tuple[Ellipsoid, ...], x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Roughly the distance to the liver's surface in mm, positive inside and negative outside."""
    right, left = (lobe.depth(x, y, z) for lobe in liver)
    return np.maximum(right, left)


def _lesions(dice: _Dice, level: Level, liver: tuple[Ellipsoid, ...], liver_hu: float) -> tuple[Ellipsoid, ...]:
    sizes = [dice.log_normal(14, 0.6, 3, 60) for _ in range(dice.whole(*level.lesions))]
    if level.large_lesion:
        sizes.insert(0, dice.log_normal(46, 0.15, 36, 60))
    lesions = []
    for index, diameter in enumerate(sizes):
        radius = diameter / 2
        # The part of a lesion that sticks out of the liver is cut off, as at a capsule.
        while True:
            lobe = liver[0] if radius > 12 or dice.between(0, 1) < 0.7 else liver[1]
            x, y, z = (c + r * dice.between(-0.9, 0.9) for c, r in zip(lobe.centre, lobe.radii, strict=True))
            # The lowest sixth of the liver lies on the gallbladder and the kidney.
            if lobe.depth(*(np.array(p) for p in (x, y, z))) > min(0.75 * radius + 3, 24) and z > -50:
                break
        hyperdense = index > 0 and dice.between(0, 1) < 0.1
        contrast = dice.between(*level.contrast)
        a, b, c = (min(max(radius * dice.between(0.85, 1.15), 1.5), 30.0) for _ in range(3))
        lesions.append(Ellipsoid((x, y, z), (a, b, c), liver_hu + (contrast if hyperdense else -contrast)))
    return tuple(lesions)
