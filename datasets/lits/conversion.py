"""One case: from its two NIfTI files to an image and labels on the grid of the data set, kept on disk until stored.

A case that was converted is not converted again when a build is repeated after a failure: its folder appears under its
name only when it is complete, and says which files it was made of.
"""

import hashlib
import json
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nibabel import affines

from datasets.lits.cases import Case, read_case
from keras_spatial.volumes import Shape, VolumeError, resample_image, resample_labels, to_canonical

# Scanners mark voxels outside their circle with -2000 or -3024 HU; averaged, that would spread into the body.
_AIR, _METAL = -1024, 3071
# Folder of the converted cases, beside the configurations of the data set.
STORE = "converted"


@dataclass(frozen=True)
class Grid:
    """The voxels of the data set: a cube of `resolution` voxels, or cubic voxels of `spacing` mm, or the scan's own."""

    resolution: int | None = None
    spacing: float | None = None

    def __post_init__(self):
        if self.resolution is not None and self.spacing is not None:
            raise ValueError(
                "expected a resolution, or a spacing, or neither for the scan's own grid. "
                f"Received: resolution={self.resolution}, spacing={self.spacing}"
            )
        if self.resolution is not None and not (isinstance(self.resolution, int) and 8 <= self.resolution <= 2048):
            raise ValueError(f"resolution: expected an integer from 8 to 2048 voxels. Received: {self.resolution!r}")
        if self.spacing is not None and not 0.1 <= self.spacing <= 20:
            raise ValueError(f"spacing: expected 0.1 to 20 mm. Received: {self.spacing!r}")

    def __str__(self) -> str:
        if self.resolution is not None:
            return str(self.resolution)
        return "native" if self.spacing is None else f"{self.spacing:g}mm"

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Voxels along each axis, None where it differs from case to case."""
        return self.resolution, self.resolution, self.resolution

    def target(self, shape: Shape, spacing: tuple[float, float, float]) -> Shape:
        """Voxels of a case with this shape and spacing (mm) in canonical order; the field of view stays."""
        if self.resolution is not None:
            return self.resolution, self.resolution, self.resolution
        if self.spacing is None:
            return shape
        x, y, z = (max(1, round(n * s / self.spacing)) for n, s in zip(shape, spacing, strict=True))
        return x, y, z


@dataclass(frozen=True)
class Converted:
    """A converted case on disk: `image.npy` (HU, int16), `label.npy` (uint8), and what `facts.json` says about it."""

    folder: Path
    facts: dict[str, Any]

    @property
    def error(self) -> tuple[str, str] | None:
        """Class name and message, where the case could not be used."""
        error = self.facts.get("error")
        return (error[0], error[1]) if error else None

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """HU, int16, and labels, uint8, `[X, Y, Z]`, mapped and not read."""
        image, label = (np.lib.format.open_memmap(self.folder / f"{name}.npy", "r") for name in ("image", "label"))
        return image, label


def convert(case: Case, grid: Grid, store: str | Path) -> Converted:
    """Check a case, bring it into RAS order and onto the grid, and keep it under `store`.

    A case that cannot be used is kept as its error, so that all of them can be reported at once.
    """
    done = find(case, grid, store)
    if done is not None and done.error is None:
        return done
    folder = _folder(case, grid, store)
    part = folder.with_name(f".part-{folder.name}-{uuid.uuid4().hex}")
    part.mkdir(parents=True)
    try:
        facts: dict[str, Any] = {"sources": _sources(case)}
        try:
            facts |= _arrays(case, grid, part)
        except VolumeError as error:
            facts["error"] = [type(error).__name__, str(error)]
        (part / "facts.json").write_text(json.dumps(facts, indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Converted(folder, facts)


def find(case: Case, grid: Grid, store: str | Path) -> Converted | None:
    """The converted case, or None if it is not there or its files have changed since."""
    path = _folder(case, grid, store) / "facts.json"
    if not path.is_file():
        return None
    facts = json.loads(path.read_text())
    return Converted(path.parent, facts) if facts["sources"] == _sources(case) else None


def _folder(case: Case, grid: Grid, store: str | Path) -> Path:
    return Path(store) / str(grid) / f"case-{case.number}"


def _sources(case: Case) -> list[list[int]]:
    stats = [path.stat() for path in (case.volume, case.segmentation)]
    return [[stat.st_size, stat.st_mtime_ns] for stat in stats]


def _arrays(case: Case, grid: Grid, folder: Path) -> dict[str, Any]:
    volume, labels = read_case(case)
    volume, labels = to_canonical(volume), to_canonical(labels)
    target = grid.target(volume.array.shape, volume.spacing)
    np.save(folder / "label.npy", resample_labels(labels.array, target))
    hu = volume.array
    if hu.min() < _AIR or hu.max() > _METAL:
        hu = np.clip(hu, _AIR, _METAL)
    np.save(folder / "image.npy", np.rint(resample_image(hu, target)).astype(np.int16))
    return {
        "case": case.name,
        "affine": resampled_affine(volume.affine, volume.array.shape, target).tolist(),
        "spacing": [s * n / m for s, n, m in zip(volume.spacing, volume.array.shape, target, strict=True)],
        "original_shape": list(volume.array.shape),
        "checksum": _checksum(case.volume),
    }


def resampled_affine(affine: np.ndarray, shape: Shape, target: Shape) -> np.ndarray:
    """The affine after resampling over the same field of view, whose voxel i covers [i/n, (i+1)/n] of the axis."""
    factor = np.array(shape) / np.array(target)
    scale = affines.from_matvec(np.diag(factor), (factor - 1) / 2)
    return affine @ scale


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
