"""Compute the voxels of a patient box by box, so that a volume of 512 x 512 x 512 takes no more memory than a block."""

from collections.abc import Sequence

import numpy as np

from datasets.phantom import fields
from datasets.phantom.anatomy import Ellipsoid, Patient, Tube, gallbladder, liver_depth

Shape = tuple[int, int, int]

AIR, LUNG, FAT = -1000.0, -820.0, -100.0
# The largest displacement in mm, by which the boxes around organs are enlarged.
_BEND, _DETAIL = 9.0, 3.0
_REACH = _BEND + _DETAIL + 4.0
# The number of voxels that are computed at a time. About 20 float64 arrays of this size exist at once: 150 MB.
_VOXELS = 1_000_000


def spacing(patient: Patient, size: Shape) -> tuple[float, float, float]:
    """The voxel size in mm: the field of view divided by the number of voxels.

    With 512 x 512 x 512 voxels, it is in the range of LiTS: 0.6 to 0.85 mm within a slice, and 0.45 to 0.6 mm between
    slices. With 64 x 64 x 64 voxels, it is 5 to 7 mm and 3.6 to 4.7 mm: the same patient has larger voxels.
    """
    x, y, z = (f / n for f, n in zip(patient.field, size, strict=True))
    return x, y, z


def render(patient: Patient, size: Shape, start: Sequence[int] = (0, 0, 0), stop: Sequence[int] | None = None):
    """Compute the voxels from `start` to before `stop` of a scan of `size` voxels.

    Args:
        patient: the patient of `anatomy.patient`.
        size: the number of voxels of the whole volume along x (right), y (front) and z (up).
        start: the first voxel.
        stop: the voxel after the last one; `size` by default.

    Returns:
        HU, int16 `[stop - start]`, and labels, uint8 of the same shape: 0 background, 1 liver, 2 lesion.
    """
    stop = size if stop is None else stop
    shape = [b - a for a, b in zip(start, stop, strict=True)]
    hu, labels = np.empty(shape, np.int16), np.empty(shape, np.uint8)
    slab = max(1, _VOXELS // (shape[0] * shape[1]))
    for first in range(start[2], stop[2], slab):
        last = min(first + slab, stop[2])
        part = slice(first - start[2], last - start[2])
        hu[:, :, part], labels[:, :, part] = _box(patient, size, (*start[:2], first), (*stop[:2], last))
    return hu, labels


class _Canvas:
    """The HU of one box of voxels, on which organs are painted over each other."""

    def __init__(self, patient: Patient, size: Shape, start: Sequence[int], stop: Sequence[int]):
        self.step = spacing(patient, size)
        corner = (-patient.field[0] / 2, -patient.field[1] / 2, patient.bottom)
        self.axes = [
            (np.arange(a, b) + 0.5) * step + low for a, b, step, low in zip(start, stop, self.step, corner, strict=True)
        ]
        grid = np.meshgrid(*self.axes, indexing="ij", sparse=True)
        self.points = [
            g
            + _BEND * fields.smooth(patient.seed * 16 + a, 75.0, *self.axes)
            + _DETAIL * fields.smooth(patient.seed * 16 + 4 + a, 27.0, *self.axes)
            for a, g in enumerate(grid)
        ]
        self.hu = np.full(self.points[0].shape, AIR)
        # Partial volume: a border crosses a voxel over about its mean width.
        self.width = (self.step[0] + self.step[1] + self.step[2]) / 3

    def box(self, low: Sequence[float], high: Sequence[float]) -> tuple[slice, ...]:
        reach = _REACH + self.width
        return tuple(
            slice(*(int(i) for i in np.searchsorted(axis, (a - reach, b + reach))))
            for axis, a, b in zip(self.axes, low, high, strict=True)
        )

    def cover(self, depth: np.ndarray) -> np.ndarray:
        return np.minimum(np.maximum(depth / self.width + 0.5, 0.0), 1.0)

    def paint(self, depth: np.ndarray, hu: float | np.ndarray, where: tuple[slice, ...] = ()) -> None:
        part = self.hu[where]
        part += (hu - part) * self.cover(depth)

    def solid(self, solid: Ellipsoid | Tube, inside: np.ndarray | None = None) -> None:
        if isinstance(solid, Ellipsoid):
            low = [c - r for c, r in zip(solid.centre, solid.radii, strict=True)]
            high = [c + r for c, r in zip(solid.centre, solid.radii, strict=True)]
        else:
            low = [min(p, q) - solid.radius for p, q in zip(solid.start, solid.stop, strict=True)]
            high = [max(p, q) + solid.radius for p, q in zip(solid.start, solid.stop, strict=True)]
        where = self.box(low, high)
        depth = solid.depth(*(p[where] for p in self.points))
        if inside is not None:
            depth = np.minimum(depth, inside[where])
        self.paint(depth, solid.hu, where)


def _box(patient: Patient, size: Shape, start: Sequence[int], stop: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    canvas = _Canvas(patient, size, start, stop)
    _trunk(canvas, patient)
    for organ in patient.organs:
        canvas.solid(organ)
    liver = liver_depth(patient.liver, *canvas.points)
    bile = gallbladder(patient)
    liver = np.minimum(liver, -bile.depth(*canvas.points))
    canvas.paint(liver, patient.liver_hu)
    canvas.solid(bile)
    for vessel in patient.vessels:
        canvas.solid(vessel, inside=liver)
    labels = (liver > 0).astype(np.uint8)
    for lesion in patient.lesions:
        canvas.solid(lesion, inside=liver)
        labels[(lesion.depth(*canvas.points) > 0) & (labels > 0)] = 2
    hu = canvas.hu
    tissue = canvas.cover((hu + 300.0) / 100.0 * canvas.width)
    # The texture of the tissue, scatter and beam hardening as a slow drift, and noise.
    hu += tissue * 5.0 * fields.smooth(patient.seed * 16 + 8, 9.0, *canvas.axes)
    hu += tissue * 8.0 * fields.smooth(patient.seed * 16 + 9, 240.0, *canvas.axes)
    hu += patient.noise * fields.grain(patient.seed * 16 + 10, start, stop)
    return np.minimum(np.maximum(np.rint(hu), -1024.0), 3071.0).astype(np.int16), labels


def _trunk(canvas: _Canvas, patient: Patient) -> None:
    x, y, z = canvas.points
    half_width, half_depth = patient.body
    u, v = x / half_width, y / half_depth
    radius = np.sqrt(u * u + v * v)
    canvas.paint((1.0 - radius) * half_depth, FAT)
    wall = (0.9 - radius) * half_depth
    canvas.paint(wall, patient.muscle)
    _ribs(canvas, radius * half_depth, 0.85 * half_depth, z + 0.45 * y)
    cavity = (0.8 - radius) * half_depth
    canvas.paint(cavity, FAT + 10)
    # Each lung ends on a dome of the diaphragm; between them lies the mediastinum.
    for side, top in ((1.0, 78.0), (-1.0, 66.0)):
        a, b = (x - side * 70.0) / 80.0, y / 90.0
        dome = z - (top - 60.0 * (a * a + b * b))
        lung = np.minimum(np.minimum(cavity, dome), side * x - 22.0)
        canvas.paint(lung, LUNG + 60.0 * fields.smooth(patient.seed * 16 + 11, 6.0, *canvas.axes))
    _spine(canvas, x, y + 0.66 * half_depth, z)


def _ribs(canvas: _Canvas, radius: np.ndarray, middle: float, height: np.ndarray) -> None:
    # Bone where the slanted height falls into 11 of every 29 mm: three times the distance to the nearest rib's axis.
    phase = height / 29.0
    away = np.abs(phase - np.rint(phase)) * 29.0
    across = radius - middle
    depth = 5.5 - np.sqrt(away * away + across * across)
    canvas.paint(depth, 280.0)
    canvas.paint(depth - 3.0, 120.0)


def _spine(canvas: _Canvas, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> None:
    body = 21.0 - np.sqrt(x * x + y * y)
    canvas.paint(body, 380.0)
    phase = z / 32.0
    disc = (np.abs(phase - np.rint(phase)) * 32.0) - 3.0
    canvas.paint(np.minimum(body - 2.0, disc), 190.0)
    canvas.paint(np.minimum(body, -disc), 90.0)
    u, v = x, y + 28.0
    canvas.paint(9.0 - np.sqrt(u * u + v * v), 30.0)
    arch = 14.0 - np.sqrt(u * u + v * v)
    canvas.paint(np.minimum(arch, -arch + 5.0), 400.0)
