"""One case: from its two NIfTI files to the packed blocks of the data set, kept on disk until they are stored.

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

from datasets.blocks import BlockGrid, Index
from datasets.lits.cases import Case, read_case
from keras_spatial.data.packing import Packed, pack
from keras_spatial.volumes import Shape, VolumeError, hu_window, resample_image, resample_labels, to_canonical

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
    """A converted case on disk: `blocks.bin`, packed blocks one after the other, and `facts.json` about them."""

    folder: Path
    facts: dict[str, Any]

    @property
    def error(self) -> tuple[str, str] | None:
        """Class name and message, where the case could not be used."""
        error = self.facts.get("error")
        return (error[0], error[1]) if error else None

    def block(self, index: Index) -> tuple[Packed, Packed]:
        """Image, float16 `[x, y, z, 1]` from 0 to 1, and label, uint8 `[x, y, z]`, of one block."""
        facts = self.facts["blocks"]["_".join(map(str, index))]
        shape = tuple(facts["shape"])
        with (self.folder / "blocks.bin").open("rb") as file:
            file.seek(facts["offset"])
            image, label = (file.read(facts[name]) for name in ("image", "label"))
        return Packed(image, (*shape, 1)), Packed(label, shape)


@dataclass(frozen=True)
class Target:
    """What cases are converted to, and where the result is kept.

    Attributes:
        grid: the voxels.
        blocks: how they are divided.
        store: folder of the results.
    """

    grid: Grid
    blocks: BlockGrid
    store: str

    @property
    def folder(self) -> Path:
        """The cases of this grid in these blocks."""
        return Path(self.store) / f"{self.grid}-blocks-{self.blocks}"


def convert(case: Case, target: Target) -> Converted:
    """Check a case, bring it into RAS order and onto the grid, and keep its packed blocks.

    A case that cannot be used is kept as its error, so that all of them can be reported at once.
    """
    done = find(case, target)
    if done is not None and done.error is None:
        return done
    folder = _folder(case, target)
    part = folder.with_name(f".part-{folder.name}-{uuid.uuid4().hex}")
    part.mkdir(parents=True)
    try:
        facts: dict[str, Any] = {"sources": _sources(case)}
        try:
            facts |= _blocks(case, target, part)
        except VolumeError as error:
            facts["error"] = [type(error).__name__, str(error)]
        (part / "facts.json").write_text(json.dumps(facts, indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Converted(folder, facts)


def find(case: Case, target: Target) -> Converted | None:
    """The converted case, or None if it is not there or its files have changed since."""
    path = _folder(case, target) / "facts.json"
    if not path.is_file():
        return None
    facts = json.loads(path.read_text())
    return Converted(path.parent, facts) if facts["sources"] == _sources(case) else None


def _folder(case: Case, target: Target) -> Path:
    return target.folder / f"case-{case.number}"


def _sources(case: Case) -> list[list[int]]:
    stats = [path.stat() for path in (case.volume, case.segmentation)]
    return [[stat.st_size, stat.st_mtime_ns] for stat in stats]


def _blocks(case: Case, target: Target, folder: Path) -> dict[str, Any]:
    volume, labels = read_case(case)
    volume, labels = to_canonical(volume), to_canonical(labels)
    shape = target.grid.target(_shape(volume.array), volume.spacing)
    label = resample_labels(labels.array, shape)
    hu = volume.array
    if hu.min() < _AIR or hu.max() > _METAL:
        hu = np.clip(hu, _AIR, _METAL)
    # Whole HU, as scanners give them: the window then has 1025 values, all of them exact in float16.
    image = np.rint(resample_image(hu, shape)) if hu.shape != shape or hu.dtype.kind == "f" else hu
    blocks = {}
    with (folder / "blocks.bin").open("wb") as file:
        for index in target.blocks.indices():
            part = target.blocks.slices(index, shape)
            packed = pack(hu_window(image[part]).astype(np.float16)[..., None]), pack(label[part])
            sizes = {"image": len(packed[0].data), "label": len(packed[1].data)}
            blocks["_".join(map(str, index))] = {"offset": file.tell(), **sizes, "shape": packed[1].shape}
            file.writelines(p.data for p in packed)
    return {
        "case": case.name,
        "shape": list(shape),
        "blocks": blocks,
        "affine": resampled_affine(volume.affine, _shape(volume.array), shape).tolist(),
        "spacing": [s * n / m for s, n, m in zip(volume.spacing, volume.array.shape, shape, strict=True)],
        "original_shape": list(volume.array.shape),
        "checksum": _checksum(case.volume),
    }


def _shape(array: np.ndarray) -> Shape:
    x, y, z = array.shape
    return x, y, z


def resampled_affine(affine: np.ndarray, shape: Shape, target: Shape) -> np.ndarray:
    """The affine after resampling over the same field of view, whose voxel i covers [i/n, (i+1)/n] of the axis."""
    factor = np.array(shape) / np.array(target)
    scale = affines.from_matvec(np.diag(factor), (factor - 1) / 2)
    return affine @ scale


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
